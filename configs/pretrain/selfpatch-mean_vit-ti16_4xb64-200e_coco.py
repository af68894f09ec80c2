"""DINO+SelfPatch, ViT-Ti/16, COCO train2017, the positives' mean instead of the attention that aggregates them.

tools/pretrain.sh selfpatch-mean_vit-ti16_4xb64-200e_coco --gpus 4
"""

_base_ = "selfpatch_vit-ti16_4xb64-200e_coco.py"
model = dict(aggregation="mean")
