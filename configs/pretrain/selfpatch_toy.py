"""DINO+SelfPatch on a small ViT, for toy data and first looks: a minute or two on two CPU cores.

tools/pretrain.sh selfpatch_toy --data data/toy/images

Cost: about 2 CPU minutes (12 epochs of 800 toy images), estimated from 4 of them.

Not a published setting: its figures compare methods at the same tiny budget, and nothing else.
"""

_base_ = "../_base_/toy.py"
