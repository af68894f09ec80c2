"""DINO on a small ViT, for toy data and first looks: the baseline of selfpatch_toy.

tools/pretrain.sh dino_toy --data data/toy/images

Cost: about 3 CPU minutes (12 epochs of 800 toy images), more where others work.
"""

_base_ = "../_base_/toy.py"
method = "dino"
model = dict(
    _delete_=True,
    backbone=dict(type="VisionTransformer", size="tiny", embed_dim=96, depth=4, heads=3, patch_size=8, img_size=64),
    out_dim=1024,
    hidden_dim=256,
    bottleneck_dim=64,
)
