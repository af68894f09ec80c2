"""DINO, ViT-S/16, ImageNet-1k, 200 epochs, at SelfPatch's recipe: the baseline of the comparison.

tools/pretrain.sh dino_vit-s16_8xb128-200e_in1k --gpus 8

Published DINO ViT-S/16 (another, longer schedule): DAVIS J&F 61.8 (arXiv 2104.14294, table 5).
"""

_base_ = "../_base_/dino.py"
