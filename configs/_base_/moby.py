"""MoBY as published: two views, AdamW at 1e-3 x batch/512, 300 epochs of ImageNet-1k; ViT-S/16.

GPU-hours in the configs are estimates: two views of 224 pixels a student and a teacher as in DINO without local crops,
which took 15.3 hours a hundred epochs on 16 V100 (arXiv 2104.14294, table 8): 245 GPU-hours. Factors for other networks
and data: pretrain.py.
"""

_base_ = "pretrain.py"
method = "moby"
model = dict(
    _delete_=True,
    backbone=dict(
        type="VisionTransformer",
        size="small",
        patch_size=16,
        cls_token=True,
        final_norm=True,
        drop_path_rate=0.2,  # online only
    ),
    hidden_dim=4096,
    out_dim=256,
    queue=4096,
    temperature=0.2,
)
views = dict(
    _delete_=True,
    view1=dict(size=224, scale=(0.08, 1.0), blur=1.0, solarize=0.0, interpolation="bilinear"),
    view2=dict(size=224, scale=(0.08, 1.0), blur=0.1, solarize=0.2, interpolation="bilinear"),
)
data = dict(batch_size=64)  # 8 x 64 = 512
schedule = dict(
    _delete_=True,
    epochs=300,
    warmup_epochs=5,
    lr=1e-3,  # this and the two below at a batch of lr_batch
    warmup_lr=5e-7,  # of the first iteration
    min_lr=5e-6,
    lr_batch=512,
    weight_decay=0.05,
    momentum=0.99,  # of the key network
    momentum_end=1.0,
)
optimizer = dict(clip=5.0, clip_per_parameter=False)
