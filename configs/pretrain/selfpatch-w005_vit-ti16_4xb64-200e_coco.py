"""DINO+SelfPatch, ViT-Ti/16, COCO train2017, patch loss weighted 0.05 instead of 0.1.

tools/pretrain.sh selfpatch-w005_vit-ti16_4xb64-200e_coco --gpus 4

Cost: an estimated 50 GPU-hours of V100, not measured here: as with k=4, window 3 and attention
(configs/_base_/pretrain.py).
"""

_base_ = "selfpatch_vit-ti16_4xb64-200e_coco.py"
model = dict(patch_loss_weight=0.05)
