"""DINO+SelfPatch, ViT-S/16, ImageNet-1k, 200 epochs: the published recipe.

tools/pretrain.sh selfpatch_vit-s16_8xb128-200e_in1k --gpus 8

Cost: an estimated 1070 GPU-hours of V100, not measured here: 710 of DINO x 1.5 (configs/_base_/pretrain.py).

Expected (SelfPatch repository): COCO box AP 42.1, mask AP 38.5; ADE20K mIoU 41.2 (Semantic FPN), 43.2 (UPerNet).
"""

_base_ = "../_base_/pretrain.py"
