"""DINO+SelfPatch, ViT-Ti/16, COCO train2017, 200 epochs, batch 256: the setting of the paper's ablations.

tools/pretrain.sh selfpatch_vit-ti16_4xb64-200e_coco --gpus 4
"""

_base_ = "../_base_/pretrain.py"
model = dict(backbone=dict(size="tiny"))
data = dict(root="data/coco/train2017", batch_size=64)
