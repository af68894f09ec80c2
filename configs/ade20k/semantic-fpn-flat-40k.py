"""Semantic FPN on a ViT whose four maps all stay at a patch's stride, as in the SelfPatch repository's config.

tools/eval_ade20k.sh CKPT --protocol semantic-fpn-flat-40k --gpus 8

Cost for ViT-S/16: 8 GPU-hours of V100, estimated from its operations and not measured here. Published mIoU: as for
semantic-fpn-40k, if that repository's figures come from its config.
"""

_base_ = "semantic-fpn-40k.py"
model = dict(backbone=dict(pyramid=False))
