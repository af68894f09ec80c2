#!/usr/bin/env bash
# Score a checkpoint on DAVIS 2017 video segmentation: tools/eval_davis.sh CKPT [--data data/DAVIS]
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[[ -x "$root/.venv/bin/python" ]] || { echo "error: no .venv yet: run tools/setup.sh first" >&2; exit 2; }
SELFPATCH_COMMAND="tools/eval_davis.sh" exec "$root/.venv/bin/python" -m selfpatch.eval.run davis "$@"
