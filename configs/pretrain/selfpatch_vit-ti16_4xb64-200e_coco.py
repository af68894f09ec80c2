"""DINO+SelfPatch, ViT-Ti/16, COCO train2017, 200 epochs, batch 256: the setting of the paper's ablations.

tools/pretrain.sh selfpatch_vit-ti16_4xb64-200e_coco --gpus 4

Cost: an estimated 50 GPU-hours of V100, not measured here: 24 of DINO x 2.1 (configs/_base_/pretrain.py).
"""

_base_ = "../_base_/pretrain.py"
model = dict(backbone=dict(size="tiny"))
data = dict(root="data/coco/train2017", batch_size=64)
