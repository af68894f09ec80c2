"""Average precision of boxes and masks as COCO defines it: faster-coco-eval scores, and another scorer checks it.

AP is always rebuilt from what a record keeps, which detection matched at which threshold, and must be the scorer's.
``exhaustive`` checks every figure with pycocotools, too.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import faster_coco_eval as faster
import numpy as np
from mmengine.evaluator import BaseMetric
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from selfpatch.eval.datasets.coco_sense import as_rle
from selfpatch.eval.dense.coco_matches import MOST, match
from selfpatch.eval.dense.coco_pictures import kept_detections
from selfpatch.pretrain.cli import UserError
from selfpatch.reports.detections import Detections, precision_by_threshold
from selfpatch.reports.record import Evaluation

KINDS = {"bbox": "bbox", "mask": "segm"}  # our name: the scorers'
AREAS = ("", "s", "m", "l")  # all, small, medium, large
TOLERANCE = 1e-6  # in per cent: what the two scorers may differ by


class InstanceMetric(BaseMetric):
    """Collects the detections of every image from all processes; :attr:`scores` holds the result on the first."""

    def __init__(self, truth: dict[str, Any], exhaustive: bool = False) -> None:
        super().__init__(collect_device="cpu", prefix="test")
        self.truth, self.exhaustive = truth, exhaustive
        self.scores = Evaluation({})

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep one batch's detections in a form that travels between processes."""
        categories = [category["id"] for category in self.truth["categories"]]
        for sample in data_samples:
            found = sample["pred_instances"]
            masks = found["masks"].cpu().numpy() if hasattr(found["masks"], "cpu") else np.asarray(found["masks"])
            boxes = found["bboxes"].cpu().double().numpy()
            boxes[:, 2:] -= boxes[:, :2]  # x, y, width, height
            self.results.append(
                [
                    {
                        "image_id": sample["img_id"],
                        "category_id": categories[label],
                        "score": float(score),
                        "bbox": box.tolist(),
                        "segmentation": rle.encode(np.asfortranarray(mask, dtype=np.uint8)),
                    }
                    for label, score, box, mask in zip(found["labels"].tolist(), found["scores"].tolist(), boxes, masks)
                ]
            )

    def compute_metrics(self, results: list[list[dict]]) -> dict[str, float]:
        """Score everything; only box AP and mask AP go into the log."""
        detections = [found for image in results for found in image]
        scores = score(self.truth, detections, self.exhaustive)
        self.scores = replace(scores, predictions=kept_detections(self.truth, detections))
        return {name: value for name, value in self.scores.metrics.items() if name in ("bbox AP", "mask AP")}


def score(truth: dict[str, Any], detections: Sequence[dict[str, Any]], exhaustive: bool = False) -> Evaluation:
    """AP, AP50, AP75, APs, APm, APl and AP per class of boxes and masks.

    Figures without anything to find (no small object, a class without an instance) are left out. No detection at all is
    AP 0.

    Args:
        truth: a COCO annotation file's content; ``iscrowd`` may be left out (0), and ``area`` (that of the mask).
        detections: ``image_id``, ``category_id``, ``score``, ``bbox`` (x, y, width, height), ``segmentation`` (RLE).
        exhaustive: check every figure with pycocotools, small, medium and large objects too.

    Raises:
        UserError: two scorers disagree.
    """
    # 0 means "unmatched" to the scorers, and files exist that count annotations from 0
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    annotations = [{"iscrowd": 0, **annotation, "id": i} for i, annotation in enumerate(truth["annotations"], 1)]
    for annotation in annotations:
        annotation["segmentation"] = as_rle(annotation["segmentation"], *sizes[annotation["image_id"]])
        if "area" not in annotation:
            annotation["area"] = float(rle.area(annotation["segmentation"]))
    truth = {**truth, "annotations": annotations}
    units = {
        "images": np.array(sorted(image["id"] for image in truth["images"])),
        "gt_image": np.array([a["image_id"] for a in annotations], dtype=np.int64),
        "gt_category": np.array([a["category_id"] for a in annotations], dtype=np.int64),
        "gt_ignored": np.array([bool(a["iscrowd"]) for a in annotations], dtype=bool),
    }
    scores = Evaluation({}, units)
    if units["gt_ignored"].all():
        scores.notes.append("nothing to find: the annotation file holds crowds alone")
    elif not detections:
        scores.notes.append("no detection at all: every AP is 0; the training has not come to anything")
    units |= match(truth, detections)
    ones = np.ones((1, len(units["images"])))
    for kind in KINDS:
        found = _as_results(detections, kind, "rle")  # given as such, faster-coco-eval doesn't pack masks once more
        metrics = _summary(_run(faster.COCO, faster.COCOeval_faster, truth, found, kind), truth, kind)
        rebuilt = 100 * precision_by_threshold(Detections.from_units(units, kind), ones)[:, 0]
        checks = {f"{kind} AP": rebuilt.mean(), f"{kind} AP50": rebuilt[0], f"{kind} AP75": rebuilt[5]}
        _raise_unless_equal(metrics, checks, "the matches that are kept")
        if exhaustive:
            found = _as_results(detections, kind, "segmentation")
            checks = _summary(_run(COCO, COCOeval, truth, found, kind), truth, kind)
            _raise_unless_equal(metrics, checks, "pycocotools")
        scores.metrics.update(metrics)
    return scores


