"""Batch norm and a 1x1 convolution on the frozen last block, 40k iterations: what the features hold as they are.

tools/eval_ade20k.sh CKPT --protocol linear-40k

Cost for ViT-S/16: 1 GPU-hour of V100, estimated from its operations and not measured here; reading images may take
longer. The recipe is that of DINOv2's linear protocol (arXiv 2304.07193, section 7.4); for the methods here no figures
are published.
"""

_base_ = "../_base_/ade20k.py"
slide = True  # windows of 512, 341 apart
model = dict(
    type="Segmentor",
    backbone=dict(pyramid=False),
    decode_head=dict(type="LinearHead", in_index=-1, align_corners=False, loss_decode=dict(type="CrossEntropyLoss")),
)
recipe = dict(
    version=1,
    iters=40_000,
    batch_size=16,
    lr=1e-3,
    weight_decay=1e-4,
    warmup_iters=1500,
    warmup_start=1e-6,
    poly_power=1.0,
    taps=(11,),
    frozen=True,
)
