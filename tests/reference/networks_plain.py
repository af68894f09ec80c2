"""The ViT's and the Swin's formulas written out once more, on a file's tensors alone: slow and plain, on one image.

Nothing of the project's networks is used, so that a fingerprint that equals these tokens proves them right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def written_out_tokens(state: Mapping[str, Tensor], arch: Mapping, image: Tensor) -> Tensor:
    """The patch tokens (N, C) after the last block, before any norm, of an image (1, 3, H, W), in float64."""
    state = {name: tensor.double() for name, tensor in state.items()}
    tokens = swin_tokens if arch["family"] == "swin" else vit_tokens
    return tokens(state, arch["heads"], image)


def vit_tokens(state: Mapping[str, Tensor], heads: int, image: Tensor) -> Tensor:
    """arXiv 2010.11929, with LayerScale and registers where the file has them."""
    weight = state["patch_embed.proj.weight"]
    C, patch = weight.shape[0], weight.shape[-1]
    x = F.conv2d(image, weight, state["patch_embed.proj.bias"], stride=patch)  # (1, C, h, w)
    cls, positions = state.get("cls_token"), state["pos_embed"]
    G = math.isqrt(positions.shape[1])
    table = positions[:, -G * G :].view(1, G, G, C).permute(0, 3, 1, 2)
    grid = x.shape[2:]
    if grid != (G, G):
        scale = tuple((side + 0.1) / G for side in grid)
        table = F.interpolate(table, scale_factor=scale, mode="bicubic", align_corners=False)
    x = (x + table).flatten(2).transpose(1, 2)[0]  # (h*w, C)
    prefix = [] if cls is None else [cls[0] + positions[0, :1]]
    prefix += [state["register_tokens"][0]] if "register_tokens" in state else []
    x = torch.cat([*prefix, x])
    for i in range(_count(state, "blocks")):
        part = _under(state, f"blocks.{i}.")
        x = x + part.get("ls1.gamma", 1) * _attention(_norm(x, part, "norm1", 1e-6), part, heads)
        x = x + part.get("ls2.gamma", 1) * _mlp(_norm(x, part, "norm2", 1e-6), part)
    return x[-grid[0] * grid[1] :]


def swin_tokens(state: Mapping[str, Tensor], heads: list[int], image: Tensor) -> Tensor:
    """arXiv 2103.14030; attention over all pairs of tokens, with those of other windows masked out."""
    x = F.conv2d(image, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=4)
    x = _norm(x[0].permute(1, 2, 0), _under(state, "patch_embed."), "norm", 1e-5)  # (h, w, C)
    for stage, count in enumerate(heads):
        for i in range(_count(_under(state, f"layers.{stage}."), "blocks")):
            part = _under(state, f"layers.{stage}.blocks.{i}.")
            table = part["attn.relative_position_bias_table"]
            window, (h, w) = (math.isqrt(len(table)) + 1) // 2, x.shape[:2]
            shift = window // 2 if i % 2 and min(h, w) > window else 0
            padded = F.pad(_norm(x, part, "norm1", 1e-5), (0, 0, 0, -w % window, 0, -h % window))
            bias = _window_bias(padded.shape, table, window, shift)
            attended = _attention(padded.flatten(0, 1), part, count, bias)
            x = x + attended.view_as(padded)[:h, :w]
            x = x + _mlp(_norm(x, part, "norm2", 1e-5), part)
        if stage < len(heads) - 1:
            part = _under(state, f"layers.{stage}.downsample.")
            four = torch.cat([x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2]], dim=-1)  # down, then right
            x = _norm(four, part, "norm", 1e-5) @ part["reduction.weight"].T
    return x.flatten(0, 1)


def _window_bias(shape: tuple[int, ...], table: Tensor, window: int, shift: int) -> Tensor:
    """What is added to the attention (heads, H·W, H·W): the relative positions' values, and who may see whom."""
    H, W = shape[:2]
    y, x = torch.meshgrid((torch.arange(H) - shift) % H, (torch.arange(W) - shift) % W, indexing="ij")
    y, x = y.flatten(), x.flatten()
    cell = (y // window) * W + x // window
    # rolled round an edge: in the same window, yet not neighbours in the image
    rows, columns = ((s >= size - window).long() + (s >= size - shift) for s, size in ((y, H), (x, W)))
    region = 3 * rows + columns
    offset = [side[:, None] % window - side[None, :] % window + window - 1 for side in (y, x)]
    bias = table[offset[0] * (2 * window - 1) + offset[1]].permute(2, 0, 1)
    bias = bias - 100.0 * (region[:, None] != region[None, :]) if shift else bias
    return bias.masked_fill(cell[:, None] != cell[None, :], -math.inf)


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _count(state: Mapping[str, Tensor], part: str) -> int:
    return 1 + max(int(name.split(".")[1]) for name in state if name.startswith(f"{part}."))


def _norm(x: Tensor, part: Mapping[str, Tensor], name: str, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return centred / deviation * part[f"{name}.weight"] + part[f"{name}.bias"]


def _mlp(x: Tensor, part: Mapping[str, Tensor]) -> Tensor:
    hidden = F.gelu(x @ part["mlp.fc1.weight"].T + part["mlp.fc1.bias"])
    return hidden @ part["mlp.fc2.weight"].T + part["mlp.fc2.bias"]


def _attention(x: Tensor, part: Mapping[str, Tensor], heads: int, bias: Tensor | float = 0.0) -> Tensor:
    N, C = x.shape
    qkv = x @ part["attn.qkv.weight"].T + part["attn.qkv.bias"]
    q, k, v = qkv.view(N, 3, heads, C // heads).permute(1, 2, 0, 3)  # (heads, N, d)
    mixed = (q @ k.transpose(1, 2) / math.sqrt(C // heads) + bias).softmax(-1) @ v
    return mixed.transpose(0, 1).reshape(N, C) @ part["attn.proj.weight"].T + part["attn.proj.bias"]
