"""Semantic FPN on a ViT whose four maps all stay at the stride of a patch, as the SelfPatch repository's config has them.

tools/eval_ade20k.sh CKPT --protocol semantic-fpn-flat-40k --gpus 8

About 1 GPU-day on V100s for ViT-S/16 (--dry-run measures it).
"""

_base_ = "semantic-fpn-40k.py"
model = dict(backbone=dict(pyramid=False))
