"""DINO+SelfPatch, ViT-Ti/16, COCO train2017, positives from a 5 x 5 neighbourhood.

tools/pretrain.sh selfpatch-n5_vit-ti16_4xb64-200e_coco --gpus 4
"""

_base_ = "selfpatch_vit-ti16_4xb64-200e_coco.py"
model = dict(neighbourhood=5)
