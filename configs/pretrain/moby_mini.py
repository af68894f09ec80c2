"""MoBY on a small ViT and a thousand photographs, two CPU cores: beside dino_mini and selfpatch_mini.

tools/pretrain.sh moby_mini --data shared/data/imagenet-mini

Cost: about 30 CPU minutes (100 epochs of 1,000 images), estimated from a few steps.

Not a published setting: its figures compare methods at the same small budget, and nothing else.
"""

_base_ = "../_base_/moby.py"
model = dict(
    backbone=dict(size="tiny", embed_dim=192, depth=6, heads=3, img_size=112, drop_path_rate=0.0),
    hidden_dim=512,
    out_dim=128,
    queue=1024,
)
views = dict(
    view1=dict(size=112, scale=(0.2, 0.8), jitter=0.0, grayscale=0.0, blur=0.0, solarize=0.0),
    view2=dict(size=112, scale=(0.2, 0.8), jitter=0.0, grayscale=0.0, blur=0.0, solarize=0.0),
)
data = dict(root="data/imagenet-mini", batch_size=32, workers=2)
schedule = dict(epochs=100, warmup_epochs=2, lr=1.5e-3, min_lr=1e-6, lr_batch=32)
precision = "bf16"
log_interval = 10
