"""Semantic FPN in CPU minutes, for trying things out on a few images.

tools/eval_ade20k.sh CKPT --data data/toy/ade20k --protocol semantic-fpn-mini
"""

_base_ = "semantic-fpn-40k.py"
crop = 128
recipe = dict(iters=200, batch_size=8, lr=1e-3, warmup_iters=20, drop_path=0.0)
