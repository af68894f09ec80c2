#!/usr/bin/env bash
# From nothing to a comparison: pretrain, score and compare, in minutes on two CPU cores. Run it again to go on.
#   tools/demo.sh                                     on the toy world, which it makes
#   tools/demo.sh --data photos/ --davis data/DAVIS   on your own images and a DAVIS-style folder
# Options: --data DIR    images to pretrain on            --davis DIR   videos to track objects in
#          --coco DIR    COCO-style set to detect in      --ade20k DIR  ADE20K-style set to segment
#          --out DIR     where everything goes (default: work_dirs/demo; with --data work_dirs/demo-<its name>)
#          --epochs N    of pretraining (default: 8; with --data 30)
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
DATA="" DAVIS="" COCO="" ADE20K="" OUT="" EPOCHS=""
usage() { sed -n '2,8s/^# \{0,1\}//p' "$HERE/demo.sh"; }
fail() { echo "error: $* (tools/demo.sh --help)" >&2; exit 2; }
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) usage; exit 0 ;;
        --data | --davis | --coco | --ade20k | --out | --work-dir | --epochs) # what training calls --work-dir is --out here
            [ $# -ge 2 ] && [ -n "$2" ] || fail "$1 needs a value"
            case "$1" in
                --data) DATA="$2" ;; --davis) DAVIS="$2" ;; --coco) COCO="$2" ;;
                --ade20k) ADE20K="$2" ;; --out | --work-dir) OUT="$2" ;; --epochs) EPOCHS="$2" ;;
            esac
            shift 2 ;;
        *) fail "unknown option $1" ;;
    esac
done
[ -n "$EPOCHS" ] || EPOCHS=$([ -n "$DATA" ] && echo 30 || echo 8)
[[ "$EPOCHS" =~ ^[1-9][0-9]*$ ]] || fail "--epochs $EPOCHS: give a whole number from 1"
if [ -n "$DATA" ] && [ -z "$DAVIS" ]; then fail "--data needs --davis beside it"; fi
for option in "--davis $DAVIS" "--coco $COCO" "--ade20k $ADE20K"; do
    [ -n "$DATA" ] || [ -z "${option#* }" ] || fail "${option%% *} needs --data beside it: the toy world has its own"
done
for folder in "$DATA" "$DAVIS" "$COCO" "$ADE20K"; do
    [ -z "$folder" ] || [ -d "$folder" ] || fail "no such folder: $folder"
done
if [ -z "$OUT" ]; then # what was trained on other images is no start for these
    OUT=work_dirs/demo
    [ -z "$DATA" ] || OUT="work_dirs/demo-$(basename "$(cd "$DATA" && pwd -P)")"
fi

source "$HERE/_env.sh"
started=$(date +%s)
step() { printf '\n\033[1m== %s\033[0m  (%d min %02d s)\n' "$1" $((($(date +%s) - started) / 60)) $((($(date +%s) - started) % 60)); }

SHORT_SIDE=480 RECIPE=mini CROP=448 WARMUP=$((EPOCHS > 1))
if [ -z "$DATA" ]; then
    step "toy world"
    "$PYTHON" "$ROOT/tools/toy_data.py" --out "$OUT/data"
    DATA="$OUT/data/images" DAVIS="$OUT/data/DAVIS" COCO="$OUT/data/coco" ADE20K="$OUT/data/ade20k"
    SHORT_SIDE=192 RECIPE=toy CROP=224
fi

METHODS=(random dino selfpatch moby)
side_by_side() { # a function and step's title: for two methods at a time, each line of output after its method's name
    step "$2"
    local started=0 threads=$((($(nproc) + 1) / 2))
    for method in "${METHODS[@]}"; do
        [ $((started++)) -lt 2 ] || wait -n # for any of the two; one that failed ends the demo with its status
        set -m # a process group for each, so that it can be stopped with all that it has started
        OMP_NUM_THREADS=$threads "$1" "$method" 2>&1 | sed -u "s/^/$method: /" &
        set +m
    done
    wait -n
    wait -n
}
trap 'for group in $(jobs -p); do kill -- "-$group" 2>/dev/null || true; done' EXIT
trap 'echo "stopped: the same command goes on" >&2; exit 130' INT
trap 'exit 143' TERM HUP

pretrain() { # the newest checkpoint says whether there is anything left to do
    local words=("$1_$RECIPE" --resume --cfg-options "schedule.epochs=$EPOCHS" "schedule.warmup_epochs=$WARMUP")
    [ "$1" != random ] || words=("selfpatch_$RECIPE" --untrained)
    "$PYTHON" -m selfpatch.pretrain.train "${words[@]}" --data "$DATA" --work-dir "$OUT/$1"
}
evaluate() { # task, method, options
    "$PYTHON" -m selfpatch.eval.run "$1" "$OUT/$2/checkpoint.pth" --records "$OUT/records" --out "$OUT/eval/$1-$2" "${@:3}"
}
davis() { evaluate davis "$1" --data "$DAVIS" --short-side "$SHORT_SIDE"; }
coco() { evaluate coco "$1" --data "$COCO" --protocol mask-rcnn-mini; }
ade20k() { evaluate ade20k "$1" --data "$ADE20K" --protocol dense-knn --crop "$CROP"; }
compare() { "$PYTHON" -m selfpatch.reports.report --records "$OUT/records" --out "$OUT/report" --baseline Random; }

side_by_side pretrain "pretraining"
side_by_side davis "DAVIS"
if [ -n "$COCO$ADE20K" ]; then
    step "comparison so far" # the next step compiles mmcv's operators, if nothing has before
    compare
fi
[ -z "$COCO" ] || side_by_side coco "COCO"
[ -z "$ADE20K" ] || side_by_side ade20k "ADE20K"

step "comparison"
masks=()
for method in "${METHODS[@]}"; do masks+=("$method=$OUT/eval/davis-$method/masks"); done
"$PYTHON" -m selfpatch.reports.masks "${masks[@]}" --davis "$DAVIS" --out "$OUT/report/masks"
compare
printf '\nThese figures come from minutes of pretraining on little data: they are no benchmark figures.\n'
printf 'Report: %s\nMasks:  %s\n' "$OUT/report/report.html" "$OUT/report/masks/<sequence>.png"
step "done"
