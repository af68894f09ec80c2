"""DINO+SelfPatch on a small ViT, for toy data and first looks: a minute of one CPU core.

tools/pretrain.sh selfpatch_toy --data data/toy/images

Cost: about 1 CPU minute (12 epochs of 800 toy images; 58 s measured on one core).

Not a published setting: its figures compare methods at the same tiny budget, and nothing else.
"""

_base_ = "../_base_/toy.py"
