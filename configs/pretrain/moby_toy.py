"""MoBY on a small ViT, for toy data and first looks: beside dino_toy and selfpatch_toy.

tools/pretrain.sh moby_toy --data data/toy/images

Cost: about 3 CPU minutes (12 epochs of 800 toy images), more where others work.

Not a published setting: its figures compare methods at the same tiny budget, and nothing else.
"""

_base_ = "../_base_/moby.py"
model = dict(
    backbone=dict(size="tiny", embed_dim=96, depth=4, heads=3, patch_size=8, img_size=64, drop_path_rate=0.0),
    hidden_dim=256,
    out_dim=64,
    queue=1024,
)
views = dict(view1=dict(size=64, scale=(0.06, 0.3)), view2=dict(size=64, scale=(0.06, 0.3)))
data = dict(root="data/toy/images", batch_size=32, workers=2)
schedule = dict(epochs=12, warmup_epochs=2, lr=2e-3, min_lr=1e-6, lr_batch=32, momentum=0.96)
precision = "bf16"
log_interval = 10
