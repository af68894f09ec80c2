"""COCO instance segmentation: a checkpoint's pyramid in Mask R-CNN (arXiv 1703.06870), fine-tuned and tested.

Protocols are the configs in ``configs/coco``. Any set in COCO's format can be evaluated: the class names come from its
annotation files. mmdet's registries own the process that evaluates, so that nothing of mmseg may run in it.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from mmengine.config import Config
from pydantic import Field

from selfpatch.eval.checkpoints.load import LoadedBackbone
from selfpatch.eval.checkpoints.pixels import pixels_of
from selfpatch.eval.datasets.coco import Instances, open_instances
from selfpatch.eval.datasets.coco_sense import LOOSE
from selfpatch.eval.dense import recipe as recipes
from selfpatch.eval.dense.recipe import TrainingSettings
from selfpatch.eval.dense.require import import_dense
from selfpatch.eval.tasks import TaskSettings
from selfpatch.pretrain.cli import UserError
from selfpatch.reports.metrics import DETECTION
from selfpatch.reports.record import Evaluation, Protocol

TITLE = "COCO instance segmentation"
HEADLINE = ["bbox AP", "mask AP"]
MEASURE = DETECTION
EXTRAS = ("check_scorer",)
SIZES = {"fast": {"protocol": "mask-rcnn-fast"}, "mini": {"protocol": "mask-rcnn-mini"}}
DEFAULTS = {"vit": "mask-rcnn-1x", "swin": "mask-rcnn-swin-1x"}
KNOWN = {"recipe", "insists", "model", "num_classes", "scales", "train_pipeline", "test_pipeline"}  # keys of a config


class Settings(TrainingSettings, TaskSettings):
    """The options of the task."""

    data: Path = Field(Path("data/coco"), description="where the data set lies")
    images: Path | None = Field(None, description="photographs, if not below --data")
    loose_boxes: bool = Field(False, description="take boxes that do not fit their masks, or their images, as meant")
    check_scorer: bool = Field(False, description="check APs, APm, APl with pycocotools too")
    protocol: str | None = recipes.protocol_option("coco")


def open(settings: Settings) -> Instances:
    """The annotation files and photographs; raises UserError on data that is not whole or does not fit the config."""
    config = {} if settings.protocol is None else recipes.read("coco", settings.protocol, settings)[2]
    if unknown := sorted(set(config) - KNOWN):
        raise UserError(f"{config.filename}: unknown key {unknown[0]}: known are {', '.join(sorted(KNOWN))}")
    dataset = open_instances(settings.data, settings.images, _allowed(settings))
    classes = len(dataset.truth["categories"])
    if config.get("num_classes") not in (None, classes):
        raise UserError(f"{settings.data} has {classes} classes, but {config.filename} insists on {config.num_classes}")
    return dataset


def protocol(settings: Settings, backbone: LoadedBackbone) -> Protocol:
    """The protocol's name and all parameters."""
    return recipes.protocol(*_read(settings, backbone), pixels_of(settings, backbone).departing)


def evaluate(backbone: LoadedBackbone, dataset: Instances, settings: Settings, out: Path) -> Evaluation | None:
    """Train and test: box and mask AP with their parts and per class, in per cent; units an image."""
    from selfpatch.eval.dense import trainer

    metric = import_dense("selfpatch.eval.dense.coco_metric").InstanceMetric(dataset.truth, settings.check_scorer)
    if not trainer.train_and_test(plan(backbone, dataset, settings, metric), out, settings):
        return None
    return replace(metric.scores, kept={"images": str(dataset.paths["val"][1].resolve())})


def _read(settings: Settings, backbone: LoadedBackbone) -> tuple[str, recipes.Recipe, Config]:
    """The protocol's name, recipe and config for this backbone; the default one is its family's."""
    chosen = settings.protocol or DEFAULTS[backbone.arch["family"]]
    name, recipe, config = recipes.read("coco", chosen, settings, backbone)
    return name + "+loose_boxes" * settings.loose_boxes, recipe, config


def _allowed(settings: Settings) -> set[str]:
    return {LOOSE} if settings.loose_boxes else set()


def plan(backbone: LoadedBackbone, dataset: Instances, settings: Settings, metric: Any) -> Any:
    """What is trained and how it is measured, as the trainer takes it."""
    detection = import_dense("selfpatch.eval.dense.detection")  # mmdet takes seconds to import: after all checks
    from selfpatch.eval.dense import trainer
    from selfpatch.eval.dense.loading import with_one_reader

    name, recipe, config = _read(settings, backbone)
    classes = tuple(category["name"] for category in dataset.truth["categories"])
    model = config.model.to_dict()
    model["backbone"] = trainer.backbone_config(backbone, recipe, settings)
    model["neck"]["in_channels"] = [backbone.model.widths[index] for index in recipe.taps]
    for head in ("bbox_head", "mask_head"):
        model["roi_head"][head]["num_classes"] = len(classes)
    pixels = pixels_of(settings, backbone)
    if pixels.departing:
        model["data_preprocessor"] |= pixels.in_255
    train = with_one_reader(config.train_pipeline, settings.skip_unreadable)
    data = {"train": train, "val": with_one_reader(config.test_pipeline)}
    train, val = (
        detection.data_config(*dataset.paths[split], classes, pipeline, split == "val", _allowed(settings))
        for split, pipeline in data.items()
    )
    own = recipes.protocol(name, recipe, config, pixels.departing)
    identity = recipes.identity("coco", own, dataset.identity, backbone)
    stem = name.partition("@")[0]
    return trainer.Plan(stem, "mmdet", model, train, val, metric, recipe, identity, grouped=True)
