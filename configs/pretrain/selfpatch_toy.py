"""DINO+SelfPatch on a small ViT, for toy data and first looks: minutes on two CPU cores.

tools/pretrain.sh selfpatch_toy --data data/toy/images

Not a published setting: its figures compare methods at the same tiny budget, and nothing else.
"""

_base_ = "../_base_/toy.py"
