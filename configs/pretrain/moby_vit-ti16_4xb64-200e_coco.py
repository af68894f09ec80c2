"""MoBY, ViT-Ti/16, COCO train2017, 200 epochs, batch 256: the baseline of MoBY+SelfPatch.

tools/pretrain.sh moby_vit-ti16_4xb64-200e_coco --gpus 4

Cost: an estimated 17 GPU-hours of V100, not measured here: 2/3 of the 735 of ViT-S/16 on ImageNet-1k x 0.37 x 0.092
(configs/_base_/moby.py).
"""

_base_ = "../_base_/moby.py"
model = dict(backbone=dict(size="tiny"))
data = dict(root="data/coco/train2017", batch_size=64)
schedule = dict(epochs=200)
