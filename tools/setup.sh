#!/usr/bin/env bash
# Prepare .venv, in two stages. Safe to run again: when nothing changed it takes a second.
#   tools/setup.sh           what pretraining, DAVIS, k-NN, linear, conversion and reports need: about two minutes
#   tools/setup.sh --dense   also what COCO, ADE20K and the tests need: compiles mmcv's operators, about 13 minutes on 2 cores
#   SELFPATCH_PYTHON=/path/to/python tools/setup.sh   instead of the first of python3.11, 3.12, 3.10 that is found
# Every command runs the stage that it needs. Options: --quiet  say nothing when there is nothing to do
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"
PYTHON="$VENV/bin/python"
QUIET="" DENSE=""
say() { printf '\033[1m[setup]\033[0m %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 2; }
for word in "$@"; do
    case "$word" in
        -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$ROOT/tools/setup.sh"; exit 0 ;;
        --quiet) QUIET=1 ;;
        --dense) DENSE=1 ;;
        *) fail "unknown option $word (tools/setup.sh --help)" ;;
    esac
done

supported() { "$1" -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' >/dev/null 2>&1; }
identity() { "$1" -c 'import sys; print(sys.base_prefix, sys.version)' 2>/dev/null; }
if [ -n "${SELFPATCH_PYTHON:-}" ]; then
    supported "$SELFPATCH_PYTHON" || fail "SELFPATCH_PYTHON=$SELFPATCH_PYTHON is not Python 3.10-3.12 with venv"
    if made_with="$(identity "$PYTHON")" && [ "$made_with" != "$(identity "$SELFPATCH_PYTHON")" ]; then
        fail "$VENV was made with another Python than SELFPATCH_PYTHON=$SELFPATCH_PYTHON: remove $VENV, or unset it"
    fi
fi

# What the environment depends on: a change in any of these prepares it anew.
fingerprint() { cat "$ROOT/pyproject.toml" "$ROOT/constraints.txt" "$ROOT/tools/setup.sh" | cksum; echo "$ROOT"; }
is_ready() { [ -x "$PYTHON" ] && [ -f "$VENV/.selfpatch-$1" ] && [ "$(cat "$VENV/.selfpatch-$1")" = "$(fingerprint)" ]; }
leave_if_ready() {
    is_ready ready && { [ -z "$DENSE" ] || is_ready dense; } || return 0
    [ -n "$QUIET" ] || say "ready: $VENV"
    exit 0
}
leave_if_ready

exec 9<"$ROOT/tools/setup.sh" # one set-up at a time; what this one starts holds the lock as well
if command -v flock >/dev/null; then
    flock --nonblock 9 || { say "another set-up is at work in $VENV: waiting for it"; flock 9; }
    leave_if_ready
fi
build="" # the process group of a build in the background, which no Ctrl-C reaches by itself
trap '[ -z "$build" ] || kill -- "-$build" 2>/dev/null || true' EXIT
trap 'echo "stopped: the same command goes on" >&2; exit 130' INT
trap 'exit 143' TERM HUP

choose_python() {
    for candidate in ${SELFPATCH_PYTHON:+"$SELFPATCH_PYTHON"} python3.11 python3.12 python3.10 python3; do
        supported "$candidate" && { command -v "$candidate"; return; }
    done
    fail "no Python 3.10-3.12 with venv found: install one, or name it with SELFPATCH_PYTHON=/path/to/python"
}
export PIP_NO_COMPILE=1 # byte code of what is never imported takes longer than the downloads
pip() { "$PYTHON" -m pip --disable-pip-version-check "$@"; }
has_pip() { pip --version >/dev/null 2>&1; }
if ! has_pip && ! { "$PYTHON" -m ensurepip --upgrade >/dev/null 2>&1 && has_pip; }; then # none yet, or half made
    chosen="$(choose_python)"
    say "making $VENV with $chosen"
    "$chosen" -m venv --clear "$VENV"
fi
quietly() { # run a long command with its output in a log, which is shown only if it fails
    "$@" >"$VENV/setup.log" 2>&1 || { tail -n 30 "$VENV/setup.log" >&2; fail "'$*' failed; the whole log is $VENV/setup.log"; }
}
pinned() { sed -n "s/^$1==\([^ ;]*\).*/\1/p" "$ROOT/constraints.txt" | head -n 1; }

imports() { # modules
    "$PYTHON" -c "import $1" >"$VENV/setup.log" 2>&1 ||
        { tail -n 5 "$VENV/setup.log" >&2; fail "the installed packages do not import; see above"; }
}

if ! is_ready ready; then
    say "installing torch $(pinned torch) and what needs no compiler"
    quietly pip install "torch==$(pinned torch)"
    quietly pip install -c "$ROOT/constraints.txt" 'setuptools>=80' wheel
    quietly pip install --no-build-isolation -c "$ROOT/constraints.txt" -e "$ROOT[slurm]"
    imports "mmengine, cv2, selfpatch.pretrain"
    fingerprint >"$VENV/.selfpatch-ready"
    QUIET=""
fi
leave_if_ready

mmcv="onedl-mmcv==$(pinned onedl-mmcv)"
works() { "$PYTHON" -c 'import mmcv.ops' >/dev/null 2>&1; }
compile_mmcv() { # show one line a compiled file: the build is long, and silence looks like a hang
    if "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then export FORCE_CUDA=1; fi
    set -m # a process group of its own, so that the compilers can be stopped with it
    MMCV_WITH_OPS=1 MAX_JOBS="${MAX_JOBS:-$(nproc)}" \
        pip install -v --no-build-isolation -c "$ROOT/constraints.txt" "$@" "$mmcv" >"$VENV/setup.log" 2>&1 &
    build=$!
    set +m
    local shown="" now
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
    wait "$build" || { build=""; tail -n 30 "$VENV/setup.log" >&2; fail "mmcv's operators did not build; the whole log is $VENV/setup.log"; }
    build=""
}
if ! works; then
    say "compiling mmcv's operators, which COCO, ADE20K and the tests need: one time, about 13 minutes on 2 cores"
    quietly pip install -c "$ROOT/constraints.txt" packaging ninja psutil
    compile_mmcv
fi
say "installing MMDetection, MMSegmentation and what the tests need"
quietly pip install --no-build-isolation -c "$ROOT/constraints.txt" -e "$ROOT[dense,dev,slurm]"
# mmdet's imaug brings opencv-python beside -headless; they overwrite each other, and the former wants libGL
quietly pip install --force-reinstall --no-deps "opencv-python-headless==$(pinned opencv-python-headless)"
# what tests compare checkpoints with; torchvision stands apart, since its operators do not load beside a CPU torch
quietly pip install -c "$ROOT/constraints.txt" "transformers==$(pinned transformers)"
quietly pip install --no-deps "timm==$(pinned timm)"
quietly pip install --no-deps --upgrade --target "$VENV/interop" "torchvision==$(pinned torchvision)"
if ! works; then # pip keeps a built wheel by version, whatever torch it was built against
    say "the cached build of mmcv belongs to another torch: compiling anew, about 13 minutes on 2 cores"
    compile_mmcv --force-reinstall --no-deps --no-cache-dir
fi
imports "mmcv.ops, mmdet, mmseg"
fingerprint >"$VENV/.selfpatch-dense"
say "ready: $VENV"
