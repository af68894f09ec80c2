# Sourced by every tool: finds the project and its Python, which tools/setup.sh prepares where it is missing; with
# DENSE=1 its second stage, too, for what needs mmcv's operators.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="$ROOT/.venv/bin/python"
export SELFPATCH_SETUP="$ROOT/tools/setup.sh" # for commands that find out later that they need the second stage
"$SELFPATCH_SETUP" --quiet ${DENSE:+--dense}
export SELFPATCH_COMMAND="tools/$(basename "$0")" # the name that usage lines repeat
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-10000}" # waiting threads spin for microseconds, then sleep: neighbours need the cores
# tensors larger than glibc's 32 MB limit would otherwise be mapped, zeroed and unmapped anew each time: a tenth of a step
export MALLOC_MMAP_MAX_="${MALLOC_MMAP_MAX_:-0}" MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-1000000000000}"
