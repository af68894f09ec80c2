"""UPerNet on a ViT, 160k iterations.

tools/eval_ade20k.sh CKPT --gpus 8

Cost for ViT-S/16: 128 GPU-hours of V100, estimated from its operations (3.7e18 at 8 TFLOP/s) and not measured here;
--dry-run times it on yours. Published mIoU, vit-s16: DINO 42.3, DINO+SelfPatch 43.2 (SelfPatch repository,
segmentation/README.md); iBOT 45.4 (arXiv 2111.07832).
"""

_base_ = "../_base_/upernet.py"
insists = dict(family="vit")
recipe = dict(
    version=1,
    iters=160_000,  # 127 epochs = 160000 * 16 / 20210
    batch_size=16,  # 8 x 2
    lr=6e-5,
    weight_decay=0.01,
    warmup_iters=1500,
    warmup_start=1e-6,
    poly_power=1.0,
    drop_path=0.1,
    taps=(2, 5, 8, 11),
)
