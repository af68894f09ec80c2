"""DINO, ViT-Ti/16, COCO train2017, 200 epochs, batch 256: the baseline of the paper's ablations.

tools/pretrain.sh dino_vit-ti16_4xb64-200e_coco --gpus 4

Cost: an estimated 24 GPU-hours of V100, not measured here: 710 of ViT-S/16 on ImageNet-1k x 0.37 x 0.092
(configs/_base_/pretrain.py).
"""

_base_ = "../_base_/dino.py"
model = dict(backbone=dict(size="tiny"))
data = dict(root="data/coco/train2017", batch_size=64)
