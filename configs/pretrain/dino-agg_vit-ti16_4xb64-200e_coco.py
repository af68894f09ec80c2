"""DINO+Agg, ViT-Ti/16, COCO train2017: DINO on SelfPatch's class-attention [CLS], without the patch level.

tools/pretrain.sh dino-agg_vit-ti16_4xb64-200e_coco --gpus 4

Cost: an estimated 28 GPU-hours of V100, not measured here: 24 of DINO x 1.15, since the teacher sees all crops
(configs/_base_/pretrain.py).
"""

_base_ = "selfpatch_vit-ti16_4xb64-200e_coco.py"
model = dict(patch_loss_weight=0.0)
