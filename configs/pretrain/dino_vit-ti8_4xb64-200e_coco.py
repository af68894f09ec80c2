"""DINO, ViT-Ti/8, COCO train2017: the baseline of selfpatch_vit-ti8.

tools/pretrain.sh dino_vit-ti8_4xb64-200e_coco --gpus 4

Cost: an estimated 135 GPU-hours of V100, not measured here: 24 of ViT-Ti/16 x 5.6 (configs/_base_/pretrain.py).
"""

_base_ = "dino_vit-ti16_4xb64-200e_coco.py"
model = dict(backbone=dict(patch_size=8))
