"""DINO, ViT-S/16, ImageNet-1k, 200 epochs, at SelfPatch's recipe: the baseline of the comparison.

tools/pretrain.sh dino_vit-s16_8xb128-200e_in1k --gpus 8

Cost: an estimated 710 GPU-hours of V100, not measured here: 2 x 356 a hundred epochs (configs/_base_/pretrain.py).

Published DINO ViT-S/16 (another, longer schedule): DAVIS J&F 61.8 (arXiv 2104.14294, table 5); COCO box AP 40.8, mask
AP 37.3; ADE20K mIoU 38.3 (Semantic FPN), 42.3 (UPerNet) (SelfPatch repository).
"""

_base_ = "../_base_/dino.py"
