"""DINO on a small ViT and a thousand photographs, by the recipe of selfpatch_mini.

tools/pretrain.sh dino_mini --data shared/data/imagenet-mini

Cost: about 45 CPU minutes (100 epochs of 1,000 images), estimated from a few steps.

Not a published setting: its figures compare methods at the same small budget, and nothing else.
"""

_base_ = "../_base_/mini.py"
method = "dino"
model = dict(
    _delete_=True,
    backbone=dict(type="VisionTransformer", size="tiny", embed_dim=192, depth=6, heads=3, patch_size=16, img_size=112),
    out_dim=1024,
    hidden_dim=512,
    bottleneck_dim=128,
    center_momentum=0.5,
)
