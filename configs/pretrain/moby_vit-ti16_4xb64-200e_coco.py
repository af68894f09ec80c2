"""MoBY, ViT-Ti/16, COCO train2017, 200 epochs, batch 256: the baseline of MoBY+SelfPatch.

tools/pretrain.sh moby_vit-ti16_4xb64-200e_coco --gpus 4
"""

_base_ = "../_base_/moby.py"
model = dict(backbone=dict(size="tiny"))
data = dict(root="data/coco/train2017", batch_size=64)
schedule = dict(epochs=200)
