"""DINO, Swin-T, COCO train2017, 200 epochs, batch 256.

tools/pretrain.sh dino_swin-t_4xb64-200e_coco --gpus 4

Cost: an estimated 82 GPU-hours of V100, not measured here: 890 on ImageNet-1k x 0.092 (configs/_base_/pretrain.py).
"""

_base_ = "dino_swin-t_8xb128-200e_in1k.py"
data = dict(root="data/coco/train2017", batch_size=64)
