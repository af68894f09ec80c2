"""DINO, ViT-S/8, ImageNet-1k, 200 epochs, at SelfPatch's recipe.

tools/pretrain.sh dino_vit-s8_8xb128-200e_in1k --gpus 8 --cfg-options precision=bf16

Cost: an estimated 4000 GPU-hours of V100, not measured here: 710 of ViT-S/16 x 5.6 (configs/_base_/pretrain.py).

Published DINO ViT-S/8 (another, longer schedule): DAVIS J&F 69.9 (arXiv 2104.14294, table 5).
"""

_base_ = "../_base_/dino.py"
model = dict(backbone=dict(patch_size=8))
