"""Multi-crop augmentation (DINO, arXiv 2104.14294, section 3.2; BYOL, arXiv 2006.07733, appendix B).

All randomness of a sample comes from one generator that its address (seed, epoch, index) starts, so that neither
workers nor restarts nor the number of processes change a pixel.

Every operation is the published one, which Pillow defines, in the fastest form at hand: PyTorch's resizing of uint8
images has Pillow's antialiasing, OpenCV does the rest. Pictures are uint8 arrays (H, W, 3) in RGB.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from selfpatch.pretrain.images import read_picture
from selfpatch.pretrain.renamed import modern
from selfpatch.pretrain.settings import Count, Natural, NotNegative, Share

Box = tuple[int, int, int, int]  # left, upper, right, lower

Area = Annotated[float, Field(gt=0, le=1)]  # a share of the image's
TRUNCATE = -0.5  # Pillow's blends cut off the fraction that OpenCV's round
SOLARIZED = np.array([level if level < 128 else 255 - level for level in range(256)], np.uint8)


@dataclass(frozen=True)
class View:
    """How one kind of crop is drawn; the defaults are those of DINO's first global crop.

    Args:
        size: side of the crop in pixels.
        scale: smallest and largest share of the image's area that it shows.
        count: how many crops of this kind an image gives.
        blur, solarize, grayscale, jitter, flip: probability of each change.
        brightness, contrast, saturation, hue: strengths of the colour jitter.
        interpolation: "bicubic" or "bilinear".
    """

    size: Count
    scale: tuple[Area, Area]
    count: Natural = 1
    blur: Share = 1.0
    solarize: Share = 0.0
    grayscale: Share = 0.2
    jitter: Share = 0.8
    flip: Share = 0.5
    brightness: NotNegative = 0.4
    contrast: NotNegative = 0.4
    saturation: NotNegative = 0.2
    hue: NotNegative = 0.1
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    def __call__(self, picture: np.ndarray, box: Box, rng: np.random.Generator) -> np.ndarray:
        """The crop (S, S, 3) that shows a box of a picture (H, W, 3)."""
        crop = resized_crop(picture, box, self.size, self.interpolation)
        if rng.random() < self.flip:
            crop = cv2.flip(crop, 1)
        if rng.random() < self.jitter:
            crop = self.jitter_colours(crop, rng)
        if rng.random() < self.grayscale:
            crop = grayscale(crop)
        if rng.random() < self.blur:
            crop = gaussian_blur(crop, rng.uniform(0.1, 2.0))
        if rng.random() < self.solarize:
            crop = cv2.LUT(crop, SOLARIZED)
        return crop

    def jitter_colours(self, crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Brightness, contrast, saturation and hue changed at random, in random order.

        A factor f blends the crop with black, with its mean luma or with its grayscale: f·crop + (1 - f)·other.
        """
        for change in rng.permutation(4):
            if change == 3:
                crop = shift_hue(crop, rng.uniform(-self.hue, self.hue))
                continue
            strength = (self.brightness, self.contrast, self.saturation)[change]
            factor = rng.uniform(max(0.0, 1 - strength), 1 + strength)
            if change == 0:
                crop = cv2.convertScaleAbs(crop, alpha=factor, beta=TRUNCATE)
            elif change == 1:
                mean = round(cv2.mean(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY))[0])
                crop = cv2.addWeighted(crop, factor, crop, 0, (1 - factor) * mean + TRUNCATE)
            else:
                crop = cv2.addWeighted(crop, factor, grayscale(crop), 1 - factor, TRUNCATE)
        return crop


def random_box(width: int, height: int, scale: tuple[float, float], rng: np.random.Generator) -> Box:
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


def resized_crop(picture: np.ndarray, box: Box, size: int, interpolation: str) -> np.ndarray:
    """The box of a picture at size x size pixels, antialiased: nothing outside the box has a say."""
    left, upper, right, lower = box
    crop = torch.from_numpy(np.array(picture[upper:lower, left:right]))[None].permute(0, 3, 1, 2)  # channels last
    crop = F.interpolate(crop, (size, size), mode=interpolation, antialias=True)  # and so it stays
    return np.ascontiguousarray(crop[0].permute(1, 2, 0).numpy())


