"""The linear head on frozen features at short side 128: half a minute on a CPU, for trying things out on a few images.

tools/eval_ade20k.sh checkpoint.pth --data shared/data/ade-mini --protocol linear-mini

Its figures compare checkpoints on the same small set with each other and with nothing else. Version 1 took the final
norm of those families whose authors do, under another name, so that it could not be compared across families.
"""

_base_ = "linear-40k.py"
crop = 128
recipe = dict(version=2, iters=200, batch_size=4, lr=1e-2, warmup_iters=20, warmup_start=0.01, tap_layernorm=True)
