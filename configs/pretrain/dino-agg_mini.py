"""DINO with SelfPatch's aggregated [CLS] and no patch loss, on a small ViT: the baseline of selfpatch_mini.

tools/pretrain.sh dino-agg_mini --data shared/data/imagenet-mini

Cost: about 50 CPU minutes (100 epochs of 1,000 images), estimated from a few steps.

Not a published setting: its figures compare methods at the same small budget, and nothing else.
"""

_base_ = "../_base_/mini.py"
model = dict(patch_loss_weight=0)
