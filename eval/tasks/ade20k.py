"""Semantic segmentation on ADE20K or any set in its format: UPerNet, Semantic FPN, a linear head on frozen features.

Protocols are the configs in ``configs/ade20k``. mmseg's registries own this process, so that nothing of mmdet may run
in it.
"""

from __future__ import annotations

import argparse
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from selfpatch.eval.checkpoints.load import LoadedBackbone
from selfpatch.eval.datasets.checks import COUNTS, pictures, require
from selfpatch.eval.datasets.doctor import ADE20K_CLASSES, ade20k_classes, check_ade20k
from selfpatch.eval.dense import recipe as recipes
from selfpatch.eval.dense import trainer as training
from selfpatch.eval.dense.recipe import Recipe
from selfpatch.eval.dense.require import import_dense
from selfpatch.pretrain.cli import UserError
from selfpatch.reports.record import Dataset, Evaluation, Protocol

DATA = Path("data/ade20k")
EXTRAS = ("save_predictions",)
DEFAULTS = {"vit": "upernet-160k", "swin": "upernet-swin-160k"}
KNOWN = {"recipe", "insists", "model", "num_classes", "crop", "augment", "slide"}  # keys of a config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options: the protocol with its parameters, how to test, and how to run."""
    parser.add_argument("--crop", type=int, metavar="N", help="side of training crops, short side of test images")
    parser.add_argument("--multi-scale", action="store_true", help="test at 6 scales, flipped too; mean probabilities")
    parser.add_argument("--save-predictions", action="store_true", help="keep label maps, as PNGs in ADE20K's format")
    recipes.add_arguments(parser, "ade20k", None)
    training.add_arguments(parser)


def check(args: argparse.Namespace) -> None:
    """Raise :class:`UserError` on options or data that cannot be used."""
    training.check(args)
    if args.crop is not None and args.crop < 32:
        raise UserError(f"--crop {args.crop}: at least 32 pixels")
    require(check_ade20k(args.data))
    classes = len(class_names(args.data))
    if classes < 2:
        raise UserError(f"{args.data}/classes.json names one class: there is nothing to tell apart")
    if args.protocol is not None:
        _, _, config = recipes.read("ade20k", args)
        if odd := sorted(set(config.keys()) ^ KNOWN):
            kind = "unknown key" if odd[0] in config else "no"
            raise UserError(
                f"{config.filename}: {kind} {odd[0]}: start from configs/_base_/ade20k.py, which has them all"
            )
        if config.num_classes not in (None, classes):
            raise UserError(f"{args.data} has {classes} classes, but {config.filename} insists on {config.num_classes}")


def protocol_of(args: argparse.Namespace, backbone: LoadedBackbone) -> Protocol:
    """The protocol's name and all parameters."""
    name, recipe, config = _read(args, backbone)
    more = {"crop": config.crop, "multi_scale": args.multi_scale}
    return recipes.protocol(name + "+multi-scale" * args.multi_scale, recipe, config, more)


def fingerprint(args: argparse.Namespace) -> Dataset:
    """The data set; ``ade20k-val`` if it is the official one, else the folder's name."""
    root = Path(args.data).resolve()
    sizes = {split: len(pictures(root / "images" / split)) for split in COUNTS["ade20k"]}
    official = sizes == COUNTS["ade20k"] and len(class_names(root)) == ADE20K_CLASSES
    name = "ade20k-val" if official else f"{root.name}-val"
    if name == "ade20k-val" and not official:
        name = f"{root.parent.name}-ade20k-val"  # a folder's name alone makes no benchmark
    return Dataset(name, "validation", _digest(root), miniature=not official)


