"""MoBY+SelfPatch (positives only) on a small ViT and a thousand photographs, by the recipe of moby_mini.

tools/pretrain.sh moby-selfpatch_mini --data shared/data/imagenet-mini

Cost: about 40 CPU minutes (100 epochs of 1,000 images), estimated from a few steps.

Not a published setting: its figures compare methods at the same small budget, and nothing else.
"""

_base_ = "moby_mini.py"
method = "moby_selfpatch"
model = dict(
    backbone=dict(cls_token=False, final_norm=False),  # the aggregation module has its own
    negatives=False,
    neighbourhood=3,
    wrap=True,
    k=4,
    aggregation="attention",
    patch_loss_weight=0.1,
)
