"""MoBY+SelfPatch with negatives, Swin-T, COCO train2017: InfoNCE against a queue of patch keys.

tools/pretrain.sh moby-selfpatch-neg_swin-t_4xb64-200e_coco --gpus 4

Cost: an estimated 62 GPU-hours of V100, not measured here: 56 of MoBY x 1.1 (configs/_base_/moby.py).
"""

_base_ = "moby-selfpatch-pos_swin-t_4xb64-200e_coco.py"
model = dict(negatives=True)
