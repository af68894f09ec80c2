"""Proof that the weights of a checkpoint are in a model, and a fingerprint of what the model computes from them.

Strict loading and equal tensors say that the weights are there; the fingerprint, tokens on one fixed image, says that
whatever runs later computes the same, with the same number of heads; and both must be finite, the final norm included.
The networks' formulas, written out a second time and compared with these, are in the tests.
"""

import hashlib
import math
from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor

from selfpatch.pretrain.backbone import Backbone

GRID = (4, 6)  # the fixed image, in patches of a ViT: small; not square, and its positions are interpolated
TOLERANCE = 1e-8  # of two float64 forward passes that add up in another order, relative to the largest token


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """The SHA-256 over name, shape, dtype and bytes of every tensor, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fixed_image(unit: int) -> Tensor:
    """The image that every certificate is made on, (1, 3, 4·unit, 6·unit): standard normal noise, the same always."""
    generator = torch.Generator().manual_seed(20220616)
    return torch.randn(1, 3, GRID[0] * unit, GRID[1] * unit, generator=generator, dtype=torch.float64)


@torch.no_grad()
def fingerprint(model: Backbone) -> Tensor:
    """The patch tokens (N, C) after the last block, before any norm, on the fixed image.

    They are computed on the CPU in float64, wherever and in whatever the model runs: so they are always the same.
    """
    model = deepcopy(model).cpu().double().eval()
    (tokens,) = model.forward_intermediates(fixed_image(model.fingerprint_unit), [-1], norm=False)
    return tokens[0].flatten(1).T


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors that hold a number which is not finite: what any task would compute from them is noise."""
    return sorted(name for name, tensor in state.items() if not tensor.isfinite().all())


def tokens_sha(tokens: Tensor) -> str:
    """A short name of a fingerprint, from its values rounded to 3 digits, for the printed line."""
    return hashlib.sha256((tokens * 1e3).round().to(torch.int64).numpy().tobytes()).hexdigest()[:8]


def largest_difference(tokens: Tensor, expected: Tensor) -> float:
    """The largest absolute difference, relative to the largest expected magnitude; infinite where shapes differ."""
    if tokens.shape != expected.shape or not (tokens.isfinite().all() and expected.isfinite().all()):
        return math.inf
    return ((tokens - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).item()
