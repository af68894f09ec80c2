"""MoBY+SelfPatch: the patch level on top of MoBY, positives only (negatives=True: InfoNCE against patch keys)."""

_base_ = "moby.py"
method = "moby_selfpatch"
model = dict(
    backbone=dict(cls_token=False, final_norm=False),  # the aggregation module has its own
    negatives=False,
    patch_queue=4096,
    patch_keys=1,  # patches of an image and view that enter its queue
    patch_temperature=0.2,
    neighbourhood=3,
    wrap=True,
    k=4,
    aggregation="attention",
    patch_loss_weight=0.1,
)
