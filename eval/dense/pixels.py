"""Semantic segmentation counted in pixels: intersection and union of each image and class, and metrics of them."""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image

from selfpatch.eval.datasets.ade20k import VOID
from selfpatch.reports.metrics import SEGMENTATION, iou_by_class
from selfpatch.reports.record import Evaluation

PICTURED = 5_000  # images whose predictions a record keeps for pictures: all of ADE20K's and COCO's validation images
SIDE = 320  # pixels of the longer side in which they are kept


def pixel_counts(predicted: np.ndarray, truth: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Intersection, union and ground truth in pixels, (classes,) each, of two class maps (H, W); 255 is ignored."""
    valid = truth != VOID
    predicted, truth = predicted[valid], truth[valid]
    hit, shown, true = (
        np.bincount(labels, minlength=classes) for labels in (truth[predicted == truth], predicted, truth)
    )
    return hit, shown + true - hit, true


def units_of(counted: Mapping[str, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    """What a record keeps of the counts of every image: ``image`` (I,), ``intersection``, ``union``, ``label``, each
    (I, classes), in the order of the images' names.
    """
    names = sorted(counted)
    arrays = [np.stack([counted[name][i] for name in names]) for i in range(3)]
    return {"image": np.array(names), **dict(zip(("intersection", "union", "label"), arrays))}


def metrics_of(units: Mapping[str, np.ndarray], classes: Sequence[str]) -> dict[str, float]:
    """mIoU, mAcc, aAcc and the IoU of each class that has one, in per cent, from what is kept of each image."""
    iou = 100 * iou_by_class(units, np.ones((1, len(units["image"]))))[0]
    return SEGMENTATION.evaluate(units) | {
        f"IoU/{name}": float(value) for name, value in zip(classes, iou) if np.isfinite(value)
    }


def evaluation_of(images: Mapping[str, Sequence], classes: Sequence[str]) -> Evaluation:
    """What a task says of every image's counts (:func:`pixel_counts`) and label map (:func:`small_png`), by name."""
    units = units_of(images)
    shown = {f"{name}.png": images[name][3] for name in pictured(images)}
    names = {"classes.json": json.dumps(list(classes)).encode()}
    return Evaluation(metrics_of(units, classes), units, predictions=names | shown)


def small_png(labels: np.ndarray) -> bytes:
    """Labels (H, W), uint8, as a PNG whose longer side has at most :data:`SIDE` pixels: what a picture is made from."""
    height, width = labels.shape
    share = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * share)), max(1, round(height * share)))
    buffer = io.BytesIO()
    Image.fromarray(labels).resize(size, Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def pictured(names: Iterable[str]) -> list[str]:
    """Which images' predictions a record keeps: at most :data:`PICTURED`, the same ones for every checkpoint."""
    digest = {name: hashlib.sha256(name.encode()).digest() for name in names}
    return sorted(sorted(digest, key=digest.__getitem__)[:PICTURED])
