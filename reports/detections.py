"""Average precision in numpy, rebuilt from stored matches, for any weighting of the images.

Equal to COCOeval's ``accumulate`` and ``summarize`` (pycocotools; area range 'all', 100 detections per image
and class, 101 recall points) where each image counts once; an image that counts w times equals w copies of
it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

MAX_DETECTIONS = 100
RECALL_POINTS = np.linspace(0.0, 1.0, 101)
THRESHOLDS = 10  # IoU 0.50, 0.55 … 0.95
DRAWS = 1024  # weightings at a time: bounds the memory


@dataclass(frozen=True)
class ClassMatches:
    """Detections of one class in descending order of score, and its ground truth, by image index.

    ``image`` (D,); ``right`` and ``ignored`` (D, thresholds) bool: true positives, and what counts neither way;
    ``truth`` (images,): ground truths that must be found in each image.
    """

    image: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    truth: np.ndarray


@dataclass(frozen=True)
class Detections:
    """What AP of one kind (boxes or masks) is rebuilt from; images are in ascending order of their ids."""

    images: int
    classes: list[ClassMatches]

    @classmethod
    def from_units(cls, arrays: Mapping[str, np.ndarray], kind: str) -> "Detections":
        """From the units of a COCO evaluation, ``kind`` 'bbox' or 'mask'.

        Beside ``images`` and the ground truth (:mod:`selfpatch.reports.metrics`) these are, over D detections at area
        range 'all': ``<kind>/image``, ``<kind>/category`` and ``<kind>/score`` (D,); ``<kind>/matched`` (D, 10) bool,
        matched to any ground truth at IoU 0.50, 0.55 … 0.95; ``<kind>/ignored`` (D, 10) bool, matched to an ignored
        one, so neither right nor wrong. Images and categories are the ids of the annotation file; within an image equal
        scores stand in the order in which they were matched.

        Raises:
            KeyError: an array is missing.
            ValueError: one has the wrong shape, or names an image that was not scored.
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
            rank = np.arange(len(own)) - np.searchsorted(image[own], image[own])  # within its image
            own = own[rank < MAX_DETECTIONS]
            own = own[np.argsort(-score[own], kind="stable")]  # equal scores stay in the order of the images
            truth = np.bincount(gt_image[counted & (arrays["gt_category"] == name)], minlength=len(ids))
            classes.append(ClassMatches(image[own], matched[own] & ~ignored[own], ignored[own], truth))
        return cls(len(ids), classes)


def average_precision(
    detections: Detections, weights: np.ndarray | None = None, thresholds: slice = slice(None)
) -> np.ndarray:
    """Mean AP (0..1) over thresholds and over the classes with ground truth: weights (R, images) -> (R,).

    Weights are whole numbers. NaN where a weighting leaves no ground truth at all.
    """
    weights = np.ones((1, detections.images)) if weights is None else weights
    return precision_by_threshold(detections, weights, thresholds).mean(axis=0)


def precision_by_threshold(detections: Detections, weights: np.ndarray, thresholds: slice = slice(None)) -> np.ndarray:
    """As :func:`average_precision`, each of T thresholds by itself: (T, R)."""
    parts = [np.ascontiguousarray(weights[start : start + DRAWS].T) for start in range(0, len(weights), DRAWS)]
    return np.concatenate([_mean_ap(detections, part, thresholds) for part in parts], axis=1)


def _mean_ap(detections: Detections, weights: np.ndarray, thresholds: slice) -> np.ndarray:
    """Mean AP of weights (images, R): (T, R)."""
    total, present = np.zeros((THRESHOLDS, weights.shape[1]))[thresholds], np.zeros(weights.shape[1])
    for matches in detections.classes:
        positives = matches.truth @ weights  # (R,): what is to be found
        total += np.where(positives > 0, _class_ap(matches, weights, positives, thresholds), 0)
        present += positives > 0
    return total / np.where(present, present, np.nan)


def _class_ap(matches: ClassMatches, weights: np.ndarray, positives: np.ndarray, thresholds: slice) -> np.ndarray:
    """AP of one class at T thresholds: weights (images, R), positives (R,) -> (T, R).

    Walks from the lowest score to the highest, for all R draws at once: numpy is fastest along them. So the envelope of
    precision is a running maximum, and precision only rises at a hit.
    """
    right, ignored = matches.right[:, thresholds], matches.ignored[:, thresholds]  # (D, T)
    last = np.flatnonzero(right.any(axis=1))[-1:].sum() + right.any()  # what scores lower changes nothing
    image, right, ignored = matches.image[:last].tolist(), right[:last], ignored[:last]
    counted = np.concatenate([right.T, ignored.T, np.ones((1, last), bool)])  # (2 T + 1, D)
    counts = np.stack([np.bincount(matches.image[:last][one], minlength=len(weights)) for one in counted])
    hits, skipped, (seen,) = np.split(counts @ weights, [len(right.T), 2 * len(right.T)])  # (T, R), (T, R), (R,)
    # How many recall points so many hits reach of so many positives; none without a hit, as there is no precision
    distinct, which = np.unique(positives, return_inverse=True)
    recall = np.arange(1, distinct[-1] + 1)[:, None] / np.maximum(distinct, 1)
    reached = np.pad(np.searchsorted(RECALL_POINTS, recall, side="right").astype(float), ((1, 0), (0, 0)))
    place = (hits * len(distinct) + which).astype(int)  # of the hits in ``reached``
    envelope, total = np.zeros_like(hits), np.zeros_like(hits)
    is_hit, is_ignored, skips = right.any(axis=1).tolist(), ignored.any(axis=1).tolist(), ignored.any()
    for rank in reversed(range(last)):
        drawn = weights[image[rank]]  # (R,)
        if is_hit[rank]:
            own = _as_slice(np.flatnonzero(right[rank]))
            judged = seen - skipped[own] if skips else seen
            precision = hits[own] / (judged + np.spacing(1))  # the same guard against 0/0 as COCOeval
            risen = np.maximum(envelope[own], precision)
            # The recall points that this hit reaches have at least this precision: they gain what the envelope rises by
            total[own] += reached.take(place[own]) * (risen - envelope[own])
            envelope[own] = risen
            hits[own] -= drawn
            place[own] -= drawn.astype(int) * len(distinct)
        if is_ignored[rank]:
            skipped[ignored[rank]] -= drawn
        seen -= drawn
    return total / len(RECALL_POINTS)


def _as_slice(places: np.ndarray) -> slice | np.ndarray:
    """Ascending places as a slice where they are neighbours: what numpy takes by slices is not copied."""
    return slice(places[0], places[-1] + 1) if places[-1] - places[0] + 1 == len(places) else places


def _index(ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    if not np.isin(values, ids).all():
        raise ValueError("an image outside 'images'")
    return np.searchsorted(ids, values)
