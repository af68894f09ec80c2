"""DINO+SelfPatch, Swin-T, ImageNet-1k, 200 epochs: the patch level on Swin's last grid.

tools/pretrain.sh selfpatch_swin-t_8xb128-200e_in1k --gpus 8

Cost: an estimated 1110 GPU-hours of V100, not measured here: 890 of DINO x 1.25 (configs/_base_/pretrain.py).

A crop of 224 pixels has 7 x 7 patches there, one of 96 has 3 x 3: a neighbourhood of 3 is the largest that fits.
"""

_base_ = "../_base_/pretrain.py"
model = dict(backbone=dict(_delete_=True, type="Swin", size="tiny", final_norm=False, drop_path_rate=0.1))
