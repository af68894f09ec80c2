"""DINO+SelfPatch on a small ViT, for toy data and first looks: minutes on two CPU cores.

tools/pretrain.sh selfpatch_toy --data data/toy/images

Cost: about 6 CPU minutes (12 epochs of 800 toy images), more where others work.

Not a published setting: its figures compare methods at the same tiny budget, and nothing else.
"""

_base_ = "../_base_/toy.py"
