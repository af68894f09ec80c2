"""A recipe for a minute of one CPU core: a ViT/8 that is 96 wide and 3 deep, small heads, few and small crops, bf16.

No photometric augmentation: the toy world's own light and noise are what a network has to see through.
"""

_base_ = "pretrain.py"
plain = dict(blur=0.0, solarize=0.0, grayscale=0.0, jitter=0.0)
model = dict(
    backbone=dict(size="tiny", embed_dim=96, depth=3, heads=3, patch_size=8, img_size=48, drop_path_rate=0.0),
    out_dim=512,
    patch_out_dim=256,
    patch_teacher_temp=0.02,
    hidden_dim=256,
    bottleneck_dim=64,
    center_momentum=0.5,
)
views = dict(  # at about the scale of the video frames
    global1=dict(size=48, scale=(0.2, 0.5), **plain),
    global2=dict(size=48, scale=(0.2, 0.5), **plain),
    local=dict(size=24, scale=(0.05, 0.12), count=2, **plain),
)
del plain
data = dict(root="data/toy/images", batch_size=32, workers=2)
schedule = dict(
    epochs=12,
    warmup_epochs=1,
    lr=2e-3,
    lr_batch=32,
    weight_decay_end=0.04,
    momentum=0.98,  # a few hundred steps leave no time for a slower teacher
    teacher_temp_start=0.02,
    teacher_temp=0.02,
)
precision = "bf16"
log_interval = 10
