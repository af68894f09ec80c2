#!/usr/bin/env bash
# Draw what query patches look at, checkpoints side by side, and score it; --help tells more.
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
exec "$PYTHON" -m selfpatch.eval.command attention "$@"
