"""MoBY+SelfPatch with negatives, ViT-Ti/16, COCO train2017: InfoNCE against a queue of patch keys.

tools/pretrain.sh moby-selfpatch-neg_vit-ti16_4xb64-200e_coco --gpus 4

Cost: an estimated 25 GPU-hours of V100, not measured here: 17 of MoBY x 1.5 (configs/_base_/moby.py).

Expected: DAVIS J&F 58.9 (a review of arXiv 2206.07990, second hand).
"""

_base_ = "moby-selfpatch-pos_vit-ti16_4xb64-200e_coco.py"
model = dict(negatives=True)
