"""Which detection finds which instance, as COCO defines it: greedy by score, at ten thresholds of IoU.

The same rule as COCOeval's ``evaluateImg`` (pycocotools; all areas, 100 detections an image and class), but it only
ever looks at images and classes that have both, and at all thresholds together. What it gives is what a record keeps,
and AP rebuilt from it checks the scorer that counts in C++.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as rle

from selfpatch.eval.datasets.coco_sense import as_rle

MOST = 100  # detections of an image and class
THRESHOLDS = np.linspace(0.5, 0.95, 10)
LARGEST = 1e10  # pixels: the end of COCO's range of all areas


def match(
    truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], kinds: Sequence[str] = ("bbox", "mask")
) -> dict[str, np.ndarray]:
    """One row a detection, by category, image and descending score.

    Args:
        truth: a COCO annotation file's content, each annotation with ``iscrowd``.
        detections: ``image_id``, ``category_id``, ``score``, ``bbox`` (x, y, width, height), ``segmentation`` (RLE).
        kinds: of "bbox" and "mask".

    Returns:
        for each kind ``<kind>/image``, ``/category``, ``/score`` (N,); ``/matched`` and ``/ignored`` (N, 10): whether
        it found an instance, and whether it counts neither way.
    """
    order, starts, columns = _grouped(truth, detections)
    keys = list(zip(columns["image"][starts].tolist(), columns["category"][starts].tolist()))
    ends = [*starts[1:].tolist(), len(order)]
    found = {f"{kind}/{name}": column for kind in kinds for name, column in columns.items()}
    for kind in kinds:
        matched, ignored = np.zeros((2, len(order), len(THRESHOLDS)), bool)
        instances = _instances(truth, kind)
        shapes = [detections[i]["bbox" if kind == "bbox" else "segmentation"] for i in order.tolist()]
        if kind == "bbox":
            shapes = np.array(shapes, np.float64).reshape(-1, 4)
        for key, begin, end in zip(keys, starts.tolist(), ends):
            if there := instances.get(key):
                iou = rle.iou(shapes[begin:end], *there)  # (detections, instances)
                matched[begin:end], ignored[begin:end] = assign(np.asarray(iou), np.array(there[1], bool))
        if kind == "bbox":  # a box turned inside out is outside the range of all areas
            area = shapes[:, 2] * shapes[:, 3]
            ignored |= ~matched & ((area < 0) | (area > LARGEST))[:, None]
        found |= {f"{kind}/matched": matched, f"{kind}/ignored": ignored}
    return found


def _grouped(
    truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """The detections that count by category, image and descending score; where each group starts; their columns."""
    places = {category["id"]: place for place, category in enumerate(truth["categories"])}
    image = np.array([d["image_id"] for d in detections], np.int64)
    category = np.array([d["category_id"] for d in detections], np.int64)
    score = np.array([d["score"] for d in detections], np.float64)
    place = np.array([places[c] for c in category.tolist()], np.int64)
    order = np.lexsort((-score, image, place))  # stable: equal scores stay in their order
    image, category, score = image[order], category[order], score[order]
    starts = np.flatnonzero(np.r_[True, (np.diff(image) != 0) | (np.diff(category) != 0)][: len(order)])
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    kept = rank < MOST
    columns = {"image": image[kept], "category": category[kept], "score": score[kept]}
    return order[kept], np.flatnonzero(rank[kept] == 0), columns


def _instances(truth: Mapping[str, Any], kind: str) -> dict[tuple[int, int], tuple[list, list[int]]]:
    """(image, category) → boxes or masks of its instances, crowds last, and which are crowds."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    found: dict[tuple[int, int], tuple[list, list[int]]] = defaultdict(lambda: ([], []))
    for annotation in sorted(truth["annotations"], key=lambda annotation: annotation["iscrowd"]):  # stable
        shapes, crowd = found[annotation["image_id"], annotation["category_id"]]
        size = sizes[annotation["image_id"]]
        shapes.append(annotation["bbox"] if kind == "bbox" else as_rle(annotation["segmentation"], *size))
        crowd.append(int(annotation["iscrowd"]))
    if kind == "bbox":
        return {key: (np.array(boxes, np.float64), crowd) for key, (boxes, crowd) in found.items()}
    return dict(found)


def assign(iou: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which detections of one image and class are matched, and which of them to a crowd.

    Each takes, at each threshold, the instance that it overlaps most among those that are free; a crowd only if there
    is none, and any number of them the same.

    Args:
        iou: (D, G), detections by descending score, crowds last.
        crowd: (G,) bool.

    Returns:
        two bool arrays (D, 10).
    """
    thresholds = np.minimum(THRESHOLDS, 1 - 1e-10)
    matched, ignored = np.zeros((2, len(iou), len(THRESHOLDS)), bool)
    plain = int((~crowd).sum())
    if plain == len(crowd) == 1:  # the first that reaches it has it
        reached = iou >= thresholds  # (D, 10)
        matched[reached.argmax(0), np.arange(len(thresholds))] = reached.any(0)
        return matched, ignored
    free = np.ones((len(THRESHOLDS), plain), bool)
    for place in np.flatnonzero(iou.max(1) >= thresholds[0]).tolist():
        row = iou[place]
        if plain:
            candidates = np.where(free & (row[:plain] >= thresholds[:, None]), row[:plain], -1.0)[:, ::-1]
            best = plain - 1 - candidates.argmax(1)  # of equal ones the last
            hit = candidates.max(1) >= 0
            free[np.flatnonzero(hit), best[hit]] = False
            matched[place] = hit
        if plain < len(row):
            ignored[place] = ~matched[place] & (row[plain:].max() >= thresholds)
            matched[place] |= ignored[place]
    return matched, ignored
