"""COCO instance segmentation: a checkpoint's pyramid in Mask R-CNN (arXiv 1703.06870), fine-tuned and tested.

Protocols are the configs in ``configs/coco``. Any set in COCO's format can be evaluated: the class names come from its
annotation files. mmdet's registries own this process, so that nothing of mmseg may run in it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
from pathlib import Path
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.models.dense_heads import RPNHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS
from torch import Tensor

from selfpatch.eval.checkpoints.load import LoadedBackbone
from selfpatch.eval.datasets.checks import COUNTS, require
from selfpatch.eval.datasets.coco import check_coco, coco_paths, photograph_names, photograph_sizes
from selfpatch.eval.dense import recipe as recipes
from selfpatch.eval.dense import trainer as training
from selfpatch.eval.dense.coco_metric import InstanceMetric
from selfpatch.pretrain.cli import UserError
from selfpatch.reports.record import Dataset, Evaluation, Protocol

DATA = Path("data/coco")
EXTRAS = ("check_scorer",)
KNOWN = {"recipe", "insists", "model", "num_classes", "scales", "train_pipeline", "test_pipeline"}  # keys of a config
DEFAULTS = {"vit": "mask-rcnn-1x", "swin": "mask-rcnn-swin-1x"}


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options: where the photographs are, the protocol with its parameters, and how to run."""
    parser.add_argument("--images", type=Path, metavar="DIR", help="photographs, if not below --data")
    parser.add_argument("--check-scorer", action="store_true", help="check APs, APm, APl with pycocotools too")
    recipes.add_arguments(parser, "coco", None)
    training.add_arguments(parser)


def check(args: argparse.Namespace) -> None:
    """Raise UserError on options out of range and on data that is not whole."""
    training.check(args)
    config = {} if args.protocol is None else recipes.read("coco", args)[2]
    if unknown := sorted(set(config) - KNOWN):
        raise UserError(f"{config.filename}: unknown key {unknown[0]}: known are {', '.join(sorted(KNOWN))}")
    require(check_coco(args.data, args.images))
    classes = len(_truth(args)["categories"])
    if config.get("num_classes") not in (None, classes):
        raise UserError(f"{args.data} has {classes} classes, but {config.filename} insists on {config.num_classes}")


def protocol_of(args: argparse.Namespace, backbone: LoadedBackbone) -> Protocol:
    """The protocol's name and all parameters."""
    return recipes.protocol(*_read(args, backbone))


def fingerprint(args: argparse.Namespace) -> Dataset:
    """The data set: both annotation files, and name and size of every photograph."""
    digest, names = hashlib.sha256(), []
    for listing, folder in coco_paths(args.data, args.images).values():
        content = listing.read_bytes()
        digest.update(hashlib.sha256(content).digest())
        names = photograph_names(content)
        sizes = photograph_sizes(folder, names)
        digest.update("".join(f"{name} {sizes.get(name)}\n" for name in names).encode())
    official = listing.name == "instances_val2017.json" and len(names) == COUNTS["coco"]["val"]
    name = "coco-val2017" if official else f"{Path(args.data).resolve().name}-val"
    return Dataset(name, "val", digest.hexdigest(), miniature=not official)


def evaluate(backbone: LoadedBackbone, args: argparse.Namespace, out: Path) -> Evaluation:
    """Train and test: box and mask AP with their parts and per class, in per cent; units an image."""
    metric = InstanceMetric(_truth(args), args.check_scorer)
    training.train_and_test(_plan(backbone, args, metric), out, args)
    return Evaluation(metric.scores.metrics, metric.scores.units, metric.scores.notes)


def _read(args: argparse.Namespace, backbone: LoadedBackbone) -> tuple[str, recipes.Recipe, Config]:
    """The protocol's name, recipe and config for this backbone; the default one is its family's."""
    args.protocol = args.protocol or DEFAULTS[backbone.arch["family"]]
    return recipes.read("coco", args, backbone)


def _truth(args: argparse.Namespace) -> dict[str, Any]:
    """The annotations of what is scored."""
    listing, _ = coco_paths(args.data, args.images)["val"]
    return json.loads(listing.read_text(encoding="utf-8"))


def _plan(backbone: LoadedBackbone, args: argparse.Namespace, metric: InstanceMetric) -> training.Plan:
    name, recipe, config = _read(args, backbone)
    classes = tuple(category["name"] for category in metric.truth["categories"])
    model = config.model.to_dict()
    model["backbone"] = training.backbone_config(backbone, args, recipe)
    model["neck"]["in_channels"] = [backbone.model.widths[index] for index in recipe.taps]
    for head in ("bbox_head", "mask_head"):
        model["roi_head"][head]["num_classes"] = len(classes)

    with contextlib.redirect_stdout(io.StringIO()):  # it tells which of its optional data sets are not installed
        register_all_modules(init_default_scope=False)
    data = {}
    for split, (listing, folder) in coco_paths(args.data, args.images).items():
        data[split] = {
            "type": InstanceSet.__name__,
            "ann_file": str(listing.resolve()),
            "data_prefix": {"img": str(folder.resolve())},
            "metainfo": {"classes": classes},
            "pipeline": config[f"{'train' if split == 'train' else 'test'}_pipeline"],
            "test_mode": split == "val",
            "filter_cfg": {"filter_empty_gt": True, "min_size": 32},
        }
    identity = {
        "task": "coco",
        "protocol": recipes.protocol(name, recipe, config).as_json(),
        "data": fingerprint(args).sha256,
        "checkpoint": backbone.checkpoint_sha256,
        "weights": backbone.weights_sha256,
        "arch": backbone.arch,
    }
    return training.Plan("mmdet", model, data["train"], data["val"], metric, recipe, identity, grouped=True)
