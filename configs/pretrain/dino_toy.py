"""DINO on a small ViT, for toy data and first looks: the baseline of selfpatch_toy.

tools/pretrain.sh dino_toy --data data/toy/images

Cost: about 1 CPU minute (12 epochs of 800 toy images; 37 s measured on one core).

Not a published setting: its figures compare methods at the same tiny budget, and nothing else.
"""

_base_ = "../_base_/toy.py"
method = "dino"
model = dict(
    _delete_=True,
    backbone=dict(type="VisionTransformer", size="tiny", embed_dim=96, depth=3, heads=3, patch_size=8, img_size=48),
    out_dim=512,
    hidden_dim=256,
    bottleneck_dim=64,
    center_momentum=0.5,
)
