"""What a record keeps of detections for pictures: which were found, with their scores, and what was missed."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as rle

from selfpatch.eval.datasets.coco_sense import as_rle
from selfpatch.eval.dense.coco_matches import THRESHOLDS, assign
from selfpatch.eval.dense.pixels import pictured, small_png
from selfpatch.reports.metrics import CONFIDENT

MOST = 20  # detections of an image that are kept
FOUND = THRESHOLDS[0]  # the IoU of masks, 0.5, from which on an instance is found


def kept_detections(truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """Three files for each pictured image, named by its id.

    ``<id>.json`` holds the image's ``file`` name and lists of instances, each with ``name`` and ``box`` (x, y, width,
    height): ``found``, the best detections, with ``score`` and whether each is ``right`` (one an instance); ``truth``;
    and ``missed``: instances, crowds left out, that no kept detection of their class overlaps by :data:`FOUND`.
    ``<id>.png`` and ``<id>-truth.png`` number the pixels of what ``found`` and ``truth`` list from 1, the best on top.

    Args:
        truth: a COCO annotation file's content.
        detections: ``image_id``, ``category_id``, ``score``, ``bbox``, ``segmentation`` (RLE).
    """
    names = {category["id"]: category["name"] for category in truth["categories"]}
    found, instances = defaultdict(list), defaultdict(list)
    for detection in detections:
        if detection["score"] >= CONFIDENT:
            found[detection["image_id"]].append(detection)
    for annotation in truth["annotations"]:
        if not annotation.get("iscrowd"):
            instances[annotation["image_id"]].append(annotation)
    images, files = {str(image["id"]): image for image in truth["images"]}, {}
    for name in pictured(images):
        image = images[name]
        size = image["height"], image["width"]
        best = sorted(found[image["id"]], key=lambda one: -one["score"])[:MOST]
        real = instances[image["id"]]
        ours, theirs = [one["segmentation"] for one in best], [as_rle(one["segmentation"], *size) for one in real]
        iou, right = np.zeros((len(best), len(real))), np.zeros(len(best), bool)
        if best and real:
            same = np.equal.outer(*([one["category_id"] for one in side] for side in (best, real)))
            iou = same * np.asarray(rle.iou(ours, theirs, [0] * len(real)))
            right = assign(iou, np.zeros(len(real), bool))[0][:, 0]
        listed = [{"name": names[one["category_id"]], "box": np.round(one["bbox"], 1).tolist()} for one in real]
        content = {"file": image["file_name"], "truth": listed}
        content["missed"] = [one for one, hit in zip(listed, (iou >= FOUND).any(0)) if not hit]
        content["found"] = [
            {
                "name": names[one["category_id"]],
                "box": np.round(one["bbox"], 1).tolist(),
                "score": round(one["score"], 3),
                "right": bool(hit),
            }
            for one, hit in zip(best, right)
        ]
        files[f"{name}.json"] = json.dumps(content).encode()
        files[f"{name}.png"], files[f"{name}-truth.png"] = (
            small_png(numbered(masks, size)) for masks in (ours, theirs)
        )
    return files


def numbered(masks: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> np.ndarray:
    """The pixels (H, W) of each mask (RLE) by its number from 1, the first on top; 0 elsewhere."""
    pixels = np.zeros(size, np.uint8)
    for number in reversed(range(min(len(masks), 254))):
        pixels[rle.decode(masks[number]) > 0] = number + 1
    return pixels
