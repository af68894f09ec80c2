"""The published multi-crop augmentation as its definition reads: Pillow's own operations, one after the other."""

import math
import random

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
VIEWS = (  # crops, side, scale, probability of a blur and of solarization
    (1, 224, (0.25, 1.0), 1.0, 0.0),
    (1, 224, (0.25, 1.0), 0.1, 0.2),
    (8, 96, (0.05, 0.25), 0.5, 0.0),
)


def random_box(width, height, scale):
    """A box of a random share of the area and a random aspect ratio."""
    for _ in range(10):
        area, ratio = (
            width * height * random.uniform(*scale),
            math.exp(random.uniform(-math.log(4 / 3), math.log(4 / 3))),
        )
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, upper = random.randint(0, width - w), random.randint(0, height - h)
            return left, upper, left + w, upper + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def shift_hue(image, turn):
    """Hue in 8 bits, turned."""
    hue, saturation, value = image.convert("HSV").split()
    hue = Image.fromarray(np.asarray(hue) + np.uint8(int(turn * 255) % 256))
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def jitter(image):
    """Brightness 0.4, contrast 0.4, saturation 0.2 and hue 0.1, in random order."""
    changes = [
        lambda image: ImageEnhance.Brightness(image).enhance(random.uniform(0.6, 1.4)),
        lambda image: ImageEnhance.Contrast(image).enhance(random.uniform(0.6, 1.4)),
        lambda image: ImageEnhance.Color(image).enhance(random.uniform(0.8, 1.2)),
        lambda image: shift_hue(image, random.uniform(-0.1, 0.1)),
    ]
    random.shuffle(changes)
    for change in changes:
        image = change(image)
    return image


def one_crop(image, size, scale, blur, solarize):
    """One crop as a PIL image."""
    image = image.crop(random_box(*image.size, scale)).resize((size, size), Image.Resampling.BICUBIC)
    if random.random() < 0.5:
        image = ImageOps.mirror(image)
    if random.random() < 0.8:
        image = jitter(image)
    if random.random() < 0.2:
        image = image.convert("L").convert("RGB")
    if random.random() < blur:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))
    if random.random() < solarize:
        image = ImageOps.solarize(image, threshold=128)
    return image


def ten_crops(path):
    """An image file -> its ten crops (3, S, S), normalised."""
    with open(path, "rb") as file:
        image = Image.open(file).convert("RGB")
    crops = [one_crop(image, *view) for count, *view in VIEWS for _ in range(count)]
    return [
        (torch.from_numpy(np.array(crop)).permute(2, 0, 1).contiguous().float() / 255 - MEAN) / STD for crop in crops
    ]
