"""DINO at SelfPatch's recipe: a ViT with [CLS] and final norm, no patch level."""

_base_ = "pretrain.py"
method = "dino"
model = dict(
    _delete_=True,
    backbone=dict(
        type="VisionTransformer", size="small", patch_size=16, cls_token=True, final_norm=True, drop_path_rate=0.1
    ),
    out_dim=65536,
    hidden_dim=2048,
    bottleneck_dim=256,
    student_temp=0.1,
    center_momentum=0.9,
)
