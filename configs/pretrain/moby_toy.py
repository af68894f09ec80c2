"""MoBY on a small ViT, for toy data and first looks: beside dino_toy and selfpatch_toy.

tools/pretrain.sh moby_toy --data data/toy/images

Not a published setting: its figures compare methods at the same tiny budget, and nothing else.
"""

_base_ = "../_base_/moby.py"
model = dict(
    backbone=dict(size="tiny", depth=6, drop_path_rate=0.0, img_size=160), hidden_dim=512, out_dim=128, queue=1024
)
views = dict(view1=dict(size=160), view2=dict(size=160))
data = dict(root="data/toy/images", batch_size=32, workers=2)
schedule = dict(epochs=20, warmup_epochs=4, lr=1e-3, min_lr=1e-6, lr_batch=32)
precision = "bf16"
log_interval = 10
