"""DINO+SelfPatch, Swin-T, COCO train2017, 200 epochs, batch 256.

tools/pretrain.sh selfpatch_swin-t_4xb64-200e_coco --gpus 4

Cost: an estimated 100 GPU-hours of V100, not measured here: 1110 on ImageNet-1k x 0.092 (configs/_base_/pretrain.py).
"""

_base_ = "selfpatch_swin-t_8xb128-200e_in1k.py"
data = dict(root="data/coco/train2017", batch_size=64)
