"""Semantic segmentation on ADE20K or any set in its format: UPerNet, Semantic FPN, a linear head, k-NN.

Protocols are the configs in ``configs/ade20k``. mmseg's registries own the process that evaluates, so that nothing of
mmdet may run in it.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from pydantic import Field

from selfpatch.eval.checkpoints.load import LoadedBackbone
from selfpatch.eval.checkpoints.pixels import pixels_of
from selfpatch.eval.datasets.ade20k import OFFICIAL_CLASSES, VOID, ZERO, LabelMaps, listed_names, open_label_maps
from selfpatch.eval.dense import dense_knn
from selfpatch.eval.dense import recipe as recipes
from selfpatch.eval.dense.dense_knn import LookupSettings
from selfpatch.eval.dense.recipe import Recipe, TrainingSettings
from selfpatch.eval.dense.require import import_dense
from selfpatch.eval.tasks import TaskSettings
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.settings import optional
from selfpatch.reports.metrics import SEGMENTATION
from selfpatch.reports.record import Evaluation, Protocol, file_name

TITLE = "ADE20K semantic segmentation"
HEADLINE = ["mIoU"]
MEASURE = SEGMENTATION
EXTRAS = ("save_predictions",)
SIZES = {"fast": {"protocol": "semantic-fpn-fast"}, "mini": {"protocol": "semantic-fpn-mini"}}
DEFAULTS = {"vit": "upernet-160k", "swin": "upernet-swin-160k"}
KNOWN = {"recipe", "insists", "model", "num_classes", "crop", "augment", "slide"}  # keys of a config


LOOK_UP = "dense-knn"  # trains nothing and has no config
UNTRAINED = (LOOK_UP,)
LookupOptions = optional(LookupSettings, "LookupOptions")


class Settings(LookupOptions, TrainingSettings, TaskSettings):
    """The options of the task."""

    data: Path = Field(Path("data/ade20k"), description="where the data set lies")
    crop: int | None = Field(None, ge=32, description="side of training crops, short side of test images")
    multi_scale: bool = Field(False, description="test at 6 scales, flipped too; mean probabilities")
    ignore_zero: bool = Field(False, description="label 0 is nobody's even where the last label is nowhere")
    save_predictions: bool = Field(False, description="keep label maps, as PNGs in ADE20K's format")
    protocol: str | None = recipes.protocol_option("ade20k", LOOK_UP)

    @property
    def lookup(self) -> LookupSettings | None:
        """How labels are looked up, if they are; UserError for options of another protocol than the chosen one."""
        given = {name: getattr(self, name) for name in LookupOptions.model_fields if getattr(self, name) is not None}
        if self.protocol != LOOK_UP:
            if given:
                raise UserError(f"--{next(iter(given))} is an option of --protocol {LOOK_UP}")
            return None
        if others := [*self.overruled, *["multi_scale"] * self.multi_scale]:
            raise UserError(f"--{others[0].replace('_', '-')} is no option of {LOOK_UP}, which trains nothing")
        return LookupSettings(**given, **({} if self.crop is None else {"side": self.crop}))


def open(settings: Settings) -> LabelMaps:
    """The images and label maps; raises UserError on data that cannot be used or does not fit the config."""
    named = None if settings.lookup else settings.protocol
    config = None if named is None else recipes.read("ade20k", named, settings)[2]
    if config and (odd := sorted(set(config.keys()) ^ KNOWN)):
        kind = "unknown key" if odd[0] in config else "no"
        raise UserError(f"{config.filename}: {kind} {odd[0]}: start from configs/_base_/ade20k.py, which has them all")
    dataset = open_label_maps(settings.data, {ZERO} if settings.ignore_zero else ())
    classes = OFFICIAL_CLASSES if dataset.names is None else len(dataset.names)
    if classes < 2:
        raise UserError(f"{settings.data}/classes.json names one class: there is nothing to tell apart")
    if config and config.num_classes not in (None, classes):
        raise UserError(f"{settings.data} has {classes} classes, but {config.filename} insists on {config.num_classes}")
    return dataset


def protocol(settings: Settings, backbone: LoadedBackbone) -> Protocol:
    """The protocol's name and all parameters."""
    if settings.lookup:
        return dense_knn.protocol(settings.lookup, pixels_of(settings, backbone))
    name, recipe, config = _read(settings, backbone)
    more = {"crop": config.crop, "multi_scale": settings.multi_scale, **pixels_of(settings, backbone).departing}
    return recipes.protocol(name + "+multi-scale" * settings.multi_scale, recipe, config, more)


