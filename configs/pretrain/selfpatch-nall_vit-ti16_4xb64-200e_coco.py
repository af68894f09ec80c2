"""DINO+SelfPatch, ViT-Ti/16, COCO train2017, positives from the whole image.

tools/pretrain.sh selfpatch-nall_vit-ti16_4xb64-200e_coco --gpus 4
"""

_base_ = "selfpatch_vit-ti16_4xb64-200e_coco.py"
model = dict(neighbourhood="all")
