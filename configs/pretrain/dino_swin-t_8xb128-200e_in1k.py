"""DINO, Swin-T, ImageNet-1k, 200 epochs, at SelfPatch's recipe.

tools/pretrain.sh dino_swin-t_8xb128-200e_in1k --gpus 8

Cost: an estimated 890 GPU-hours of V100, not measured here: 710 of ViT-S/16 x 1.25 (configs/_base_/pretrain.py).
"""

_base_ = "../_base_/dino.py"
model = dict(backbone=dict(_delete_=True, type="Swin", size="tiny", drop_path_rate=0.1))