def _as_results(detections: Sequence[dict[str, Any]], kind: str, mask: str) -> list[dict[str, Any]]:
    """Annotations of a result file for one kind, masks under the key ``mask``; the area is that of mask or box."""
    if kind == "bbox":
        key, shapes = "bbox", [detection["bbox"] for detection in detections]
        areas = [width * height for _, _, width, height in shapes]
    else:
        key, shapes = mask, [detection["segmentation"] for detection in detections]
        areas = [float(rle.area(shape)) for shape in shapes]
    return [
        {
            "id": i,
            "image_id": detection["image_id"],
            "category_id": detection["category_id"],
            "score": detection["score"],
            "iscrowd": 0,
            "area": area,
            key: shape,
        }
        for i, (detection, area, shape) in enumerate(zip(detections, areas, shapes), 1)
    ]


def _run(index: type, scorer: type, truth: dict[str, Any], found: list[dict], kind: str) -> Any:
    """A scorer after ``evaluate`` and ``accumulate``; quiet."""
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for annotations in ([dict(a) for a in truth["annotations"]], found):
            side = index()  # `loadRes` fails on an empty list
            side.dataset = {**truth, "annotations": annotations}
            side.createIndex()
            sides.append(side)
        run = scorer(*sides, KINDS[kind])
        run.params.imgIds = sorted(image["id"] for image in truth["images"])
        run.params.catIds = [category["id"] for category in truth["categories"]]
        run.params.maxDets = [MOST]
        run.evaluate()
        run.accumulate()
    return run


def _summary(run: Any, truth: dict[str, Any], kind: str) -> dict[str, float]:
    """The figures of a scorer in per cent; -1 in its tables stands for "nothing to find"."""
    precision = run.eval["precision"][..., -1]  # (thresholds, recalls, classes, areas)
    parts = {
        f"{kind} AP": precision[..., 0],
        f"{kind} AP50": precision[0, ..., 0],
        f"{kind} AP75": precision[5, ..., 0],
    }
    parts |= {f"{kind} AP{area}": precision[..., i] for i, area in enumerate(AREAS) if area and i < precision.shape[-1]}
    names = {category["id"]: category["name"] for category in truth["categories"]}
    parts |= {f"{kind} AP/{names[cat]}": precision[:, :, k, 0] for k, cat in enumerate(run.params.catIds)}
    return {name: 100 * float(part[part > -1].mean()) for name, part in parts.items() if (part > -1).any()}


def _raise_unless_equal(metrics: dict[str, float], checked: dict[str, float], checker: str) -> None:
    for name, value in checked.items():
        if np.isfinite(value) and not abs(metrics.get(name, np.inf) - value) <= TOLERANCE:
            raise UserError(
                f"the two scorers disagree: {name} is {metrics.get(name)} by faster-coco-eval, {value} by {checker}; "
                "reinstall faster-coco-eval and pycocotools, and report it if it stays so"
            )
