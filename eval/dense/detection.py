"""What COCO needs of mmdet: the data, and heads that take features of any precision and order in memory."""

import contextlib
import io
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.models.dense_heads import RPNHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.utils import register_all_modules
from mmengine.registry import DATASETS, MODELS
from torch import Tensor

from selfpatch.eval.datasets.checks import require
from selfpatch.eval.datasets.coco import HUGE
from selfpatch.eval.datasets.coco_annotations import read_annotations

with contextlib.redirect_stdout(io.StringIO()):  # it tells which of its optional data sets are not installed
    register_all_modules(init_default_scope=False)


@MODELS.register_module()
class RegionExtractor(SingleRoIExtractor):
    """mmdet's extractor of regions in fp32, whatever the features' precision, and in whatever order they lie in memory.

    mmcv's RoIAlign reads its input as if it were contiguous: of a map in channels-last memory it returns other numbers,
    without a word, and a gradient that belongs to the right ones.
    """

    def forward(self, feats: tuple[Tensor, ...], rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
        """Regions (R, C, side, side) of ``rois`` (R, 5)."""
        return super().forward(tuple(level.float().contiguous() for level in feats), rois.float(), roi_scale_factor)


@MODELS.register_module()
class FloatRPNHead(RPNHead):
    """mmdet's region proposals with outputs in fp32, whatever precision they are computed in."""

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and box offsets of one level (B, C, h, w)."""
        scores, offsets = super().forward_single(x)
        return scores.float(), offsets.float()


@DATASETS.register_module()
class InstanceSet(CocoDataset):
    """mmdet's data set over the project's one reader of annotation files."""

    def __init__(self, *, allowed: Collection[str] = (), **options: Any) -> None:
        self.allowed = allowed
        self.COCOAPI = self._read  # mmdet calls it with the file's path
        super().__init__(**options)

    def _read(self, path: str) -> COCO:
        file = read_annotations(path)
        warnings = require(file.findings, self.allowed)
        if Path(path).stat().st_size > HUGE:  # of which there was a glance only
            print(*(f"warning: {line}" for line in warnings), sep="\n", flush=True)
        index = COCO()
        index.dataset = file.content
        with contextlib.redirect_stdout(io.StringIO()):
            index.createIndex()
        index.img_ann_map, index.cat_img_map = index.imgToAnns, index.catToImgs  # mmdet's names
        return index


def data_config(
    listing: Path,
    folder: Path,
    classes: tuple[str, ...],
    pipeline: list[dict],
    test: bool,
    allowed: Collection[str] = (),
) -> dict[str, Any]:
    """The config of one split of a set in COCO's format."""
    return {
        "type": InstanceSet.__name__,
        "ann_file": str(listing.resolve()),
        "data_prefix": {"img": str(folder.resolve())},
        "metainfo": {"classes": classes},
        "pipeline": pipeline,
        "test_mode": test,
        "allowed": tuple(allowed),
        "filter_cfg": {"filter_empty_gt": True, "min_size": 32},
    }
