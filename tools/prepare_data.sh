#!/usr/bin/env bash
# Look at a data set, after unpacking what was downloaded: tools/prepare_data.sh imagenet|coco|ade20k|davis [--data DIR]
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[[ -x "$root/.venv/bin/python" ]] || { echo "error: no .venv yet: run tools/setup.sh first" >&2; exit 2; }
SELFPATCH_COMMAND="tools/prepare_data.sh" exec "$root/.venv/bin/python" -m selfpatch.eval.prepare "$@"
