"""Semantic FPN for a quick look: a fifth of the iterations at a higher rate.

tools/eval_ade20k.sh CKPT --protocol semantic-fpn-fast

About 7 GPU-hours on a V100 for ViT-S/16 (--dry-run measures it). Ranks checkpoints; its figures are nobody's but its own.
"""

_base_ = "semantic-fpn-40k.py"
recipe = dict(iters=8_000, batch_size=16, lr=1e-4, warmup_iters=500)
