"""DINO+SelfPatch, ViT-S/8, ImageNet-1k, 200 epochs: four times the patches of ViT-S/16.

tools/pretrain.sh selfpatch_vit-s8_8xb128-200e_in1k --gpus 8 --cfg-options precision=bf16

Cost: an estimated 5600 GPU-hours of V100, not measured here: 4000 of DINO x 1.4 (configs/_base_/pretrain.py).
"""

_base_ = "../_base_/pretrain.py"
model = dict(backbone=dict(patch_size=8))
