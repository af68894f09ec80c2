"""MoBY, Swin-T, COCO train2017, 200 epochs, batch 256.

tools/pretrain.sh moby_swin-t_4xb64-200e_coco --gpus 4

Cost: an estimated 56 GPU-hours of V100, not measured here: 2/3 of the 920 on ImageNet-1k x 0.092
(configs/_base_/moby.py).
"""

_base_ = "moby_swin-t_8xb64-300e_in1k.py"
data = dict(root="data/coco/train2017", batch_size=64)
schedule = dict(epochs=200)
