"""MoBY+SelfPatch with positives only, ViT-Ti/16, COCO train2017, 200 epochs, batch 256.

tools/pretrain.sh moby-selfpatch-pos_vit-ti16_4xb64-200e_coco --gpus 4

Cost: an estimated 25 GPU-hours of V100, not measured here: 17 of MoBY x 1.5 (configs/_base_/moby.py).

Expected: DAVIS J&F 58.4 (a review of arXiv 2206.07990, second hand).
"""

_base_ = "../_base_/moby_selfpatch.py"
model = dict(backbone=dict(size="tiny"))
data = dict(root="data/coco/train2017", batch_size=64)
schedule = dict(epochs=200)
