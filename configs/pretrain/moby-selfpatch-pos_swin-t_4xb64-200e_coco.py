"""MoBY+SelfPatch with positives only, Swin-T, COCO train2017, 200 epochs, batch 256.

tools/pretrain.sh moby-selfpatch-pos_swin-t_4xb64-200e_coco --gpus 4

Cost: an estimated 62 GPU-hours of V100, not measured here: 56 of MoBY x 1.1 (configs/_base_/moby.py).
"""

_base_ = "../_base_/moby_selfpatch.py"
model = dict(backbone=dict(_delete_=True, type="Swin", size="tiny", final_norm=False, drop_path_rate=0.2))
data = dict(root="data/coco/train2017", batch_size=64)
schedule = dict(epochs=200)
