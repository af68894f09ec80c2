"""MoBY, ViT-S/16, ImageNet-1k, 300 epochs, batch 512: the published recipe.

tools/pretrain.sh moby_vit-s16_8xb64-300e_in1k --gpus 8
"""

_base_ = "../_base_/moby.py"
