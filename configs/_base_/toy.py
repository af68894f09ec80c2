"""A recipe for minutes on a CPU: a ViT 192 wide and 6 deep, small heads, few and small crops, bf16."""

_base_ = "pretrain.py"
model = dict(
    backbone=dict(size="tiny", depth=6, drop_path_rate=0.0, img_size=160),
    out_dim=4096,
    patch_out_dim=1024,
    hidden_dim=512,
    bottleneck_dim=128,
)
views = dict(global1=dict(size=160), global2=dict(size=160), local=dict(size=64, count=4))
data = dict(root="data/toy/images", batch_size=32, workers=2)
schedule = dict(epochs=20, warmup_epochs=4, lr=1e-3, lr_batch=32, momentum=0.99)
precision = "bf16"
checkpoint = dict(interval=1)
log_interval = 10
