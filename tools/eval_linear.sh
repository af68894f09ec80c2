#!/usr/bin/env bash
# Score a checkpoint by linear classification of frozen features; --help tells more.
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
exec "$PYTHON" -m selfpatch.eval.command eval linear "$@"
