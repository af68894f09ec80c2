"""DINO+SelfPatch, ViT-Ti/8, COCO train2017: four times the patches of ViT-Ti/16.

tools/pretrain.sh selfpatch_vit-ti8_4xb64-200e_coco --gpus 4
"""

_base_ = "selfpatch_vit-ti16_4xb64-200e_coco.py"
model = dict(backbone=dict(patch_size=8))
