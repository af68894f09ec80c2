"""DINO+SelfPatch, ViT-Ti/8, COCO train2017: four times the patches of ViT-Ti/16.

tools/pretrain.sh selfpatch_vit-ti8_4xb64-200e_coco --gpus 4

Cost: an estimated 240 GPU-hours of V100, not measured here: 135 of DINO x 1.8 (configs/_base_/pretrain.py).
"""

_base_ = "selfpatch_vit-ti16_4xb64-200e_coco.py"
model = dict(backbone=dict(patch_size=8))
