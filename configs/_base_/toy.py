"""A recipe for minutes on a CPU: a ViT/8 that is 96 wide and 4 deep, small heads, few and small crops, bf16."""

_base_ = "pretrain.py"
model = dict(
    backbone=dict(size="tiny", embed_dim=96, depth=4, heads=3, patch_size=8, img_size=64, drop_path_rate=0.0),
    out_dim=1024,
    patch_out_dim=512,
    hidden_dim=256,
    bottleneck_dim=64,
)
views = dict(  # small crops at about the scale of the video frames: shrunk textures are lost to patches of 8 pixels
    global1=dict(size=64, scale=(0.06, 0.3)),
    global2=dict(size=64, scale=(0.06, 0.3)),
    local=dict(size=32, scale=(0.015, 0.06), count=4),
)
data = dict(root="data/toy/images", batch_size=32, workers=2)
schedule = dict(
    epochs=12,
    warmup_epochs=2,
    lr=2e-3,
    lr_batch=32,
    weight_decay_end=0.04,
    momentum=0.96,  # a few hundred steps leave no time for a slower teacher
)
precision = "bf16"
log_interval = 10
