"""Mask R-CNN with an FPN (arXiv 1703.06870) as mmdet builds it, over the pyramid of whatever checkpoint is evaluated.

The backbone's options, the FPN's input widths and the numbers of classes are filled in from checkpoint and data.
"""

_base_ = ["mmdet::_base_/models/mask-rcnn_r50_fpn.py"]

model = dict(
    backbone=dict(_delete_=True, type="SelfPatchPyramid"),
    rpn_head=dict(type="FloatRPNHead"),  # mmcv's NMS and RoIAlign have no bf16
    roi_head=dict(
        bbox_roi_extractor=dict(type="RegionExtractor"),
        mask_roi_extractor=dict(type="RegionExtractor"),
    ),
)