def evaluate(backbone: LoadedBackbone, dataset: LabelMaps, settings: Settings, out: Path) -> Evaluation | None:
    """Train a segmentor on the backbone by the protocol and test it: mIoU, mAcc, aAcc, IoU per class, in per cent."""
    root = dataset.root.resolve()
    kept = {"images": str(root / "images/validation"), "truth": str(root / "annotations/validation")}
    if settings.lookup:
        to = out / file_name(protocol(settings, backbone).name) / "predictions" if settings.save_predictions else None
        names = dataset.names or listed_names(dataset.root)  # mmseg, which knows them too, is not needed here
        found = dense_knn.evaluate(backbone, dataset, settings.lookup, pixels_of(settings, backbone), names, to)
        return replace(found, kept=kept)
    seg = import_dense("selfpatch.eval.dense.segmentation")  # mmseg takes seconds to import: after all checks
    from selfpatch.eval.dense import trainer

    name, recipe, config = _read(settings, backbone)
    classes = class_names(dataset)
    pixels = pixels_of(settings, backbone)
    own = recipes.protocol(name, recipe, config, {"crop": config.crop, **pixels.departing})
    identity = recipes.identity(
        "ade20k", own, dataset.identity, backbone
    )  # how the weights are tested is no part of it
    metric = seg.ImageIoU(classes)
    test = seg.test_pipeline(config.crop, len(classes), settings.multi_scale)
    train = seg.train_pipeline(config.crop, len(classes), config.augment, settings.skip_unreadable)
    plan = trainer.Plan(
        name=name.partition("@")[0],
        scope="mmseg",
        model=model_config(config, recipe, backbone, settings, len(classes)),
        train_data=seg.data_config(root, "training", classes, train),
        test_data=seg.data_config(root, "validation", classes, test),
        metric=metric,
        recipe=recipe,
        identity=identity,
    )
    if settings.save_predictions:
        metric.save_to = plan.folder(out) / f"predictions{'-multi-scale' * settings.multi_scale}"
    _check_share(plan, settings, config.crop)
    if not trainer.train_and_test(plan, out, settings):
        return None
    notes = [f"trained on {len(dataset.pairs('training'))} images"]
    if absent := [name for name in classes if f"IoU/{name}" not in metric.scores.metrics]:
        notes.append(f"neither in the ground truth nor predicted, so without IoU: {', '.join(absent)}")
    if metric.save_to:
        print(f"predictions: {metric.save_to}")
    return replace(metric.scores, notes=notes, kept=kept)


def class_names(dataset: LabelMaps) -> list[str]:
    """The classes of a set: its own, or ADE20K's 150."""
    if dataset.names is not None:
        return list(dataset.names)
    return list(import_dense("mmseg.datasets").ADE20KDataset.METAINFO["classes"])


def model_config(
    config: Config, recipe: Recipe, backbone: LoadedBackbone, settings: Settings, classes: int
) -> dict[str, Any]:
    """The segmentor of a config, with what the checkpoint, the recipe and the data decide filled in."""
    from selfpatch.eval.dense.segmentation import MEAN, STD
    from selfpatch.eval.dense.trainer import backbone_config

    model = config.model.to_dict()
    model["backbone"] = {**backbone_config(backbone, recipe, settings), **model.get("backbone", {})}
    widths = [backbone.model.widths[index] for index in recipe.taps]
    for part in ("neck", "decode_head", "auxiliary_head"):
        if part in model and "in_channels" not in model[part]:
            index = model[part].get("in_index", list(range(len(widths))))
            model[part]["in_channels"] = widths[index] if isinstance(index, int) else [widths[i] for i in index]
    for part in ("decode_head", "auxiliary_head"):
        if part in model:
            model[part]["num_classes"] = classes
    side, pixels = (config.crop, config.crop), pixels_of(settings, backbone)
    model["data_preprocessor"] = {
        "type": "SegDataPreProcessor",
        **(pixels.in_255 if pixels.departing else {"mean": list(MEAN), "std": list(STD)}),
        "bgr_to_rgb": True,
        "pad_val": 0,
        "seg_pad_val": VOID,
        "size": side,
    }
    window = {"mode": "slide", "crop_size": side, "stride": (config.crop * 2 // 3,) * 2}
    return {**model, "train_cfg": {}, "test_cfg": window if config.slide else {"mode": "whole"}}


def _read(settings: Settings, backbone: LoadedBackbone) -> tuple[str, Recipe, Config]:
    """The protocol's name, recipe and config for this backbone; the default one is its family's."""
    chosen = settings.protocol or DEFAULTS[backbone.arch["family"]]
    name, recipe, config = recipes.read("ade20k", chosen, settings, backbone)
    if settings.crop not in (None, config.crop):
        config.crop = settings.crop
        name += f"+crop={settings.crop}"
    return name + "+ignore_zero" * settings.ignore_zero, recipe, config


def _check_share(plan: Any, settings: Settings, crop: int) -> None:
    """Raise UserError where a batch norm would see a single value: UPerNet's coarsest pool leaves one an image."""
    from selfpatch.eval.dense.trainer import processes_of

    processes = processes_of(settings)
    together = processes if torch.cuda.is_available() else 1  # SyncBN
    images = plan.recipe.batch_size * together // (processes * settings.accumulate)
    values = 1 if plan.model["decode_head"]["type"] == "UPerHead" else max(1, crop // 32) ** 2
    if images * values < 2:
        raise UserError("batch norms need two images at a time: raise --batch-size, or lower --gpus or --accumulate")
