#!/usr/bin/env bash
# Score a checkpoint on DAVIS 2017 video object segmentation; --help tells more.
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
exec "$PYTHON" -m selfpatch.eval.command eval davis "$@"
