"""What ADE20K needs of mmseg: the data, a segmentor that merges views, a linear head, and IoU kept for each image."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.structures import PixelData
from mmseg.datasets import BaseSegDataset
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import DATASETS, MODELS
from mmseg.utils import register_all_modules
from PIL import Image
from torch import Tensor, nn

from selfpatch.eval.datasets.ade20k import pairs_in
from selfpatch.eval.dense import loading  # noqa: F401 - registers what pipelines name
from selfpatch.eval.dense.pixels import evaluation_of, pixel_counts, small_png
from selfpatch.pretrain.files import atomic_path
from selfpatch.reports.record import Evaluation

warnings.filterwarnings("ignore", "Default ``avg_non_ignore``")  # as published: ignored pixels count in the mean
register_all_modules(init_default_scope=False)  # losses, heads and transforms that configs name

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's, of 0 … 255 RGB
RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # of a multi-scale test, as published with every recipe here


@DATASETS.register_module()
class LabelledImages(BaseSegDataset):
    """Images with label maps in ADE20K's format, paired by name: label 0 is ignored, label i is class i - 1."""

    def load_data_list(self) -> list[dict]:
        common = {"label_map": None, "reduce_zero_label": self.reduce_zero_label}
        folders = (Path(self.data_prefix[key]) for key in ("img_path", "seg_map_path"))
        return [
            {"img_path": str(image), "seg_map_path": str(mask), **common, "seg_fields": []}
            for image, mask in pairs_in(*folders)
        ]


def data_config(root: Path, split: str, classes: Sequence[str], pipeline: list[dict]) -> dict[str, Any]:
    """The config of one split of a set in ADE20K's format."""
    folders = {"img_path": str(root / "images" / split), "seg_map_path": str(root / "annotations" / split)}
    return {
        "type": "LabelledImages",
        "data_prefix": folders,
        "metainfo": {"classes": tuple(classes)},
        "reduce_zero_label": True,
        "pipeline": pipeline,
    }


def train_pipeline(crop: int, classes: int, augment: dict[str, Any], skip_unreadable: bool = False) -> list[dict]:
    """Random resize around a short side of ``crop``, random crop, flip, colours: mmseg's for ADE20K.

    Args:
        crop: side of the square crops in pixels; the long side is at most four times as long before the resize.
        classes: how many there are.
        augment: ``ratios`` of the resize, ``cat_max_ratio``, ``flip`` and ``photometric`` of the config.
        skip_unreadable: go on with another image where one cannot be read.
    """
    return [
        {"type": "ReadPicture", "skip_unreadable": skip_unreadable},
        {"type": "ReadLabels", "classes": classes, "skip_unreadable": skip_unreadable},
        {"type": "RandomResize", "scale": (4 * crop, crop), "ratio_range": augment["ratios"], "keep_ratio": True},
        {"type": "RandomCrop", "crop_size": (crop, crop), "cat_max_ratio": augment["cat_max_ratio"]},
        {"type": "RandomFlip", "prob": augment["flip"]},
        *([{"type": "PhotoMetricDistortion"}] if augment["photometric"] else []),
        {"type": "PackSegInputs"},
    ]


def test_pipeline(crop: int, classes: int, multi_scale: bool) -> list[dict]:
    """A short side of ``crop`` (the long one at most four times that); ``multi_scale``: :data:`RATIOS` x flip."""
    load, labels = {"type": "ReadPicture"}, {"type": "ReadLabels", "classes": classes}  # these in their own size

    def resize(ratio: float) -> dict:
        return {"type": "Resize", "scale": (int(4 * crop * ratio), int(crop * ratio)), "keep_ratio": True}

    if not multi_scale:
        return [load, resize(1), labels, {"type": "PackSegInputs"}]
    views = [
        [resize(ratio) for ratio in RATIOS],
        [{"type": "RandomFlip", "prob": 0.0}, {"type": "RandomFlip", "prob": 1.0}],
        [labels],
        [{"type": "PackSegInputs"}],
    ]
    return [load, {"type": "TestTimeAug", "transforms": views}]


@MODELS.register_module()
class Segmentor(EncoderDecoder):
    """mmseg's segmentor, which also takes several views of an image and averages their class probabilities."""

    @torch.no_grad()
    def test_step(self, data: dict) -> list:
        """Predictions for a batch, or for a batch of views as ``TestTimeAug`` packs them."""
        if isinstance(data["inputs"][0], Tensor):
            return super().test_step(data)
        total = 0
        for view in range(len(data["inputs"])):
            batch = self.data_preprocessor({key: value[view] for key, value in data.items()}, False)
            metas = [sample.metainfo for sample in batch["data_samples"]]  # one view: one size, flipped or not
            logits = self.inference(batch["inputs"], metas)  # (B, classes, h, w)
            if metas[0].get("flip"):
                logits = logits.flip(3)
            size = tuple(metas[0]["ori_shape"])
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=self.align_corners)
            total = total + logits.softmax(1)
        for sample, labels in zip(batch["data_samples"], total.argmax(1, keepdim=True)):
            sample.set_data({"pred_sem_seg": PixelData(data=labels)})
        return batch["data_samples"]


@MODELS.register_module()
class LinearHead(BaseDecodeHead):
    """Batch norm and a 1x1 convolution on one map: the linear protocol of DINOv2 (arXiv 2304.07193, section 7.4)."""

    def __init__(self, in_channels: int, **options: Any) -> None:
        super().__init__(in_channels=in_channels, channels=in_channels, dropout_ratio=0, **options)
        self.bn = nn.BatchNorm2d(in_channels)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits (B, classes, h, w)."""
        return self.cls_seg(self.bn(self._transform_inputs(inputs)))


class ImageIoU(BaseMetric):
    """Intersection and union of every image and class, and the metrics that follow from their sums.

    After a test, :attr:`scores` holds the metrics in per cent, the units of :func:`units_of` and small predictions.

    Args:
        save_to: a folder for the predicted label maps in ADE20K's format (label i + 1 for class i); None: not saved.
    """

    def __init__(self, classes: Sequence[str], save_to: Path | None = None) -> None:
        super().__init__(collect_device="cpu", prefix="ade20k")
        self.classes, self.save_to = list(classes), save_to
        self.scores = Evaluation({})

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count the pixels of each image, on the process that predicted it."""
        for sample in data_samples:
            predicted = sample["pred_sem_seg"]["data"].squeeze(0).cpu().numpy()
            truth = sample["gt_sem_seg"]["data"].squeeze(0).cpu().numpy()
            name = Path(sample["img_path"]).stem
            shown = (predicted + 1).astype(np.uint8)
            self.results.append((name, *pixel_counts(predicted, truth, len(self.classes)), small_png(shown)))
            if self.save_to is not None:
                with atomic_path(self.save_to / f"{name}.png") as path:
                    Image.fromarray(shown).save(path)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """The metrics of all images; on the first process, with what all of them counted."""
        self.scores = evaluation_of({name: found for name, *found in results}, self.classes)  # of repetitions one
        return {name: value for name, value in self.scores.metrics.items() if "/" not in name}
