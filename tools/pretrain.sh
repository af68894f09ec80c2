#!/usr/bin/env bash
# Pretrain a vision transformer with DINO, SelfPatch or MoBY; --help tells more.
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
exec "$PYTHON" -m selfpatch.eval.command pretrain "$@"
