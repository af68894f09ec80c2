"""Where a patch is: a learned table resized to an image's grid, or rotary position embeddings."""

import logging
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROPE_BASE = 100.0  # DINOv3's (arXiv 2508.10104)
RESIZINGS = ("dino", "bicubic", "antialiased")


def resized_table(table: Tensor, side: int, h: int, w: int, how: str = "dino") -> Tensor:
    """A table of position embeddings (1, prefix + side², C) for a grid of h x w patches, (1, prefix + h·w, C).

    Args:
        table: rows for prefix tokens, then those of a square grid.
        side: of that grid.
        h, w: the grid that is wanted.
        how: ``"dino"``: bicubic by *scale factor*, whose 0.1 enters the sampling coordinates, as published with DINO
            and DINOv2; ``"bicubic"``: by size, as Hugging Face and mmpretrain do; ``"antialiased"``: so, and smoothed
            where the grid shrinks, as timm does.
    """
    if (h, w) == (side, side):
        return table
    prefix, patches = table.split([table.shape[1] - side * side, side * side], dim=1)
    patches = patches.view(1, side, side, -1).permute(0, 3, 1, 2)  # (1, C, side, side)
    if how == "dino":
        scale = ((h + 0.1) / side, (w + 0.1) / side)
        resized = F.interpolate(patches, scale_factor=scale, mode="bicubic", align_corners=False)
        if resized.shape[2:] != (h, w):  # floor(side · (h + 0.1)/side) missed h by a rounding
            logging.getLogger(__name__).warning("position embeddings: %dx%d interpolated by size, not by scale", h, w)
            how = "bicubic"
    if how != "dino":
        smooth = how == "antialiased"
        resized = F.interpolate(patches, size=(h, w), mode="bicubic", align_corners=False, antialias=smooth)
    return torch.cat([prefix, resized.permute(0, 2, 3, 1).reshape(1, h * w, -1)], dim=1)


def rope_periods(head_width: int, base: float = ROPE_BASE) -> Tensor:
    """The periods (head_width / 4,) of rotary position embeddings: a geometric series from 1 towards ``base``."""
    return base ** (4 * torch.arange(head_width // 4, dtype=torch.float32) / head_width)


class RotaryPositions(nn.Module):
    """Rotary position embeddings of patch tokens in two dimensions, as DINOv3 has them (arXiv 2508.10104, section 3.2).

    A patch's centre has coordinates in [-1, 1] down and across; a head's channels turn by 2π·coordinate/period, the
    first quarter of them for the place down, the second for that across, the other half as their partners.
    """

    def __init__(self, head_width: int, base: float = ROPE_BASE) -> None:
        super().__init__()
        if head_width % 4:
            raise ValueError(f"rotary positions need heads whose width is a multiple of 4, not {head_width}")
        self.register_buffer("periods", rope_periods(head_width, base))

    def forward(self, h: int, w: int, num_prefix: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine (num_prefix + h·w, head_width) for every token; prefix tokens do not turn."""
        down, across = (
            2 * (torch.arange(side, dtype=self.periods.dtype, device=self.periods.device) + 0.5) / side - 1
            for side in (h, w)
        )
        centres = torch.stack(torch.meshgrid(down, across, indexing="ij"), dim=-1).view(h * w, 2, 1)
        angles = (2 * math.pi * centres / self.periods).flatten(1).tile(2)  # (h*w, head_width)
        angles = F.pad(angles, (0, 0, num_prefix, 0))  # cos 0 = 1, sin 0 = 0
        return angles.cos(), angles.sin()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Queries or keys (..., N, d) turned by what :class:`RotaryPositions` gives."""
    cos, sin = (part.to(x.dtype) for part in turn)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
