"""MoBY on a small ViT, for toy data and first looks: beside dino_toy and selfpatch_toy.

tools/pretrain.sh moby_toy --data data/toy/images

Cost: about 1 CPU minute (12 epochs of 800 toy images; 6 measured: 22 s on one core).

Not a published setting: its figures compare methods at the same tiny budget, and nothing else.
"""

_base_ = "../_base_/moby.py"
plain = dict(blur=0.0, solarize=0.0, grayscale=0.0, jitter=0.0)  # as toy.py
model = dict(
    backbone=dict(size="tiny", embed_dim=96, depth=3, heads=3, patch_size=8, img_size=48, drop_path_rate=0.0),
    hidden_dim=256,
    out_dim=64,
    queue=1024,
)
views = dict(view1=dict(size=48, scale=(0.2, 0.5), **plain), view2=dict(size=48, scale=(0.2, 0.5), **plain))
del plain
data = dict(root="data/toy/images", batch_size=32, workers=2)
schedule = dict(epochs=12, warmup_epochs=1, lr=2e-3, min_lr=1e-6, lr_batch=32)
precision = "bf16"
log_interval = 10
