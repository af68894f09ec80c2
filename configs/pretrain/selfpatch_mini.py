"""DINO+SelfPatch on a small ViT and a thousand photographs, two CPU cores.

tools/pretrain.sh selfpatch_mini --data shared/data/imagenet-mini

Cost: about 65 CPU minutes (100 epochs of 1,000 images), estimated from a few steps.

Not a published setting: its figures compare methods at the same small budget, and nothing else.
"""

_base_ = "../_base_/mini.py"
