"""MoBY, Swin-T, COCO train2017, 200 epochs, batch 256.

tools/pretrain.sh moby_swin-t_4xb64-200e_coco --gpus 4
"""

_base_ = "moby_swin-t_8xb64-300e_in1k.py"
data = dict(root="data/coco/train2017", batch_size=64)
schedule = dict(epochs=200)
