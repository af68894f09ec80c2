"""Multi-crop augmentation (DINO, arXiv 2104.14294, section 3.2; BYOL, arXiv 2006.07733, appendix B).

All randomness of a sample comes from one generator that its address (seed, epoch, index) starts, so that neither
workers nor restarts nor the number of processes change a pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class View:
    """How one kind of crop is drawn; the defaults are those of DINO's first global crop.

    Args:
        size: side of the crop in pixels.
        scale: smallest and largest share of the image's area that it shows.
        count: how many crops of this kind an image gives.
        blur, solarise, grey, jitter, flip: probability of each change.
        brightness, contrast, saturation, hue: strengths of the colour jitter.
        interpolation: "bicubic" or "bilinear".
    """

    size: int
    scale: tuple[float, float]
    count: int = 1
    blur: float = 1.0
    solarise: float = 0.0
    grey: float = 0.2
    jitter: float = 0.8
    flip: float = 0.5
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    interpolation: str = "bicubic"

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """One crop of an RGB image."""
        crop = image.crop(random_box(*image.size, self.scale, rng)).resize(
            (self.size, self.size), RESAMPLING[self.interpolation]
        )
        if rng.random() < self.flip:
            crop = ImageOps.mirror(crop)
        if rng.random() < self.jitter:
            crop = self.jitter_colours(crop, rng)
        if rng.random() < self.grey:
            crop = crop.convert("L").convert("RGB")
        if rng.random() < self.blur:
            crop = crop.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0)))  # radius in pixels
        if rng.random() < self.solarise:
            crop = ImageOps.solarize(crop, threshold=128)
        return crop

    def jitter_colours(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Brightness, contrast, saturation and hue changed at random, in random order."""
        enhancers = (
            (ImageEnhance.Brightness, self.brightness),
            (ImageEnhance.Contrast, self.contrast),
            (ImageEnhance.Color, self.saturation),
        )
        for change in rng.permutation(4):
            if change == 3:
                image = shift_hue(image, rng.uniform(-self.hue, self.hue))
            else:
                enhance, strength = enhancers[change]
                image = enhance(image).enhance(rng.uniform(max(0.0, 1 - strength), 1 + strength))
        return image


def random_box(
    width: int, height: int, scale: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A box (left, upper, right, lower) with a random share of the area and an aspect ratio from 3/4 to 4/3.

    After ten draws that do not fit: the largest centred box whose aspect ratio is within these bounds.
    """
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, upper = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
            return int(left), int(upper), int(left + w), int(upper + h)
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def shift_hue(image: Image.Image, turn: float) -> Image.Image:
    """Turn the hue by ``turn`` of a full circle (-0.5 to 0.5)."""
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([(level + round(turn * 255)) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def is_local(view: str) -> bool:
    """Whether a view of this name is for the student alone, whatever its size: DINO's local crops."""
    return view.startswith("local")


class MultiCrop:
    """An image -> its crops, grouped by size: local crops, which no teacher sees as targets, behind all others.

    Args:
        views: the config's ``views``: name -> arguments of :class:`View`, in the order in which the crops come.
    """

    def __init__(self, views: dict[str, dict]) -> None:
        self.views = {name: View(**view) for name, view in views.items()}

    @property
    def groups(self) -> list[tuple[bool, int]]:
        """Of each group of crops whether they are local, and their size: in order, each once."""
        groups = dict.fromkeys((is_local(name), view.size) for name, view in self.views.items() if view.count)
        return sorted(groups, key=lambda group: group[0])  # stable: else as the views come

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> list[Tensor]:
        """One uint8 tensor (V, 3, S, S) a group."""
        groups: dict[tuple[bool, int], list[np.ndarray]] = {group: [] for group in self.groups}
        for name, view in self.views.items():
            for _ in range(view.count):
                groups[is_local(name), view.size].append(np.asarray(view(image, rng)))
        return [torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous() for crops in groups.values()]
