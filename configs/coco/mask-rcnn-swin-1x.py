"""Mask R-CNN, 12 epochs: the published recipe for Swin-T (Swin-Transformer-Object-Detection, as MoBY used it).

tools/eval_coco.sh moby_swin_t.pth --data data/coco --gpus 8

Cost: an estimated 120 GPU-hours of V100, not measured here; --dry-run times it on yours. Expected on val2017 (box AP /
mask AP): MoBY, 300 epochs, 43.6 / 39.6; supervised 43.7 / 39.8 (Transformer-SSL repository, README).
"""

_base_ = ["mask-rcnn-1x.py"]

insists = dict(family="swin")
recipe = dict(warmup_iters=500, drop_path=0.1)
