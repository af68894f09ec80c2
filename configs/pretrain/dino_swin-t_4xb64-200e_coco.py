"""DINO, Swin-T, COCO train2017, 200 epochs, batch 256.

tools/pretrain.sh dino_swin-t_4xb64-200e_coco --gpus 4
"""

_base_ = "dino_swin-t_8xb128-200e_in1k.py"
data = dict(root="data/coco/train2017", batch_size=64)
