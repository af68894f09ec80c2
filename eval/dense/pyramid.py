"""The feature pyramid that detectors and segmentors see: a checkpoint's backbone, tapped at four depths.

The one class, :class:`SelfPatchPyramid`, is registered in mmengine's root registry, where both libraries find it. Its
architecture and weights come from the checkpoint. The Runner initialises every module again after the model is built,
so the weights enter in :meth:`SelfPatchPyramid.init_weights`, and :class:`CertifyBackbone` proves just before the first
iteration that they are still there.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import Tensor, nn

from selfpatch.eval.checkpoints.load import LoadedBackbone
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.runner import unwrapped


def base_stride(patch: int) -> int:
    """The stride, 8 or 16, of the published pyramid that a patch size is nearer to."""
    return 16 if patch > 11 else 8


def scales_of(widths: Sequence[int], strides: Sequence[int]) -> list[nn.Module]:
    """What brings the maps of a backbone to strides 4, 8, 16, 32.

    Maps of one stride, as a ViT's, are resampled, as published for BEiT and XCiT; maps that are there by themselves get
    a norm each.
    """
    if len(set(strides)) > 1:
        return [MapNorm(width) for width in widths]
    C, stride = widths[0], strides[0]
    base = base_stride(stride)
    if base == 16:
        stack = [
            nn.Sequential(nn.ConvTranspose2d(C, C, 2, 2), nn.BatchNorm2d(C), nn.GELU(), nn.ConvTranspose2d(C, C, 2, 2)),
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
    if stride != base:
        stack = [nn.Sequential(ToStride(stride, base), level) for level in stack]
    return stack


class MapNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map (B, C, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


def layer_norm(x: Tensor) -> Tensor:
    """A map (B, C, h, w) normalised over the channels of each cell: LayerNorm without parameters."""
    variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
    return (x - mean) * (variance + 1e-6).rsqrt()


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
        loaded: the checkpoint; it says the architecture.
        taps: which blocks (Swin: stages) the maps come from; None: the published 3, 5, 7, 11 of 12, scaled to the
            depth (Swin: all four).
        tap_norm: whether the ViT's final norm is applied to each tap (DINO publishes features so; the SelfPatch code
            does not, nor does its ViT have one).
        tap_layernorm: whether each tap is normalised over its channels by a LayerNorm without parameters, which treats
            networks with and without a final norm alike.
        pyramid: False leaves the maps as they are (ViT: at the stride of a patch): what a linear head on frozen
            features takes.
        drop_path: rate of stochastic depth at the last block.
        frozen_blocks: how many of the first blocks (Swin: stages), with the embedding, do not train.
        frozen: the whole checkpoint does not train and runs in eval mode; only the pyramid's own layers do.
        checkpointing: recompute activations in the backward pass, to save memory.

    Raises:
        UserError: a tap lies beyond the checkpoint's depth.
    """

    def __init__(
        self,
        loaded: LoadedBackbone,
        taps: Sequence[int] | None = None,
        tap_norm: bool = False,
        tap_layernorm: bool = False,
        pyramid: bool = True,
        drop_path: float = 0.0,
        frozen_blocks: int = 0,
        frozen: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.loaded = loaded
        self.encoder = copy.deepcopy(loaded.model)  # `loaded` keeps what was read, whatever happens to this one
        self.taps = list(self.encoder.default_out_indices if taps is None else taps)
        places = len(self.encoder.widths)
        if not all(0 <= tap < places for tap in self.taps):
            raise UserError(f"taps={self.taps}: {loaded.checkpoint} can be tapped from 0 to {places - 1}")
        self.tap_layernorm = tap_layernorm
        if tap_norm and not self.encoder.final_norm_fits:
            name = self.loaded.arch["name"]
            raise UserError(f"tap_norm: {loaded.checkpoint} ({name}) has no final norm that fits all its taps")
        self.tap_norm, self.frozen, self.frozen_blocks = tap_norm, frozen, frozen_blocks
        self.encoder.checkpointing = checkpointing
        self.encoder.set_drop_path(drop_path)
        self.out_channels, strides = (
            [of[tap] for tap in self.taps] for of in (self.encoder.widths, self.encoder.strides)
        )
        scales = scales_of(self.out_channels, strides) if pyramid else [nn.Identity() for _ in self.taps]
        if len(scales) != len(self.taps):
            raise UserError(f"taps={self.taps}: the pyramid has {len(scales)} levels and needs as many taps")
        self.scales = nn.ModuleList(scales)
        self.one_stride = strides[0] if len(set(strides)) == 1 else None

        self.frozen_parts = (
            [self.encoder] if frozen else self.encoder.first_parts(frozen_blocks) if frozen_blocks else []
        )
        for part in [*self.frozen_parts, *self.encoder.unused_parts(self.taps, tap_norm)]:
            part.requires_grad_(False)
        self.train()

    def init_weights(self) -> None:
        """Put the checkpoint's weights in again: mmengine calls this after everything else is initialised."""
        self.encoder.load_state_dict(self.loaded.state)

    def certify(self) -> None:
        """Raise :class:`UserError` unless the encoder holds exactly the checkpoint's weights and gives its features."""
        self.loaded.check(self.encoder)

    def train(self, mode: bool = True) -> "SelfPatchPyramid":
        """Training mode for what trains."""
        super().train(mode)
        for part in self.frozen_parts:
            if isinstance(part, nn.Module):
                part.eval()  # no drop path where nothing adapts to it
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Encode normalised images (B, 3, H, W) of any size.

        Returns:
            maps (B, C, h, w) of strides 4, 8, 16, 32, over the image padded to whole patches.
        """
        if self.one_stride:
            for step in (base_stride(self.one_stride), self.one_stride):  # right and bottom, with the mean colour
                images = F.pad(images, (0, -images.shape[3] % step, 0, -images.shape[2] % step))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.encoder.forward_intermediates(images, self.taps, self.tap_norm)
            if self.tap_layernorm:
                maps = [layer_norm(level) for level in maps]
        if self.one_stride:  # convolutions of maps that lie channels last in memory would make more of these
            maps = [level.contiguous() for level in maps]
        # mmcv's RoIAlign misreads what is not contiguous (eval/coco.py, RegionExtractor)
        return tuple(scale(level).contiguous() for scale, level in zip(self.scales, maps))


class CertifyBackbone(Hook):
    """Proves, right before the first iteration, that the model that trains holds the checkpoint's weights."""

    priority = "VERY_LOW"  # after every hook that could still touch weights

    def before_train(self, runner: Runner) -> None:
        """Check the certificate, unless the run goes on from weights that have already been trained."""
        backbone = unwrapped(runner.model).backbone
        if runner.iter == 0 or backbone.frozen:
            backbone.certify()
            for line in backbone.loaded.certificate:
                runner.logger.info("certificate: %s", line)
