"""MoBY, ViT-S/16, ImageNet-1k, 300 epochs, batch 512: the published recipe.

tools/pretrain.sh moby_vit-s16_8xb64-300e_in1k --gpus 8

Cost: an estimated 735 GPU-hours of V100, not measured here: 3 x 245 a hundred epochs (configs/_base_/moby.py).
"""

_base_ = "../_base_/moby.py"