def evaluate(backbone: LoadedBackbone, args: argparse.Namespace, out: Path) -> Evaluation:
    """Train a segmentor on the backbone by the protocol and test it: mIoU, mAcc, aAcc, IoU per class, in per cent."""
    seg = import_dense("selfpatch.eval.dense.segmentation")  # mmseg takes seconds to import: after all checks

    name, recipe, config = _read(args, backbone)
    root, classes = Path(args.data).resolve(), class_names(args.data)
    identity = {  # of the trained weights: how they are tested is no part of it
        "task": "ade20k",
        "protocol": recipes.protocol(name, recipe, config, {"crop": config.crop}).as_json(),
        "data": _digest(root),
        "checkpoint": backbone.checkpoint_sha256,
        "weights": backbone.weights_sha256,
        "arch": backbone.arch,
    }
    kept = f"predictions{'-multi-scale' * args.multi_scale}" if args.save_predictions else None
    folder = Path(out) / recipe.folder_name(identity)
    metric = seg.ImageIoU(classes, folder / kept if kept else None)
    test = seg.test_pipeline(config.crop, len(classes), args.multi_scale)
    train = seg.train_pipeline(config.crop, len(classes), config.augment)
    plan = training.Plan(
        scope="mmseg",
        model=model_config(config, recipe, backbone, args, len(classes)),
        train_data=seg.data_config(root, "training", classes, train),
        test_data=seg.data_config(root, "validation", classes, test),
        metric=metric,
        recipe=recipe,
        identity=identity,
    )
    _check_share(plan, args, config.crop)
    try:
        training.train_and_test(plan, Path(out), args)
    except UserError as error:  # one of a loading process brings its traceback along
        raise UserError(str(error).strip().splitlines()[-1].rpartition("UserError: ")[2]) from None
    notes = [f"trained on {len(pictures(root / 'images/training'))} images"]
    if absent := [name for name in classes if f"IoU/{name}" not in metric.metrics]:
        notes.append(f"neither in the ground truth nor predicted, so without IoU: {', '.join(absent)}")
    if kept:
        print(f"predictions: {folder / kept}")
    return Evaluation(metric.metrics, metric.units, notes)


def class_names(root: str | Path) -> list[str]:
    """The classes of a set: from ``classes.json``, or ADE20K's 150."""
    names = ade20k_classes(root)
    if names is None:
        from mmseg.datasets import ADE20KDataset

        names = list(ADE20KDataset.METAINFO["classes"])
    return names


def model_config(
    config: Config, recipe: Recipe, backbone: LoadedBackbone, args: argparse.Namespace, classes: int
) -> dict[str, Any]:
    """The segmentor of a config, with what the checkpoint, the recipe and the data decide filled in."""
    from selfpatch.eval.dense.segmentation import IGNORED, MEAN, STD

    model = config.model.to_dict()
    model["backbone"] = {**training.backbone_config(backbone, args, recipe), **model.get("backbone", {})}
    widths = [backbone.model.widths[index] for index in recipe.taps]
    for part in ("neck", "decode_head", "auxiliary_head"):
        if part in model and "in_channels" not in model[part]:
            index = model[part].get("in_index", list(range(len(widths))))
            model[part]["in_channels"] = widths[index] if isinstance(index, int) else [widths[i] for i in index]
    for part in ("decode_head", "auxiliary_head"):
        if part in model:
            model[part]["num_classes"] = classes
    side = (config.crop, config.crop)
    model["data_preprocessor"] = {
        "type": "SegDataPreProcessor",
        "mean": list(MEAN),
        "std": list(STD),
        "bgr_to_rgb": True,
        "pad_val": 0,
        "seg_pad_val": IGNORED,
        "size": side,
    }
    window = {"mode": "slide", "crop_size": side, "stride": (config.crop * 2 // 3,) * 2}
    return {**model, "train_cfg": {}, "test_cfg": window if config.slide else {"mode": "whole"}}


def _read(args: argparse.Namespace, backbone: LoadedBackbone) -> tuple[str, Recipe, Config]:
    """The protocol's name, recipe and config for this backbone; the default one is its family's."""
    args.protocol = args.protocol or DEFAULTS[backbone.arch["family"]]
    name, recipe, config = recipes.read("ade20k", args, backbone)
    if args.crop not in (None, config.crop):
        config.crop = args.crop
        name += f"+crop={args.crop}"
    return name, recipe, config


def _check_share(plan: training.Plan, args: argparse.Namespace, crop: int) -> None:
    """Raise UserError where a batch norm would see a single value: UPerNet's coarsest pool leaves one an image."""
    processes = args.gpus if args.launcher == "none" else training.launched_processes(args.launcher)
    together = processes if torch.cuda.is_available() else 1  # SyncBN
    images = plan.recipe.batch_size * together // (processes * args.accumulate)
    values = 1 if plan.model["decode_head"]["type"] == "UPerHead" else max(1, crop // 32) ** 2
    if images * values < 2:
        raise UserError("batch norms need two images at a time: raise --batch-size, or lower --gpus or --accumulate")


@lru_cache(1)
def _digest(root: Path) -> str:
    """SHA-256 of names and sizes of all files, the first 4 KiB of each, and the validation masks in full."""
    digest = hashlib.sha256("\n".join(class_names(root)).encode())
    for folder in ("images/training", "annotations/training", "images/validation", "annotations/validation"):
        for path in pictures(root / folder).values():
            digest.update(f"\n{folder}/{path.name} {path.stat().st_size}\n".encode())
            with open(path, "rb") as file:
                digest.update(file.read() if folder == "annotations/validation" else file.read(4096))
    return digest.hexdigest()
