"""Semantic FPN on a ViT, 40k iterations.

tools/eval_ade20k.sh CKPT --protocol semantic-fpn-40k --gpus 8

Cost for ViT-S/16: 13 GPU-hours of V100, estimated from its operations (3.7e17 at 8 TFLOP/s) and not measured here;
--dry-run times it on yours. Published mIoU, vit-s16: DINO 38.3, DINO+SelfPatch 41.2 (SelfPatch repository,
segmentation/README.md).
"""

_base_ = "../_base_/semantic_fpn.py"
insists = dict(family="vit")
recipe = dict(
    version=1,
    iters=40_000,  # 63 epochs = 40000 * 32 / 20210
    batch_size=32,  # 8 x 4
    lr=6e-5,
    weight_decay=0.01,
    warmup_iters=1500,
    warmup_start=1e-6,
    poly_power=1.0,
    drop_path=0.1,
    taps=(2, 5, 8, 11),
)
