"""What normalises pixels: the mean and std that a checkpoint was trained with, unless others are given."""

from typing import Annotated

from pydantic import Field

from selfpatch.eval.checkpoints.load import LoadedBackbone
from selfpatch.pretrain.backbone import IMAGENET_MEAN, IMAGENET_STD
from selfpatch.pretrain.settings import Settings, as_json

Positive = Annotated[float, Field(gt=0)]
Mean, Std = tuple[float, float, float], tuple[Positive, Positive, Positive]


class PixelSettings(Settings):
    """The options of a task."""

    mean: Mean | None = Field(None, description="R,G,B of a mean pixel, in 0 … 1 [the checkpoint's]")
    std: Std | None = Field(None, description="R,G,B that divide what is left [the checkpoint's]")


class Pixels(Settings):
    """What is used; other values than ImageNet's show in a protocol's name."""

    mean: Mean = IMAGENET_MEAN
    std: Std = IMAGENET_STD

    @property
    def in_255(self) -> dict[str, list[float]]:
        """As mmdet and mmseg take them, for pixels of 0 … 255."""
        return {key: [255 * value for value in values] for key, values in as_json(self).items()}

    @property
    def departing(self) -> dict[str, list[float]]:
        """Both of them unless they are ImageNet's."""
        return {} if self == IMAGENET else as_json(self)


IMAGENET = Pixels()


def pixels_of(settings: PixelSettings, backbone: LoadedBackbone) -> Pixels:
    """The mean and std for a backbone: those that are given, else its own."""
    model = backbone.model
    return Pixels(mean=settings.mean or tuple(model.mean), std=settings.std or tuple(model.std))
