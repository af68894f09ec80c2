"""A recipe for a thousand photographs and two CPU cores: a ViT/16 that is 192 wide and 6 deep, small heads, bf16."""

_base_ = "pretrain.py"
model = dict(
    backbone=dict(size="tiny", embed_dim=192, depth=6, heads=3, img_size=112, drop_path_rate=0.0),
    out_dim=1024,
    patch_out_dim=1024,
    hidden_dim=512,
    bottleneck_dim=128,
    center_momentum=0.5,  # a slower centre lets drift that all images share into the targets, and they become one
)
views = dict(  # at about the scale of 480p video frames
    global1=dict(size=112, scale=(0.25, 0.8)),
    global2=dict(size=112, scale=(0.25, 0.8)),
    local=dict(size=48, scale=(0.08, 0.3), count=4),
)
data = dict(root="data/imagenet-mini", batch_size=32, workers=2)
schedule = dict(
    epochs=100,
    warmup_epochs=1,
    lr=7e-4,
    lr_batch=32,
    weight_decay_end=0.04,
    momentum=0.996,
    teacher_temp_start=0.015,  # at 0.04 the targets of so few images grow uniform within ten epochs
    teacher_temp=0.015,
)
precision = "bf16"
log_interval = 10
