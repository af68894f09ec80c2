"""Pixels are normalised as the checkpoint was trained; what departs from ImageNet's shows in the protocol's name."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from selfpatch.eval import tasks
from selfpatch.eval.checkpoints.pixels import IMAGENET, Pixels, PixelSettings, pixels_of
from selfpatch.pretrain.backbone import IMAGENET_MEAN, IMAGENET_STD
from selfpatch.pretrain.vit import VisionTransformer

HALF = (0.5, 0.5, 0.5)


def loaded(mean=IMAGENET_MEAN, std=IMAGENET_STD) -> SimpleNamespace:
    model = VisionTransformer(embed_dim=24, depth=2, heads=2, img_size=32, patch_size=8)
    arch = {"family": "vit", "name": "vit", "depth": 2}
    model.mean, model.std = mean, std
    return SimpleNamespace(model=model, arch=arch, checkpoint="x.pth", tap_norm=False)


def test_they_are_the_checkpoints_unless_given():
    assert pixels_of(PixelSettings(), loaded()) == IMAGENET
    assert pixels_of(PixelSettings(), loaded(HALF, HALF)) == Pixels(mean=HALF, std=HALF)
    assert pixels_of(PixelSettings(mean=IMAGENET_MEAN), loaded(HALF, HALF)) == Pixels(mean=IMAGENET_MEAN, std=HALF)


@pytest.mark.parametrize("name", ["knn", "linear", "davis", "coco", "ade20k"])
def test_what_departs_shows_in_the_name_of_every_protocol(name, tmp_path):
    task = tasks.load(name)
    own = {"protocol": "mask-rcnn-mini"} if name == "coco" else {"protocol": "linear-mini"} if name == "ade20k" else {}
    settings = task.Settings(data=tmp_path, **own)
    usual, other = (task.protocol(settings, backbone) for backbone in (loaded(), loaded(HALF, HALF)))
    assert "mean" not in usual.name
    assert other.name == f"{usual.name}+mean=0.5,0.5,0.5+std=0.5,0.5,0.5"
    assert other.parameters["mean"] == other.parameters["std"] == [0.5, 0.5, 0.5]
    given = task.Settings(data=tmp_path, mean=IMAGENET_MEAN, **own)
    assert "mean" not in task.protocol(given, loaded(HALF, HALF)).name
