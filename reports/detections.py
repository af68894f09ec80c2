"""Average precision in numpy, rebuilt from stored matches, for any weighting of the images.

Equal to COCOeval's ``accumulate`` and ``summarize`` (pycocotools; area range 'all', 100 detections per image
and class, 101 recall points) where each image counts once; an image that counts w times equals w copies of
it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_DETECTIONS = 100
RECALL_POINTS = np.linspace(0.0, 1.0, 101)
THRESHOLDS = 10  # IoU 0.50, 0.55 … 0.95


@dataclass(frozen=True)
class ClassMatches:
    """Detections of one class in descending order of score, and its ground truth, by image index.

    ``image`` (D,); for each threshold ``right`` (hits,): ranks of the true positives, ``ignored`` (ranks of
    detections that count neither way); ``truth`` (images,): ground truths that must be found in each image.
    """

    image: np.ndarray
    right: list[np.ndarray]
    ignored: list[np.ndarray]
    truth: np.ndarray


@dataclass(frozen=True)
class Detections:
    """What AP of one kind (boxes or masks) is rebuilt from; images are in ascending order of their ids."""

    images: int
    classes: list[ClassMatches]

    @classmethod
    def from_units(cls, arrays: dict[str, np.ndarray], kind: str) -> Detections:
        """From a COCO units file (layout: :mod:`selfpatch.reports.compare`), ``kind`` 'bbox' or 'mask'.

        Raises KeyError for a missing array and ValueError for one of the wrong shape or an image that was not
        scored.
        """
        ids = np.sort(arrays["images"])
        image, gt_image = (_index(ids, arrays[name]) for name in (f"{kind}/image", "gt_image"))
        category, score = arrays[f"{kind}/category"], arrays[f"{kind}/score"]
        matched, ignored = (arrays[f"{kind}/{name}"].astype(bool) for name in ("matched", "ignored"))
        if not matched.shape == ignored.shape == (len(score), THRESHOLDS):
            raise ValueError(f"{kind}/matched and {kind}/ignored must be ({len(score)}, {THRESHOLDS})")
        counted = ~arrays["gt_ignored"].astype(bool)
        classes = []
        for name in np.unique(arrays["gt_category"][counted]):  # a class with nothing to find has no AP
            own = np.flatnonzero(category == name)
            own = own[np.lexsort((-score[own], image[own]))]  # by image, best first; lexsort is stable
            own = own[_rank_within(image[own]) < MAX_DETECTIONS]
            own = own[np.argsort(-score[own], kind="stable")]  # equal scores stay in the order of the images
            truth = np.bincount(gt_image[counted & (arrays["gt_category"] == name)], minlength=len(ids))
            classes.append(
                ClassMatches(
                    image[own],
                    [np.flatnonzero(matched[own, t] & ~ignored[own, t]) for t in range(THRESHOLDS)],
                    [np.flatnonzero(ignored[own, t]) for t in range(THRESHOLDS)],
                    truth,
                )
            )
        return cls(len(ids), classes)


def average_precision(
    detections: Detections, weights: np.ndarray | None = None, thresholds: slice = slice(None)
) -> np.ndarray:
    """Mean AP (0..1) over thresholds and over the classes with ground truth: weights (R, images) -> (R,).

    NaN where a weighting leaves no ground truth at all.
    """
    weights = np.ones((1, detections.images)) if weights is None else weights
    total, present = np.zeros(len(weights)), np.zeros(len(weights))
    for matches in detections.classes:
        ap = np.concatenate([_class_ap(matches, part, thresholds) for part in _bounded(weights, len(matches.image))])
        total += np.nan_to_num(ap)
        present += np.isfinite(ap)
    return total / np.where(present, present, np.nan)


def _class_ap(matches: ClassMatches, weights: np.ndarray, thresholds: slice) -> np.ndarray:
    """AP of one class, averaged over thresholds: weights (R, images) -> (R,), NaN where nothing is to be
    found.
    """
    positives = weights @ matches.truth  # (R,)
    with np.errstate(divide="ignore", invalid="ignore"):  # no positives: replaced by NaN below
        drawn = weights[:, matches.image]  # (R, D): how often each detection counts
        seen = np.cumsum(drawn, axis=1)
        found = []
        for right, ignored in list(zip(matches.right, matches.ignored, strict=True))[thresholds]:
            hits = np.cumsum(drawn[:, right], axis=1)  # (R, hits)
            skipped = np.pad(np.cumsum(drawn[:, ignored], axis=1), ((0, 0), (1, 0)))  # (R, ignored + 1)
            judged = seen[:, right] - skipped[:, np.searchsorted(ignored, right)]
            precision = hits / (judged + np.spacing(1))  # the same guard against 0/0 as COCOeval
            # Precision only rises at a hit, so its envelope over all ranks is its envelope over the hits.
            envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            # Every recall point is charged to the hit that first reaches it.
            reached = np.searchsorted(RECALL_POINTS, hits / positives[:, None], side="right")
            found.append((envelope * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(RECALL_POINTS))
    return np.where(positives > 0, np.mean(found, axis=0), np.nan)


def _bounded(weights: np.ndarray, detections: int) -> list[np.ndarray]:
    """The rows of ``weights`` in parts small enough that (rows, detections) takes at most 32 MB."""
    rows = max(1, 4_000_000 // max(1, detections))
    return [weights[start : start + rows] for start in range(0, len(weights), rows)]


def _rank_within(groups: np.ndarray) -> np.ndarray:
    """Position of each element within its run of equal values: [3, 3, 5] -> [0, 1, 0]."""
    position = np.arange(len(groups))
    starts = np.flatnonzero(np.diff(groups, prepend=groups[:1] - 1)) if len(groups) else position
    return position - np.repeat(starts, np.diff(starts, append=len(groups)))


def _index(ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    position = np.searchsorted(ids, values)
    if len(values) and (
        len(ids) == 0 or (position >= len(ids)).any() or (ids[np.minimum(position, len(ids) - 1)] != values).any()
    ):
        raise ValueError("an image outside 'images'")
    return position
