#!/usr/bin/env bash
# Fine-tune Mask R-CNN over a checkpoint on COCO and score it: tools/eval_coco.sh CKPT [--data data/coco] [--gpus 8]
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
exec "$PYTHON" -m selfpatch.eval.command eval coco "$@"
