"""DINO on a small ViT, for toy data and first looks: the baseline of selfpatch_toy.

tools/pretrain.sh dino_toy --data data/toy/images
"""

_base_ = "../_base_/toy.py"
method = "dino"
model = dict(
    _delete_=True,
    type="DINOPretraining",
    backbone=dict(type="VisionTransformer", size="tiny", depth=6, img_size=160),
    out_dim=4096,
    hidden_dim=512,
    bottleneck_dim=128,
)
