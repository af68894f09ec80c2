"""Proof that the weights of a checkpoint are in a model: what is compared, and on which image."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GRID = (4, 6)  # the fixed image in patches: small enough for any model, not square, so that positions are interpolated
TOLERANCE = 1e-4  # of two float32 forward passes that add up in another order; relative to the largest token


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """The SHA-256 over name, shape, dtype and bytes of every tensor, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def fixed_image(patch: int) -> Tensor:
    """The image that every certificate is made on, (1, 3, 4·patch, 6·patch): standard normal noise, the same always."""
    generator = torch.Generator().manual_seed(20220616)
    return torch.randn(1, 3, GRID[0] * patch, GRID[1] * patch, generator=generator)


@torch.no_grad()
def fingerprint(model: nn.Module) -> Tensor:
    """The tokens (N, C) of a VisionTransformer after its last block, before any norm, on the fixed image."""
    was_training = model.training
    model.eval()
    try:
        image = fixed_image(model.patch_size).to(model.pos_embed.device)
        return model.tokens_of(image, [-1], norm=False)[0][0][0].cpu()
    finally:
        model.train(was_training)


def tokens_sha(tokens: Tensor) -> str:
    """A short name of a fingerprint, from its values rounded to 3 digits, for the printed line."""
    return hashlib.sha256((tokens.double() * 1e3).round().to(torch.int64).numpy().tobytes()).hexdigest()[:8]


@torch.no_grad()
def written_out_tokens(state: Mapping[str, Tensor], heads: int) -> Tensor:
    """What :func:`fingerprint` should give, computed from the file's tensors alone, without the project's ViT.

    The formulas of arXiv 2010.11929 written out once more: this is the independent side of the certificate.
    """
    weight = state["patch_embed.proj.weight"]
    C, patch = weight.shape[0], weight.shape[-1]
    x = F.conv2d(fixed_image(patch), weight, state["patch_embed.proj.bias"], stride=patch)  # (1, C, h, w)
    cls, positions = state.get("cls_token"), state["pos_embed"]
    G = math.isqrt(positions.shape[1])
    table = positions[:, -G * G :].view(1, G, G, C).permute(0, 3, 1, 2)
    if (G, G) != GRID:
        scale = tuple((side + 0.1) / G for side in GRID)
        table = F.interpolate(table, scale_factor=scale, mode="bicubic", align_corners=False)
    x = (x + table).flatten(2).transpose(1, 2)[0]  # (h*w, C)
    prefix = [] if cls is None else [cls[0] + positions[0, :1]]
    prefix += [state["register_tokens"][0]] if "register_tokens" in state else []
    x = torch.cat([*prefix, x])
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    for i in range(depth):
        part = {name.removeprefix(f"blocks.{i}."): t for name, t in state.items() if name.startswith(f"blocks.{i}.")}
        x = x + part.get("ls1.gamma", 1) * _attention(_norm(x, part, "norm1"), part, heads)
        hidden = F.gelu(F.linear(_norm(x, part, "norm2"), part["mlp.fc1.weight"], part["mlp.fc1.bias"]))
        x = x + part.get("ls2.gamma", 1) * F.linear(hidden, part["mlp.fc2.weight"], part["mlp.fc2.bias"])
    return x


def _norm(x: Tensor, part: Mapping[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return centred / deviation * part[f"{name}.weight"] + part[f"{name}.bias"]


def _attention(x: Tensor, part: Mapping[str, Tensor], heads: int) -> Tensor:
    N, C = x.shape
    qkv = x @ part["attn.qkv.weight"].T + part["attn.qkv.bias"]
    q, k, v = qkv.view(N, 3, heads, C // heads).permute(1, 2, 0, 3)  # (heads, N, d)
    mixed = (q @ k.transpose(1, 2) / math.sqrt(C // heads)).softmax(-1) @ v
    return mixed.transpose(0, 1).reshape(N, C) @ part["attn.proj.weight"].T + part["attn.proj.bias"]


def largest_difference(tokens: Tensor, expected: Tensor) -> float:
    """The largest absolute difference, relative to the largest expected magnitude; infinite where shapes differ."""
    if tokens.shape != expected.shape or not (tokens.isfinite().all() and expected.isfinite().all()):
        return math.inf
    return ((tokens - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).item()
