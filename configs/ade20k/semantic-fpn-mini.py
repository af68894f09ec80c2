"""Semantic FPN with a narrow head on frozen features at short side 128: a minute on a CPU, for a few images.

tools/eval_ade20k.sh checkpoint.pth --data shared/data/ade-mini --protocol semantic-fpn-mini

Its figures compare checkpoints on the same small set with each other and with nothing else. Version 1 trained the
backbone from unnormalised taps, and ranked a real ViT-S/14 below an untrained one.
"""

_base_ = "../_base_/semantic_fpn.py"
crop = 128
model = dict(
    neck=dict(out_channels=64),
    decode_head=dict(in_channels=[64, 64, 64, 64], channels=64),
)
recipe = dict(
    version=2,
    iters=200,
    batch_size=4,
    lr=1e-3,
    weight_decay=0.01,
    warmup_iters=20,
    warmup_start=0.01,
    poly_power=1.0,
    taps=(2, 5, 8, 11),
    tap_layernorm=True,  # fair to networks with and without a final norm
    frozen=True,  # 200 iterations would undo the checkpoint faster than they train the head
)
