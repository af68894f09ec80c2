"""Pictures and label maps for mmdet's and mmseg's pipelines, read by the project's one reader."""

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS

from selfpatch.eval.datasets.ade20k import read_classes
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.images import labels_size, read_picture


class Reader(BaseTransform):
    """The base of what reads files.

    Args:
        skip_unreadable: say what cannot be read and let training go on with another image; else it ends in one line.
    """

    def __init__(self, skip_unreadable: bool = False) -> None:
        self.skip_unreadable = skip_unreadable

    def transform(self, results: dict) -> dict | None:
        """``results`` with what was read; None: take another image."""
        try:
            return {**results, **self.read(results)}
        except UserError as error:
            if not self.skip_unreadable:
                raise
            print(f"warning: skipped: {error}", flush=True)
            return None

    def read(self, results: dict) -> dict:
        """What becomes part of ``results``."""
        raise NotImplementedError


@TRANSFORMS.register_module()
class ReadPicture(Reader):
    """Reads ``img_path`` as BGR (H, W, 3) uint8, equal to mmcv's ``LoadImageFromFile`` for ordinary files.

    The size of the labels (``height`` and ``width``, else that of ``seg_map_path``) says which way up a picture with an
    EXIF orientation belongs.
    """

    def read(self, results: dict) -> dict:
        """``img``, ``img_shape`` and ``ori_shape``."""
        size = (results["height"], results["width"]) if "height" in results else labels_size(results["seg_map_path"])
        image = read_picture(results["img_path"], size)
        if (shape := image.shape[:2]) != size:
            sizes = "{}x{}, its labels {}x{}".format(*shape[::-1], *size[::-1])
            raise UserError(f"{results['img_path']} is {sizes}: picture and labels must have the same size")
        return {"img": np.ascontiguousarray(image[:, :, ::-1]), "img_shape": shape, "ori_shape": shape}


@TRANSFORMS.register_module()
class ReadLabels(Reader):
    """Reads ``seg_map_path`` as ``gt_seg_map``: label i is class i - 1, 0 and 255 are ignored, others are refused."""

    def __init__(self, classes: int, skip_unreadable: bool = False) -> None:
        super().__init__(skip_unreadable)
        self.classes = classes

    def read(self, results: dict) -> dict:
        """``gt_seg_map``; UserError names a file with a label that is none."""
        classes = read_classes(results["seg_map_path"], self.classes)
        return {"gt_seg_map": classes, "seg_fields": [*results["seg_fields"], "gt_seg_map"]}


def with_one_reader(pipeline: Any, skip_unreadable: bool = False) -> Any:
    """A pipeline's config with :class:`ReadPicture` wherever it, or mmcv's ``LoadImageFromFile``, stands."""
    if isinstance(pipeline, (list, tuple)):
        steps = (with_one_reader(step, skip_unreadable) for step in pipeline)
        return tuple(steps) if isinstance(pipeline, tuple) else list(steps)
    if not isinstance(pipeline, dict):
        return pipeline
    if pipeline.get("type") in ("LoadImageFromFile", ReadPicture.__name__):
        return {"type": ReadPicture.__name__, "skip_unreadable": skip_unreadable}
    return {key: with_one_reader(value, skip_unreadable) for key, value in pipeline.items()}
