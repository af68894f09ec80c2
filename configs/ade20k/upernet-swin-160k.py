"""UPerNet on Swin, 160k iterations, as published with it.

tools/eval_ade20k.sh CKPT --protocol upernet-swin-160k --gpus 8

Cost: about that of upernet-160k, not measured here; --dry-run times it on yours. Published mIoU, swin-t: MoBY 44.06,
supervised 44.51 (Transformer-SSL repository, README.md).
"""

_base_ = "upernet-160k.py"
insists = dict(family="swin")
model = dict(auxiliary_head=dict(in_index=2))
recipe = dict(drop_path=0.3, taps=(0, 1, 2, 3))  # the four stages
