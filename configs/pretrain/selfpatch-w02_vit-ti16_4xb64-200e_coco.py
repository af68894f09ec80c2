"""DINO+SelfPatch, ViT-Ti/16, COCO train2017, patch loss weighted 0.2 instead of 0.1.

tools/pretrain.sh selfpatch-w02_vit-ti16_4xb64-200e_coco --gpus 4
"""

_base_ = "selfpatch_vit-ti16_4xb64-200e_coco.py"
model = dict(patch_loss_weight=0.2)
