"""MoBY, Swin-T, ImageNet-1k, 300 epochs, batch 512: the published recipe.

tools/pretrain.sh moby_swin-t_8xb64-300e_in1k --gpus 8

Cost: an estimated 920 GPU-hours of V100, not measured here: 735 of ViT-S/16 x 1.25 (configs/_base_/moby.py).

Expected (Transformer-SSL repository): COCO box AP 43.6, mask AP 39.6 (Mask R-CNN 1x); ADE20K mIoU 44.06 (UPerNet).
"""

_base_ = "../_base_/moby.py"
model = dict(backbone=dict(_delete_=True, type="Swin", size="tiny", drop_path_rate=0.2))
