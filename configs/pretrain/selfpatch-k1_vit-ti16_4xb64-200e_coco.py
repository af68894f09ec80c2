"""DINO+SelfPatch, ViT-Ti/16, COCO train2017, one positive a patch instead of four.

tools/pretrain.sh selfpatch-k1_vit-ti16_4xb64-200e_coco --gpus 4
"""

_base_ = "selfpatch_vit-ti16_4xb64-200e_coco.py"
model = dict(k=1)