def grayscale(crop: np.ndarray) -> np.ndarray:
    """The luma (ITU-R BT.601) of a picture in three equal channels."""
    return cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def shift_hue(crop: np.ndarray, turn: float) -> np.ndarray:
    """Turn the hue by ``turn`` of a full circle (-0.5 to 0.5)."""
    hsv = cv2.cvtColor(crop, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(turn * 256) % 256)  # 8 bits wrap round, as a circle does
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def gaussian_blur(crop: np.ndarray, radius: float) -> np.ndarray:
    """Pillow's Gaussian blur: three box filters in a row, here as one kernel (Gwosdek et al., 2011).

    Args:
        crop: (H, W, 3).
        radius: the standard deviation in pixels.
    """
    variance = radius**2 / 3  # of each of the three
    whole = int((math.sqrt(12 * variance + 1) - 1) / 2)  # the box covers 2·whole + 1 pixels, and a part of two more
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    box = np.array([part, *[1.0] * (2 * whole + 1), part]) / (2 * whole + 1 + 2 * part)
    kernel = np.convolve(np.convolve(box, box), box).astype(np.float32)
    return cv2.sepFilter2D(crop, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)


def is_local(view: str) -> bool:
    """Whether a view of this name is for the student alone, whatever its size: DINO's local crops."""
    return view.startswith("local")


class MultiCrop:
    """A picture -> its crops, grouped by size: local crops, which no teacher sees as targets, behind all others.

    Args:
        views: the config's ``views``: name -> arguments of :class:`View`, in the order in which the crops come.
    """

    def __init__(self, views: dict[str, dict]) -> None:
        kinds = [(is_local(name), View(**modern(view))) for name, view in views.items()]
        self.crops = [(local, view) for local, view in kinds for _ in range(view.count)]

    @property
    def groups(self) -> list[tuple[bool, int]]:
        """Of each group of crops whether they are local, and their size: in order, each once."""
        groups = dict.fromkeys((local, view.size) for local, view in self.crops)
        return sorted(groups, key=lambda group: group[0])  # stable: else as the views come

    def read(self, source: Path | bytes, rng: np.random.Generator, name: str | None = None) -> list[Tensor]:
        """As a call, of a file or its bytes, which are decoded no larger than the crops need.

        Raises:
            UserError: the file, which ``name`` may name, cannot be read.
        """
        boxes: list[Box] = []

        def reduction(height: int, width: int) -> int:
            boxes.extend(self.draw_boxes(height, width, rng))
            return self.largest_reduction(boxes)

        picture = read_picture(source, reduction=reduction, name=name)
        factor = self.largest_reduction(boxes)
        return self.cut(picture, [tuple(round(edge / factor) for edge in box) for box in boxes], rng)

    def __call__(self, picture: np.ndarray, rng: np.random.Generator) -> list[Tensor]:
        """One uint8 tensor (V, 3, S, S) a group."""
        height, width, _ = picture.shape
        return self.cut(picture, self.draw_boxes(height, width, rng), rng)

    def draw_boxes(self, height: int, width: int, rng: np.random.Generator) -> list[Box]:
        """A random box for each crop."""
        return [random_box(width, height, view.scale, rng) for _, view in self.crops]

    def largest_reduction(self, boxes: list[Box]) -> int:
        """By how much (8, 4, 2 or 1) both sides of a picture may shrink so that each box keeps its crop's pixels."""
        sides = [min(box[2] - box[0], box[3] - box[1]) / view.size for (_, view), box in zip(self.crops, boxes)]
        return next((factor for factor in (8, 4, 2) if min(sides) >= factor), 1)

    def cut(self, picture: np.ndarray, boxes: list[Box], rng: np.random.Generator) -> list[Tensor]:
        """The crops that show these boxes."""
        groups: dict[tuple[bool, int], list[np.ndarray]] = {group: [] for group in self.groups}
        for (local, view), box in zip(self.crops, boxes):
            groups[local, view.size].extend(cv2.split(view(picture, box, rng)))
        return [torch.from_numpy(np.stack(planes)).unflatten(0, (-1, 3)) for planes in groups.values()]
