"""What sound COCO annotations say that cannot be meant: it would be trained on, or left out, without a word."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from selfpatch.eval.datasets import checks
from selfpatch.eval.datasets.checks import Finding
from selfpatch.pretrain.cli import listed
from selfpatch.pretrain.settings import option

SMALLEST = 32  # pixels: mmdet trains on no image with a shorter side
FIX = "get the file again or correct it"
LOOSE = "loose_boxes"  # the setting that overrules boxes that do not fit image and mask


def sense(path: Path, content: dict[str, Any]) -> list[Finding]:
    """What sound entries say that cannot be meant; areas and crowd flags that are missing are filled in."""
    images, annotations = content["images"], content["annotations"]
    by_id = {image["id"]: image for image in images}
    sizes = np.array([(by_id[a["image_id"]]["width"], by_id[a["image_id"]]["height"]) for a in annotations], float)
    boxes = np.array([a["bbox"] for a in annotations], float)  # x, y, width, height
    masks = np.array([mask_box(a["segmentation"], by_id[a["image_id"]]) for a in annotations], float)
    ids = [a["id"] for a in annotations]
    for annotation in annotations:
        annotation["iscrowd"] = int(annotation.get("iscrowd", 0))
    crowd = np.array([a["iscrowd"] for a in annotations], bool)
    flat = (boxes[:, 2:] < 1).any(1)
    findings = _boxes(path, boxes, masks, sizes, ids, flat)
    findings += _areas(path, annotations, by_id, boxes, flat)
    if flat.any():
        what = f"{path}: {flat.sum()} boxes without an area (first: annotation {ids[int(flat.argmax())]})"
        findings.append(Finding("warn", what, "nothing is learned from them"))
    if crowd.all():
        what = f"{path} holds crowds alone (iscrowd 1), which are neither learned nor scored"
        findings.append(Finding("error", what, FIX))
    elif (crowd | flat).all():
        findings.append(Finding("error", f"{path}: no box has an area, so that nothing can be learned or found", FIX))
    return findings + _repeated(path, annotations) + _unused(path, content)


def mask_box(mask: list | dict, image: dict) -> tuple[float, float, float, float]:
    """The box around a mask: x, y, width, height."""
    if isinstance(mask, list):
        xs, ys = [x for polygon in mask for x in polygon[::2]], [y for polygon in mask for y in polygon[1::2]]
        left, top = min(xs), min(ys)
        return left, top, max(xs) - left, max(ys) - top
    return tuple(rle.toBbox(as_rle(mask, image["height"], image["width"])))


def as_rle(mask: list | dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """A mask of any of COCO's three kinds as packed RLE."""
    if isinstance(mask, list):
        return rle.merge(rle.frPyObjects(mask, height, width))
    return rle.frPyObjects(mask, height, width) if isinstance(mask["counts"], list) else mask


def overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU (N,) of pairs of boxes (N, 4): x, y, width, height; 0 where both are empty."""
    low = np.maximum(boxes[:, :2], others[:, :2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], others[:, :2] + others[:, 2:])
    both = np.clip(high - low, 0, None).prod(1)
    union = boxes[:, 2:].clip(0).prod(1) + others[:, 2:].clip(0).prod(1) - both
    return both / np.where(union > 0, union, 1)


def _boxes(
    path: Path, boxes: np.ndarray, masks: np.ndarray, sizes: np.ndarray, ids: Sequence[int], flat: np.ndarray
) -> list[Finding]:
    """Errors for boxes that are corners, shares of the image, outside it or not around their masks."""
    corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    fit = overlap(boxes, masks)
    measured = masks[:, 2:].min(1) >= 2  # of thinner masks a box tells little
    whole = np.concatenate([np.zeros_like(sizes), sizes], 1)
    area = boxes[:, 2:].clip(0).prod(1)
    inside = np.minimum(boxes[:, :2] + boxes[:, 2:], sizes) - np.maximum(boxes[:, :2], 0)
    inside = inside.clip(0).prod(1) / np.where(area > 0, area, 1)
    shares = (boxes[:, :2] + boxes[:, 2:]).max(1) <= 1.5
    shares &= (boxes[:, 2:] > 0).all(1) & (whole[:, 2:].min(1) > 8)
    turned = ~shares & measured & (fit < 0.5) & (overlap(corners, masks) > 0.8)
    away = ~shares & ~turned & (area > 0) & (inside < 0.9)
    loose = ~shares & ~turned & ~away & ~flat & measured & (fit < 0.5)
    kinds = (
        (shares, "are shares of the image, not pixels", "write x, y, width and height in pixels", ""),
        (turned, "are two corners", "write x, y, width and height", ""),
        (away, "lie outside their image", f"correct them, or overrule it with {option(LOOSE)}", LOOSE),
        (loose, "are not around their masks", f"correct them, or overrule it with {option(LOOSE)}", LOOSE),
    )
    findings = []
    for wrong, words, fix, overrule in kinds:
        if n := int(wrong.sum()):
            what = f"{path}: {n} of {len(ids)} boxes {words} (first: annotation {ids[int(wrong.argmax())]})"
            few = n <= checks.FEW * len(ids)
            findings.append(Finding("warn", what) if few else Finding("error", what, fix, overrule))
    return findings


def _areas(
    path: Path, annotations: list[dict], images: dict[int, dict], boxes: np.ndarray, flat: np.ndarray
) -> list[Finding]:
    """Fill in areas that are missing or 0, from the masks; warn of those, and of areas larger than their box."""
    filled = []
    for annotation, is_flat in zip(annotations, flat):
        if not annotation.get("area", 0) > 0 and not is_flat:
            size = images[annotation["image_id"]]
            mask = as_rle(annotation["segmentation"], size["height"], size["width"])
            filled += [annotation["id"]] * ("area" in annotation)
            annotation["area"] = float(rle.area(mask))
        annotation.setdefault("area", 0.0)
    findings = []
    if filled:
        what = f"{path}: {len(filled)} areas are 0 or less (first: annotation {filled[0]})"
        findings.append(Finding("warn", what, "those of the masks are taken"))
    areas, around = np.array([a["area"] for a in annotations], float), boxes[:, 2:].clip(0).prod(1)
    odd = ~flat & ((areas > 1.1 * around + 4) | ((areas < 1) & (around > 16)))
    if odd.sum() > checks.FEW * len(areas):
        what = f"{path}: {odd.sum()} of {len(areas)} areas are no pixels of their masks"
        first = f" (first: annotation {annotations[int(odd.argmax())]['id']})"
        findings.append(Finding("warn", what + first, "they decide what counts as small, medium and large"))
    return findings


def _repeated(path: Path, annotations: list[dict]) -> list[Finding]:
    """A warning for instances that are there twice: a detector can find only one of the two."""
    seen: dict[tuple, int] = {}
    twice = []
    for a in annotations:
        key = (a["image_id"], a["category_id"], *a["bbox"], str(a["segmentation"])[:200])
        if seen.setdefault(key, a["id"]) != a["id"]:
            twice.append(a["id"])
    if not twice:
        return []
    what = f"{path}: {len(twice)} instances are there twice (first: annotation {twice[0]})"
    return [Finding("warn", what, "only one of the two can be found")]


def _unused(path: Path, content: dict[str, Any]) -> list[Finding]:
    """Warnings for categories without an instance, images that mmdet passes by, and one file under two ids."""
    images, categories = content["images"], content["categories"]
    findings, used = [], {annotation["category_id"] for annotation in content["annotations"]}
    if lost := [category["name"] for category in categories if category["id"] not in used]:
        what = f"{path}: no instance of {listed(lost, 10)}"
        findings.append(Finding("warn", what, "no AP can be given for them"))
    if small := [image["id"] for image in images if min(image["width"], image["height"]) < SMALLEST]:
        what = f"{path}: {len(small)} images have a side below {SMALLEST} pixels (first: {small[0]})"
        findings.append(Finding("warn", what, "they are tested on and never trained on"))
    names = Counter(image["file_name"] for image in images)
    if twice := [name for name, times in names.items() if times > 1]:
        findings.append(Finding("warn", f"{path}: {len(twice)} files are two images each (first: {twice[0]})", FIX))
    summary = f"{len(images)} images, {len(content['annotations'])} instances, {len(categories)} categories"
    return [*findings, checks.okay(f"{path.name}: {summary}")]
