"""Semantic FPN with a narrow head at short side 128: a minute or two on a CPU, for trying things out on a few images.

tools/eval_ade20k.sh checkpoint.pth --data shared/data/ade-mini --protocol semantic-fpn-mini

Its figures compare checkpoints on the same small set with each other and with nothing else.
"""

_base_ = "../_base_/semantic_fpn.py"
crop = 128
model = dict(
    neck=dict(out_channels=64),
    decode_head=dict(in_channels=[64, 64, 64, 64], channels=64),
)
recipe = dict(
    version=1,
    iters=200,
    batch_size=4,
    lr=1e-3,
    backbone_lr=0.1,  # at the head's rate little would be left of what the checkpoint knows
    weight_decay=0.01,
    warmup_iters=20,
    warmup_start=0.01,
    poly_power=1.0,
    taps=(2, 5, 8, 11),
)
