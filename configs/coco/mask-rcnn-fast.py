"""Mask R-CNN on frozen features for a quick look: half the size, a tenth of the images of 1x. Good for ranking only.

tools/eval_coco.sh checkpoint.pth --data data/coco --protocol mask-rcnn-fast

9,000 iterations of 16 images. Cost: an estimated 4 GPU-hours of V100 for ViT-S/16, not measured here; --dry-run times
it on yours. No figure has been published for it.
"""

_base_ = ["../_base_/mask_rcnn.py"]

recipe = dict(
    version=2,
    batch_size=16,
    lr=1e-4,
    weight_decay=0.05,
    iters=9000,
    warmup_iters=500,
    steps=(0.75, 0.92),
    taps=(3, 5, 7, 11),
    tap_layernorm=True,
    frozen=True,
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomChoiceResize", scales=[(short, 667) for short in (320, 352, 384, 416)], keep_ratio=True),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(667, 400), keep_ratio=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
