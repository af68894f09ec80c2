"""What COCO needs of mmdet: the data, and heads that take features of any precision and order in memory."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.models.dense_heads import RPNHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.utils import register_all_modules
from mmengine.registry import DATASETS, MODELS
from torch import Tensor

from selfpatch.pretrain.cli import UserError

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
    """mmdet's data set for files that leave out ``area``, and with one line for those that it cannot read."""

    def load_data_list(self) -> list[dict]:
        """A dictionary for each image."""
        try:
            return super().load_data_list()
        except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.ann_file} cannot be read ({type(error).__name__}: {error}): tools/prepare_data.sh coco --all "
                "tells what is wrong with it"
            ) from None

    def parse_data_info(self, raw_data_info: dict) -> dict:
        """One image's dictionary; only whether an area is above 0 counts here, so that of the box will do."""
        for annotation in raw_data_info["raw_ann_info"]:
            annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
        return super().parse_data_info(raw_data_info)


def data_config(
    listing: Path, folder: Path, classes: tuple[str, ...], pipeline: list[dict], test: bool
) -> dict[str, Any]:
    """The config of one split of a set in COCO's format."""
    return {
        "type": InstanceSet.__name__,
        "ann_file": str(listing.resolve()),
        "data_prefix": {"img": str(folder.resolve())},
        "metainfo": {"classes": classes},
        "pipeline": pipeline,
        "test_mode": test,
        "filter_cfg": {"filter_empty_gt": True, "min_size": 32},
    }
