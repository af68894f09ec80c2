"""Mask R-CNN, 12 epochs: the published recipe for ViTs (SelfPatch's detection/ folder, after XCiT's and BEiT's).

tools/eval_coco.sh checkpoint.pth --data data/coco --gpus 8

87,950 iterations = 12 epochs * 117,266 images / 16. Cost: an estimated 130 GPU-hours of V100 for ViT-S/16, not measured
here; --dry-run times it on yours. Expected for ViT-S/16 on val2017 (box AP / mask AP): DINO 40.8 / 37.3,
DINO+SelfPatch 42.1 / 38.5 (SelfPatch repository, detection/README.md).
"""

_base_ = ["../_base_/mask_rcnn.py", "../_base_/coco_data.py"]

insists = dict(family="vit")
recipe = dict(
    version=1,
    batch_size=16,
    lr=1e-4,
    weight_decay=0.05,
    epochs=12.0,
    warmup_iters=1000,
    warmup_start=1e-3,
    steps=(8 / 12, 11 / 12),  # after epochs 8 and 11
    drop_path=0.05,
    taps=(3, 5, 7, 11),
)
