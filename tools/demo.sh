#!/usr/bin/env bash
# From nothing to a comparison: pretrain, score and compare, in minutes on two CPU cores. Run it again to go on.
#   tools/demo.sh                                     on the toy world, which it makes
#   tools/demo.sh --data photos/ --davis data/DAVIS   on your own images and a DAVIS-style folder
# Options: --data DIR    images to pretrain on            --davis DIR   videos to track objects in
#          --coco DIR    COCO-style set to detect in      --ade20k DIR  ADE20K-style set to segment
#          --out DIR     where everything goes (default: work_dirs/demo; with --data work_dirs/demo-<its name>)
#          --epochs N    of pretraining (default: 12; with --data 30)
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
[ -n "$EPOCHS" ] || EPOCHS=$([ -n "$DATA" ] && echo 30 || echo 12)
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
pretrain() { # name, config, options: the newest checkpoint says whether there is anything left to do
    "$PYTHON" -m selfpatch.pretrain.train "$2" --data "$DATA" --work-dir "$OUT/$1" "${@:3}"
}
step "untrained network"
pretrain random "selfpatch_$RECIPE" --untrained
for method in dino selfpatch moby; do
    step "pretraining $method"
    pretrain "$method" "${method}_$RECIPE" --resume --cfg-options "schedule.epochs=$EPOCHS" "schedule.warmup_epochs=$WARMUP"
done

evaluate() { # task, method, options
    "$PYTHON" -m selfpatch.eval.run "$1" "$OUT/$2/checkpoint.pth" --records "$OUT/records" --out "$OUT/eval/$1-$2" "${@:3}"
}
masks=()
for method in "${METHODS[@]}"; do
    step "DAVIS: $method"
    evaluate davis "$method" --data "$DAVIS" --short-side "$SHORT_SIDE"
    masks+=("$method=$OUT/eval/davis-$method/masks")
done
compare() { "$PYTHON" -m selfpatch.reports.report --records "$OUT/records" --out "$OUT/report" --baseline Random; }
if [ -n "$COCO$ADE20K" ]; then
    step "comparison so far" # the next step compiles mmcv's operators, if nothing has before
    compare
fi
for method in "${METHODS[@]}"; do
    if [ -n "$COCO" ]; then
        step "COCO: $method"
        evaluate coco "$method" --data "$COCO" --protocol mask-rcnn-mini
    fi
    if [ -n "$ADE20K" ]; then
        step "ADE20K: $method"
        evaluate ade20k "$method" --data "$ADE20K" --protocol dense-knn --crop "$CROP"
    fi
done

step "comparison"
"$PYTHON" -m selfpatch.reports.masks "${masks[@]}" --davis "$DAVIS" --out "$OUT/report/masks"
compare
printf '\nThese figures come from minutes of pretraining on little data: they are no benchmark figures.\n'
printf 'Report: %s\nMasks:  %s\n' "$OUT/report/report.html" "$OUT/report/masks/<sequence>.png"
step "done"
