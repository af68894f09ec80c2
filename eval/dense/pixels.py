"""Semantic segmentation counted in pixels: intersection and union of each image and class, and metrics of them."""

from collections.abc import Mapping, Sequence

import numpy as np

from selfpatch.eval.datasets.ade20k import VOID
from selfpatch.reports.metrics import SEGMENTATION, iou_by_class


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
