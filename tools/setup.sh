#!/usr/bin/env bash
# Prepare .venv with everything the project needs. Safe to run again: when nothing changed it takes a second.
#   tools/setup.sh                              with the first of python3.11, 3.12, 3.10 that is found
#   SELFPATCH_PYTHON=/path/to/python tools/setup.sh
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"
STAMP="$VENV/.selfpatch-ready"
QUIET=${1:-}
say() { printf '\033[1m[setup]\033[0m %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 2; }

# What the environment depends on: a change in any of these prepares it anew.
fingerprint() { cat "$ROOT/pyproject.toml" "$ROOT/constraints.txt" "$ROOT/tools/setup.sh" | cksum; echo "$ROOT"; }
if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$(fingerprint)" ]; then
    [ "$QUIET" = --quiet ] || say "ready: $VENV"
    exit 0
fi

supported() { "$1" -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' >/dev/null 2>&1; }
choose_python() {
    if [ -n "${SELFPATCH_PYTHON:-}" ]; then
        supported "$SELFPATCH_PYTHON" || fail "SELFPATCH_PYTHON=$SELFPATCH_PYTHON is not Python 3.10-3.12 with venv"
        echo "$SELFPATCH_PYTHON"
        return
    fi
    for candidate in python3.11 python3.12 python3.10 python3; do
        supported "$candidate" && { command -v "$candidate"; return; }
    done
    fail "no Python 3.10-3.12 with venv found: install one, or name it with SELFPATCH_PYTHON=/path/to/python"
}

if [ ! -x "$VENV/bin/python" ]; then
    chosen="$(choose_python)"
    say "making $VENV with $chosen"
    "$chosen" -m venv "$VENV"
fi
PYTHON="$VENV/bin/python"
pip() { "$PYTHON" -m pip --disable-pip-version-check "$@"; }
quietly() { # run a long command with its output in a log, which is shown only if it fails
    "$@" >"$VENV/setup.log" 2>&1 || { tail -n 30 "$VENV/setup.log" >&2; fail "'$*' failed; the whole log is $VENV/setup.log"; }
}
pinned() { sed -n "s/^$1==\([^ ;]*\).*/\1/p" "$ROOT/constraints.txt" | head -n 1; }

say "installing torch $(pinned torch) and build tools"
quietly pip install "torch==$(pinned torch)"
quietly pip install -c "$ROOT/constraints.txt" 'setuptools>=80' wheel packaging ninja psutil

mmcv="onedl-mmcv==$(pinned onedl-mmcv)"
works() { "$PYTHON" -c 'import mmcv.ops' >/dev/null 2>&1; }
compile_mmcv() { # show one line a compiled file: the build is long, and silence looks like a hang
    if "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then export FORCE_CUDA=1; fi
    MMCV_WITH_OPS=1 MAX_JOBS="${MAX_JOBS:-$(nproc)}" \
        pip install -v --no-build-isolation -c "$ROOT/constraints.txt" "$@" "$mmcv" >"$VENV/setup.log" 2>&1 &
    local build=$! shown="" now
    while kill -0 "$build" 2>/dev/null; do
        now="$(grep -oE '\[[0-9]+/[0-9]+\]' "$VENV/setup.log" | tail -n 1 || true)"
        if [ -n "$now" ] && [ "$now" != "$shown" ]; then
            shown="$now"
            if [ -t 1 ]; then printf '\r[setup] compiled %s files ' "$now"; else
                case "$now" in *[05]/*) say "compiled $now files" ;; esac
            fi
        fi
        sleep 2
    done
    [ -t 1 ] && echo
    wait "$build" || { tail -n 30 "$VENV/setup.log" >&2; fail "mmcv's operators did not build; the whole log is $VENV/setup.log"; }
}
if ! works; then
    say "compiling mmcv's operators: one time, about 13 minutes on 2 cores"
    compile_mmcv
fi

say "installing the other packages and the project"
quietly pip install --no-build-isolation -c "$ROOT/constraints.txt" -e "$ROOT[dev,slurm]"
# mmdet's imaug brings opencv-python beside -headless; they overwrite each other, and the former wants libGL
quietly pip install --force-reinstall --no-deps "opencv-python-headless==$(pinned opencv-python-headless)"
if ! works; then # pip keeps a built wheel by version, whatever torch it was built against
    say "the cached build of mmcv belongs to another torch: compiling anew, about 13 minutes on 2 cores"
    compile_mmcv --force-reinstall --no-deps --no-cache-dir
fi
"$PYTHON" -c 'import mmcv.ops, mmdet, mmseg, selfpatch.pretrain' >"$VENV/setup.log" 2>&1 ||
    { tail -n 5 "$VENV/setup.log" >&2; fail "the installed packages do not import; see above"; }
fingerprint >"$STAMP"
say "ready: $VENV"
