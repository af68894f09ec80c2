"""The feature pyramid that detectors and segmentors see: a checkpoint's backbone, tapped at four depths.

The one class, :class:`SelfPatchPyramid`, is registered in mmengine's root registry, where both libraries find it. Its
architecture and weights come from the checkpoint. The Runner initialises every module again after the model is built,
so the weights enter in :meth:`SelfPatchPyramid.init_weights`, and :class:`CertifyBackbone` proves just before the first
iteration that they are still there.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner
from torch import Tensor, nn

from selfpatch.eval.checkpoints.load import LoadedBackbone, load_backbone
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.swin import Swin
from selfpatch.pretrain.vit import VisionTransformer

PUBLISHED_DEPTH = 12  # every published choice of taps is for 12 blocks


def scaled_taps(arch: dict, published: Sequence[int]) -> list[int]:
    """Where a backbone is tapped: its four stages (Swin), or blocks at the relative depth of ``published`` ones.

    Args:
        arch: of the backbone.
        published: blocks of a 12-block ViT: (3, 5, 7, 11) of 12 are (1, 2, 3, 5) of 6.
    """
    if arch["family"] == "swin":
        return [0, 1, 2, 3]
    return [max(0, math.floor((block + 1) * arch["depth"] / PUBLISHED_DEPTH + 0.5) - 1) for block in published]


def out_channels(arch: dict, taps: Sequence[int] = (0, 1, 2, 3)) -> list[int]:
    """The widths of the maps of a pyramid over ``arch``: what a neck or head takes as ``in_channels``."""
    if arch["family"] == "swin":  # each stage is twice as wide as the one before
        return [arch["dim"] * 2**tap for tap in taps]
    return [arch["dim"]] * len(taps)


def base_stride(patch: int) -> int:
    """The stride, 8 or 16, of the published pyramid that a patch size is nearer to."""
    return 16 if patch > 11 else 8


class ViTAccess:
    """What the pyramid asks of a ViT; another family needs the same answers."""

    @staticmethod
    def places(vit: VisionTransformer) -> int:
        """How many blocks can be tapped."""
        return vit.depth

    @staticmethod
    def set_drop_path(vit: VisionTransformer, rate: float) -> None:
        """Stochastic depth that grows linearly from 0 at the first block to ``rate`` at the last."""
        for block, own in zip(vit.blocks, torch.linspace(0, rate, vit.depth).tolist()):
            block.drop_path.rate = own

    @staticmethod
    def first_parts(vit: VisionTransformer, count: int) -> list[nn.Module | nn.Parameter | None]:
        """The embedding and the first ``count`` blocks."""
        return [vit.patch_embed, vit.cls_token, vit.register_tokens, vit.pos_embed, *vit.blocks[:count]]

    @staticmethod
    def unused_parts(vit: VisionTransformer, taps: Sequence[int], norm: bool) -> list[nn.Module]:
        """What no tap depends on: DDP would wait for its gradients."""
        return [*vit.blocks[max(taps) + 1 :], *([] if norm else [vit.norm])]

    @staticmethod
    def maps(vit: VisionTransformer, images: Tensor, taps: Sequence[int], norm: bool) -> list[Tensor]:
        """The patch tokens after each tapped block as a map (B, C, h, w) at the stride of a patch."""
        for step in (base_stride(vit.patch_size), vit.patch_size):  # right and bottom, with the mean colour
            images = F.pad(images, (0, -images.shape[3] % step, 0, -images.shape[2] % step))
        tokens, (h, w) = vit.tokens_of(images, taps, norm=norm)
        # contiguous: a view of tokens lies channels last in memory, and so would all that convolutions make of it
        return [t[:, vit.num_prefix :].transpose(1, 2).reshape(len(t), -1, h, w).contiguous() for t in tokens]

    @staticmethod
    def scales(vit: VisionTransformer, taps: Sequence[int]) -> list[nn.Module]:
        """From four maps at the stride of a patch to strides 4, 8, 16, 32, as published for BEiT and XCiT."""
        C = vit.embed_dim
        base = base_stride(vit.patch_size)
        if base == 16:
            stack = [
                nn.Sequential(
                    nn.ConvTranspose2d(C, C, 2, 2), nn.BatchNorm2d(C), nn.GELU(), nn.ConvTranspose2d(C, C, 2, 2)
                ),
                nn.ConvTranspose2d(C, C, 2, 2),
                nn.Identity(),
                nn.MaxPool2d(2, ceil_mode=True),  # a last odd row stays
            ]
        else:
            stack = [
                nn.ConvTranspose2d(C, C, 2, 2),
                nn.Identity(),
                nn.MaxPool2d(2, ceil_mode=True),
                nn.MaxPool2d(4, ceil_mode=True),
            ]
        if vit.patch_size != base:
            stack = [nn.Sequential(ToStride(vit.patch_size, base), level) for level in stack]
        return stack


class SwinAccess:
    """The same of a Swin transformer, whose four stages are at strides 4, 8, 16, 32 by themselves."""

    @staticmethod
    def places(swin: Swin) -> int:
        """How many stages can be tapped."""
        return len(swin.layers)

    @staticmethod
    def set_drop_path(swin: Swin, rate: float) -> None:
        """Stochastic depth that grows linearly from 0 at the first block of all to ``rate`` at the last."""
        for block, own in zip(swin.blocks, torch.linspace(0, rate, len(swin.blocks)).tolist()):
            block.drop_path.rate = own

    @staticmethod
    def first_parts(swin: Swin, count: int) -> list[nn.Module]:
        """The embedding and the first ``count`` stages."""
        return [swin.patch_embed, *swin.layers[:count]]

    @staticmethod
    def unused_parts(swin: Swin, taps: Sequence[int], norm: bool) -> list[nn.Module]:
        """Later stages, and the final norm: each tap has a fresh norm instead, as published."""
        return [swin.norm, *swin.layers[max(taps) + 1 :], *filter(None, [swin.layers[max(taps)].downsample])]

    @staticmethod
    def maps(swin: Swin, images: Tensor, taps: Sequence[int], norm: bool) -> list[Tensor]:
        """The grid of each tapped stage as a map (B, C, h, w)."""
        stages = swin.stages(images, max(taps))
        return [stages[tap].permute(0, 3, 1, 2) for tap in taps]

    @staticmethod
    def scales(swin: Swin, taps: Sequence[int]) -> list[nn.Module]:
        """A norm for each map."""
        return [MapNorm(swin.widths[tap]) for tap in taps]


ACCESS = {"vit": ViTAccess, "swin": SwinAccess}


class MapNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map (B, C, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


class ToStride(nn.Module):
    """Resamples a map from one stride to another, bilinearly, so that every cell keeps its place in the image."""

    def __init__(self, stride: int, wanted: int) -> None:
        super().__init__()
        self.stride, self.wanted = stride, wanted

    def forward(self, x: Tensor) -> Tensor:
        # by scale, not by size: the map may reach beyond the image by part of a cell
        return F.interpolate(x, scale_factor=self.stride / self.wanted, mode="bilinear", recompute_scale_factor=False)


@MODELS.register_module()
class SelfPatchPyramid(nn.Module):
    """Four feature maps at strides 4, 8, 16, 32 of any checkpoint's backbone.

    Args:
        checkpoint: the file; it says the architecture.
        taps: which blocks (Swin: stages) the maps come from; None: the published 3, 5, 7, 11 of 12, scaled to the
            depth (Swin: all four).
        tap_norm: whether the ViT's final norm is applied to each tap (DINO publishes features so; the SelfPatch code
            does not, nor does its ViT have one).
        pyramid: False leaves the maps as they are (ViT: at the stride of a patch): what a linear head on frozen
            features takes.
        drop_path: rate of stochastic depth at the last block.
        frozen_blocks: how many of the first blocks (Swin: stages), with the embedding, do not train.
        frozen: the whole checkpoint does not train and runs in eval mode; only the pyramid's own layers do.
        checkpointing: recompute activations in the backward pass, to save memory.
        which, heads, unsafe: as for :func:`~selfpatch.eval.checkpoints.load.load_backbone`.

    Raises:
        UserError: the checkpoint cannot be loaded, or a tap lies beyond its depth.
    """

    def __init__(
        self,
        checkpoint: str,
        taps: Sequence[int] | None = None,
        tap_norm: bool = False,
        pyramid: bool = True,
        drop_path: float = 0.0,
        frozen_blocks: int = 0,
        frozen: bool = False,
        checkpointing: bool = False,
        which: str | None = None,
        heads: int | None = None,
        unsafe: bool = False,
    ) -> None:
        super().__init__()
        self.loaded: LoadedBackbone = load_backbone(checkpoint, which=which, heads=heads, unsafe=unsafe)
        arch = self.loaded.arch
        self.access = ACCESS[arch["family"]]
        self.taps = scaled_taps(arch, (3, 5, 7, 11)) if taps is None else list(taps)
        places = self.access.places(self.loaded.model)
        if not all(0 <= tap < places for tap in self.taps):
            raise UserError(f"taps={self.taps}: {checkpoint} can be tapped from 0 to {places - 1}")
        if tap_norm and not (arch["family"] == "vit" and arch["final_norm"]):
            raise UserError(f"tap_norm: {checkpoint} ({arch['name']}) has no final norm that fits all its taps")
        self.tap_norm, self.frozen, self.frozen_blocks = tap_norm, frozen, frozen_blocks
        self.encoder = copy.deepcopy(self.loaded.model)  # `loaded` keeps what was read, whatever happens to this one
        self.encoder.checkpointing = checkpointing
        self.access.set_drop_path(self.encoder, drop_path)
        scales = self.access.scales(self.encoder, self.taps) if pyramid else [nn.Identity() for _ in self.taps]
        if len(scales) != len(self.taps):
            raise UserError(f"taps={self.taps}: the pyramid has {len(scales)} levels and needs as many taps")
        self.scales = nn.ModuleList(scales)
        self.out_channels = out_channels(arch, self.taps)

        self.still = [self.encoder] if frozen else self.access.first_parts(self.encoder, frozen_blocks)
        if not frozen and not frozen_blocks:
            self.still = []
        for part in [*self.still, *self.access.unused_parts(self.encoder, self.taps, tap_norm)]:
            if part is not None:
                part.requires_grad_(False)
        self.train()

    def init_weights(self) -> None:
        """Put the checkpoint's weights in and prove it; mmengine calls this after everything else is initialised."""
        self.encoder.load_state_dict(self.loaded.state)
        self.certify()

    def certify(self) -> None:
        """Raise :class:`UserError` unless the encoder holds exactly the checkpoint's weights and gives its features."""
        self.loaded.check(self.encoder)

    def train(self, mode: bool = True) -> SelfPatchPyramid:
        """Training mode for what trains."""
        super().train(mode)
        for part in self.still:
            if isinstance(part, nn.Module):
                part.eval()  # no drop path where nothing adapts to it
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Encode normalised images (B, 3, H, W) of any size.

        Returns:
            maps (B, C, h, w) of strides 4, 8, 16, 32, over the image padded to whole patches.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.access.maps(self.encoder, images, self.taps, self.tap_norm)
        # mmcv's RoIAlign misreads what is not contiguous (eval/coco.py, RegionExtractor)
        return tuple(scale(level).contiguous() for scale, level in zip(self.scales, maps))


@HOOKS.register_module()
class CertifyBackbone(Hook):
    """Proves, right before the first iteration, that the model that trains holds the checkpoint's weights."""

    priority = "VERY_LOW"  # after every hook that could still touch weights

    def before_train(self, runner: Runner) -> None:
        """Check the certificate, unless the run goes on from weights that have already been trained."""
        backbone = (runner.model.module if is_model_wrapper(runner.model) else runner.model).backbone
        if runner.iter == 0 or backbone.frozen:
            backbone.certify()
            for line in backbone.loaded.certificate:
                runner.logger.log(logging.INFO, "certificate: %s", line)
