"""DINO+Agg, ViT-Ti/16, COCO train2017: DINO on SelfPatch's class-attention [CLS], without the patch level.

tools/pretrain.sh dino-agg_vit-ti16_4xb64-200e_coco --gpus 4
"""

_base_ = "selfpatch_vit-ti16_4xb64-200e_coco.py"
model = dict(patch_loss_weight=0.0)
