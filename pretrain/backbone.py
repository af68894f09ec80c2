"""What every backbone gives, whichever its family: methods, and facts of its architecture as attributes."""

import importlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from selfpatch.pretrain.cli import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # R, G, B of a pixel in 0 … 1
IMAGENET_STD = (0.229, 0.224, 0.225)
PUBLISHED_DEPTH = 12  # every published choice of out_indices is for so many blocks


MODULES = {"VisionTransformer": "vit", "Swin": "swin"}  # class -> module, imported when a config names it


def build_backbone(config: dict) -> "Backbone":
    """The backbone that ``config`` describes: a class, or the name of one, as ``type``, and its arguments."""
    config = dict(config)
    kind = config.pop("type")
    return (kind if isinstance(kind, type) else backbone_class(kind))(**config)


def backbone_class(name: str) -> "type[Backbone]":
    """The class of a backbone by its name; UserError: there is none."""
    if name not in MODULES:
        raise UserError(f"model.backbone.type={name!r} is no known backbone: choose {' or '.join(MODULES)}")
    return getattr(importlib.import_module(f"selfpatch.pretrain.{MODULES[name]}"), name)


class Backbone(nn.Module):
    """The base of every backbone; a subclass has ``blocks``, in order, and what raises NotImplementedError here."""

    place: str  # what an index of :meth:`forward_intermediates` counts: "block" or "stage"
    widths: Sequence[int]  # of the map that each place gives: its channels
    strides: Sequence[int]  # and the pixels from one token to the next
    default_out_indices: tuple[int, ...]  # the places that feed a pyramid
    out_indices_fixed = False  # whether a pyramid takes these alone, each with a norm of its own
    default_index: int  # the place whose tokens are compared in label propagation
    final_norm_fits: bool  # whether the final norm is as wide as the tokens of every place
    embed_dim: int  # width of the patch tokens of :meth:`forward`
    heads: int  # attention heads of the last block
    patch_size: int
    fingerprint_unit: int  # pixels; certificates are made on an image of 4x6 squares of this side
    checkpointing = False  # whether each block's activations are computed again in the backward pass, to save memory
    positions: str | None = None  # how its table of position embeddings is resized; None: it has none
    mean, std = IMAGENET_MEAN, IMAGENET_STD  # R, G, B of the pixels (0 … 1) of the images it was trained with

    @property
    def arch(self) -> dict:
        """What a checkpoint's metadata and a record say of this network."""
        raise NotImplementedError

    @property
    def stride(self) -> int:
        """Pixels from one patch token of :meth:`forward` to the next."""
        return self.strides[-1]

    @property
    def num_branches(self) -> int:
        """How many residual branches ``noise`` of :meth:`forward` decides about: two a block."""
        return 2 * len(self.blocks)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Encode normalised images (B, 3, H, W) of any size.

        Args:
            images: the batch.
            noise: (2·blocks, B) uniform numbers that decide which residual branches are dropped; None: torch's own.

        Returns:
            the global feature (B, C), the patch tokens (B, h*w, C), both after the final norm, and the grid (h, w).
        """
        raise NotImplementedError

    def forward_intermediates(self, images: Tensor, indices: Sequence[int], norm: bool = True) -> list[Tensor]:
        """The patch tokens at chosen places as maps (B, C, h, w), whose memory is that of the tokens (B, h, w, C).

        Args:
            images: (B, 3, H, W), normalised.
            indices: places from 0; negative ones count from the end.
            norm: whether the final norm is applied wherever it belongs: after each block of a ViT, as DINO publishes
                them, and after the last stage of a Swin.
        """
        raise NotImplementedError

    def attention(self, images: Tensor, blocks: Sequence[int], queries: Tensor) -> tuple[list[Tensor], tuple[int, int]]:
        """What query patches look at: rows of the attention among patches, [CLS] and registers left out.

        Args:
            images: (B, 3, H, W), normalised.
            blocks: block numbers from 0; negative ones count from the end.
            queries: (Q,) flat numbers of patches, row by row.

        Returns:
            for each chosen block (B, heads, Q, h*w), float32, whose rows sum to 1; and the grid (h, w).

        Raises:
            UserError: a patch of this network does not look at the whole image.
        """
        raise UserError(f"a {self.arch['family']} attends within windows: there are no maps of a patch over the image")

    def tokens_along(self, side: int) -> int:
        """How many patch tokens of :meth:`forward` lie along a side of an image, in pixels."""
        raise NotImplementedError

    def scaled_out_indices(self, published: Sequence[int]) -> list[int]:
        """The places at the relative depth of published out_indices: (3, 5, 7, 11) of 12 are (1, 2, 3, 5) of 6."""
        places = len(self.widths)
        return [max(0, math.floor((i + 1) * places / PUBLISHED_DEPTH + 0.5) - 1) for i in published]

    def first_parts(self, count: int) -> list[nn.Module | nn.Parameter]:
        """The embedding and what lies up to the first ``count`` places."""
        raise NotImplementedError

    def unused_parts(self, indices: Sequence[int], norm: bool) -> list[nn.Module]:
        """What :meth:`forward_intermediates` does not run: DDP would wait for its gradients."""
        raise NotImplementedError

    def set_drop_path(self, rate: float) -> None:
        """Let stochastic depth grow linearly from 0 at the first block to ``rate`` at the last."""
        last = max(1, len(self.blocks) - 1)
        for i, block in enumerate(self.blocks):
            block.drop_path.rate = rate * i / last

    def run_block(self, number: int, x: Tensor, noise: Tensor | None, *more: Any) -> Tensor:
        """Tokens after block ``number``, by its two rows of ``noise``, and by what ``more`` its blocks take."""
        noise = None if noise is None else noise[2 * number : 2 * number + 2]
        block = self.blocks[number]
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, noise, *more, use_reentrant=False)
        return block(x, noise, *more)


def sent_to(device: torch.device, host: Tensor) -> Tensor:
    """A tensor of the host on a device, without waiting: a GPU copies it from pinned memory when its turn comes."""
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)
