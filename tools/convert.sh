#!/usr/bin/env bash
# Write any checkpoint's backbone in another layout: tools/convert.sh CKPT OUT --to selfpatch|mmdet|mmseg|timm
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[[ -x "$root/.venv/bin/python" ]] || { echo "error: no .venv yet: run tools/setup.sh first" >&2; exit 2; }
SELFPATCH_COMMAND="tools/convert.sh" exec "$root/.venv/bin/python" -m selfpatch.eval.convert "$@"
