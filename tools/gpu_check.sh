#!/usr/bin/env bash
# Proves the project on a GPU in at most six minutes: the tests marked gpu, the recorded DAVIS masks, and the benchmark.
#   tools/gpu_check.sh               with the project's own .venv where it is there, else with PYTHON or python3
#   tools/gpu_check.sh --pack DIR    on a machine with a network: wheels for Python 3.12 that the check needs, into DIR
#   tools/gpu_check.sh --wheels DIR  on a machine without one: installs them beside the tests, for this run alone
# The machine must have PyTorch with CUDA, OpenCV, pandas and pytest. What could not run is said.
set -uo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$ROOT" || exit 2
NEEDED=(onedl-mmengine addict yapf platformdirs termcolor rich markdown-it-py mdurl pygments pyyaml pydantic pydantic-core
    annotated-types typing-extensions typing-inspection safetensors scipy tabulate)
case "${1:-}" in
    --pack)
        mkdir -p "${2:?--pack DIR}"
        exec python3 -m pip download -q --no-deps -d "$2" --only-binary=:all: --python-version 3.12 --implementation cp \
            --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 -c constraints.txt "${NEEDED[@]}" ;;
    --wheels) WHEELS="$(cd "${2:?--wheels DIR}" && pwd)" || exit 2 ;;
    "") ;;
    *) sed -n '2,6s/^# \?//p' "$0"; exit 2 ;;
esac
PYTHON="${PYTHON:-python3}"
[ -x "$ROOT/.venv/bin/python" ] && PYTHON="$ROOT/.venv/bin/python"
WORK="$(mktemp -d)"
trap 'rm -rf "$WORK"' EXIT
if [ -n "${WHEELS:-}" ]; then
    "$PYTHON" -m pip install -q --no-index --find-links "$WHEELS" --no-deps --target "$WORK/site" "$WHEELS"/*.whl || exit 2
fi
mkdir -p "$WORK/site/selfpatch" # the project, imported from this checkout without an installation
for room in pretrain eval reports configs; do ln -sfn "$ROOT/$room" "$WORK/site/selfpatch/$room"; done
export PYTHONPATH="$WORK/site${PYTHONPATH:+:$PYTHONPATH}"
"$PYTHON" - <<'EOF' || exit 2
import importlib.util, sys, torch
if not torch.cuda.is_available():
    sys.exit("error: no CUDA device on this machine: not measured")
print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Python {sys.version.split()[0]}")
lacking = [name for name in ("mmengine", "pydantic", "mmcv", "mmdet", "mmseg") if importlib.util.find_spec(name) is None]
if lacking:
    print(f"not installed: {', '.join(lacking)}; what needs them cannot run and is listed below")
EOF
status=0
timeout 200 "$PYTHON" -m pytest -m gpu -rs -p no:cacheprovider --continue-on-collection-errors tests/gpu tests/pretrain/test_selfpatch.py || status=1
timeout 60 "$PYTHON" -m pytest -rs -p no:cacheprovider tests/eval/tasks/test_davis.py -k golden || status=1
timeout 100 "$PYTHON" tools/bench.py --device cuda || status=1
[ "$status" = 0 ] && echo "gpu check: all that could run has passed" || echo "gpu check: something failed or could not run, see above"
exit "$status"
