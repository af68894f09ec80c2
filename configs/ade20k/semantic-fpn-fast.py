"""Semantic FPN on frozen features for a quick look: a tenth of the images at a higher rate.

tools/eval_ade20k.sh CKPT --protocol semantic-fpn-fast

Cost for ViT-S/16: 1.3 GPU-hours of V100, estimated from its operations and not measured here. Its figures compare
checkpoints with each other and with nothing else.
"""

_base_ = "semantic-fpn-40k.py"
insists = dict(_delete_=True)  # on nothing: a Swin may have a quick look, too
recipe = dict(version=2, iters=8_000, batch_size=16, lr=1e-3, warmup_iters=500, tap_layernorm=True, frozen=True)
