#!/usr/bin/env bash
# Score a checkpoint on every benchmark whose data is there, and print the table; --help tells more.
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
exec "$PYTHON" -m selfpatch.eval.command all "$@"
