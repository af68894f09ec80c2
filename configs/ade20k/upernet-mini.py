"""UPerNet with narrow heads on frozen features at short side 128: a minute on a CPU, for a few images.

tools/eval_ade20k.sh checkpoint.pth --data shared/data/ade-mini --protocol upernet-mini

Its figures compare checkpoints on the same small set with each other and with nothing else. Version 1 trained the
backbone from unnormalised taps, and could not tell a real ViT-S/14 from an untrained one; version 2 had a learning rate
at which 200 iterations taught the head one class of seven on networks of minutes, whatever they were.
"""

_base_ = "../_base_/upernet.py"
crop = 128
model = dict(decode_head=dict(channels=64), auxiliary_head=dict(channels=32))
recipe = dict(
    version=3,
    iters=200,
    batch_size=4,
    lr=1e-2,
    weight_decay=0.01,
    warmup_iters=20,
    warmup_start=0.01,
    poly_power=1.0,
    taps=(2, 5, 8, 11),
    tap_layernorm=True,  # as semantic-fpn-mini
    frozen=True,
)
