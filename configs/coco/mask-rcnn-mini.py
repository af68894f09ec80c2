"""Mask R-CNN with narrow heads on frozen features at short side 160: a minute on a CPU, for a few images.

tools/eval_coco.sh checkpoint.pth --data shared/data/coco-mini --images shared/data/davis-mini/JPEGImages/480p \\
    --protocol mask-rcnn-mini

Its figures compare checkpoints on the same small set with each other and with nothing else. Version 1 trained the
backbone from unnormalised taps, and ranked a real ViT-S/14 below an untrained one.
"""

_base_ = ["../_base_/mask_rcnn.py"]

recipe = dict(
    version=2,
    batch_size=2,
    lr=1e-3,  # 150 iterations leave the heads no time for less
    weight_decay=0.05,
    iters=150,
    warmup_iters=15,
    warmup_start=0.01,
    steps=(0.8,),
    taps=(3, 5, 7, 11),
    tap_layernorm=True,  # fair to networks with and without a final norm
    frozen=True,  # 150 iterations would undo the checkpoint faster than they train the heads
)
model = dict(
    neck=dict(out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=64),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=500, max_per_img=200), rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100), rcnn=dict(max_per_img=20)),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="Resize", scale=(288, 160), keep_ratio=True),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(288, 160), keep_ratio=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
