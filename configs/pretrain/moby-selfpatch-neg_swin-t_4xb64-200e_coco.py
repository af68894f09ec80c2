"""MoBY+SelfPatch with negatives, Swin-T, COCO train2017: InfoNCE against a queue of patch keys.

tools/pretrain.sh moby-selfpatch-neg_swin-t_4xb64-200e_coco --gpus 4
"""

_base_ = "moby-selfpatch-pos_swin-t_4xb64-200e_coco.py"
model = dict(negatives=True)
