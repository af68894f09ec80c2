"""A COCO annotation file: parsed once, every quantity checked for what training and scoring need of it.

First each entry for itself (:func:`fault_of`: a fault there would end the work in a traceback), then all together for
sense (:func:`sense`: what would be trained on, or left out, without a word).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from selfpatch.eval.datasets.checks import FEW, Finding, okay
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.files import read_json
from selfpatch.pretrain.images import MOST_PIXELS

MOST = 20  # errors that are told of one file
SMALLEST = 32  # pixels: mmdet trains on no image with a shorter side
FIX = "get the file again or correct it"
SHAPELESS = "it needs images, annotations and categories"
LOOSE = "loose_boxes"  # the setting that overrules boxes that do not fit image and mask
WHOLE = {  # numbers that programs write as 128.0
    "images": ("id", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "iscrowd"),
    "categories": ("id",),
}


@dataclass
class Annotations:
    """The content of an annotation file, whole numbers as such, each annotation with ``iscrowd`` and ``area``."""

    path: Path
    content: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def categories(self) -> list[tuple[int, str]]:
        """(id, name) of each, in order; empty if the file cannot be used."""
        return [(category["id"], category["name"]) for category in self.content.get("categories", [])]


def read_annotations(path: str | Path) -> Annotations:
    """An annotation file with everything that is wrong with it; ``content`` is empty if there is an error in it."""
    path = Path(path)
    try:
        content = read_json(path)
    except UserError as error:
        return Annotations(path, findings=[Finding("error", str(error), FIX)])
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in WHOLE):
        return Annotations(path, findings=[Finding("error", f"{path} is not an instance annotation file", SHAPELESS)])
    floats = _make_whole(content)
    errors = list(_faults(content))
    if errors:
        return Annotations(path, findings=[Finding("error", f"{path}: {error}", FIX) for error in errors[:MOST]])
    findings = [Finding("warn", f"{path}: {floats} whole numbers are written with a point", "read as whole")] * bool(
        floats
    )
    findings += sense(path, content)
    bad = any(finding.level == "error" and not finding.overrule for finding in findings)
    return Annotations(path, {} if bad else content, findings)


def _make_whole(content: dict[str, list]) -> int:
    """Turn 128.0 into 128 wherever a whole number is due; how often that was."""
    turned = 0
    for part, keys in WHOLE.items():
        for entry in content[part]:
            if isinstance(entry, dict):
                for key in keys:
                    if isinstance(value := entry.get(key), float) and value.is_integer():
                        entry[key] = int(value)
                        turned += 1
    return turned


# --- single entries --------------------------------------------------------------------------------------------------


def _faults(content: dict[str, list]) -> Iterable[str]:
    """What is wrong with single entries, up to :data:`MOST`, and with their ids taken together."""
    images, annotations, categories = (content[part] for part in WHOLE)
    faults = [f"{kind} {fault}" for kind, fault in _entries(images, categories)]
    if faults:  # annotations refer to them
        return faults
    by_id = {image["id"]: image for image in images}
    if len(by_id) < len(images):
        faults.append("uses an image id twice")
    for what in ("id", "name"):
        if len({category[what] for category in categories}) < len(categories):
            faults.append(f"uses a category {what} twice")
    known = {category["id"] for category in categories}
    for i, annotation in enumerate(annotations):
        if fault := fault_of(annotation, by_id, known):
            faults.append(f"annotation {_name(annotation, i)} {fault}")
        if len(faults) > MOST:
            return faults
    if not faults:
        ids = Counter(annotation["id"] for annotation in annotations)
        if ids and ids.most_common(1)[0][1] > 1:
            faults.append(f"uses annotation id {ids.most_common(1)[0][0]} twice")
    if not images or not annotations or not categories:
        faults.append(f"holds {len(images)} images, {len(annotations)} annotations, {len(categories)} categories")
    return faults


def _entries(images: list, categories: list) -> Iterable[tuple[str, str]]:
    """What is wrong with single images and categories."""
    for i, image in enumerate(images):
        if not isinstance(image, dict) or not _is_id(image.get("id")):
            yield f"image number {i}", "has no whole number of 64 bits as id"
        elif not isinstance(name := image.get("file_name"), str) or not name or "\0" in name:
            yield f"image {image['id']}", "has no file_name"
        elif not all(_is_id(image.get(side)) and image[side] > 0 for side in ("width", "height")):
            yield f"image {image['id']}", "has no width and height in whole pixels"
        elif image["width"] * image["height"] > MOST_PIXELS:
            yield f"image {image['id']}", f"is of {image['width']}x{image['height']} pixels, which no picture may have"
    for i, category in enumerate(categories):
        if not isinstance(category, dict) or not _is_id(category.get("id")):
            yield f"category number {i}", "has no whole number of 64 bits as id"
        elif not isinstance(category.get("name"), str) or not category["name"]:
            yield f"category {category['id']}", "has no name"


def fault_of(annotation: Any, images: dict[int, dict], categories: set[int]) -> str | None:
    """What is wrong with one annotation; None: nothing.

    Args:
        annotation: an entry of an annotation file.
        images: id → entry of every image.
        categories: all ids.
    """
    if not isinstance(annotation, dict):
        return "is no object with an id, image_id, category_id, bbox and segmentation"
    if not _is_id(annotation.get("id")):
        return "has no whole number of 64 bits as id"
    image, category = annotation.get("image_id"), annotation.get("category_id")
    if not _is_id(image) or image not in images:
        return f"belongs to image {_short(image)}, which is not listed"
    if not _is_id(category) or category not in categories:
        return f"has category {_short(category)}, which is not listed"
    box, mask = annotation.get("bbox"), annotation.get("segmentation")
    if not box or not mask:
        return "has no mask or no box"
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return "has a bbox that is not four numbers"
    if not _is_number(annotation.get("area", 0)) or annotation.get("iscrowd", 0) not in (0, 1):
        return "has an area that is no number, or iscrowd other than 0 and 1"
    size = [images[image]["height"], images[image]["width"]]
    if isinstance(mask, dict):
        return _fault_of_rle(mask, size)
    if not isinstance(mask, list) or not all(isinstance(polygon, list) for polygon in mask):
        return "has a segmentation that is neither polygons nor RLE"
    for polygon in mask:
        if len(polygon) < 6 or len(polygon) % 2 or not all(map(_is_number, polygon)):
            return "has a polygon that is not the x and y of three points or more"
        if min(polygon) < -max(size) or max(polygon) > 2 * max(size):
            return "has a polygon far outside its image"
    return None


def _fault_of_rle(mask: dict, size: list[int]) -> str | None:
    if mask.get("size") != size:
        return f"has an RLE mask of size {_short(mask.get('size'))}, but its image is {size} (height, width)"
    runs = mask.get("counts")
    if not isinstance(runs, (str, list)) or not runs:
        return "has an RLE mask without counts"
    if isinstance(runs, str):
        runs = unpacked_runs(runs)
    if runs is None or not all(_is_id(run) and run >= 0 for run in runs) or sum(runs) != size[0] * size[1]:
        return "has an RLE mask whose runs do not add up to its image"
    return None


def unpacked_runs(counts: str) -> list[int] | None:
    """The run lengths of COCO's packed RLE: 5 bits a character, from the lowest; from the third on, differences.

    None if the text is not of that format: pycocotools would read beyond its end.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 60:
            return None
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            if code & 16:  # the sign
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return None if shift else runs


def _name(annotation: Any, place: int) -> str:
    own = annotation.get("id") if isinstance(annotation, dict) else None
    return str(own) if _is_id(own) else f"number {place}"


def _short(value: Any) -> str:
    return repr(value)[:40] if isinstance(value, str) else str(value)[:40]


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 63


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return _is_id(value)


# --- all together ----------------------------------------------------------------------------------------------------


def sense(path: Path, content: dict[str, Any]) -> list[Finding]:
    """What sound entries say that cannot be meant; areas and crowd flags that are missing are filled in.

    Args:
        path: the file.
        content: of it, with sound entries.
    """
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
        findings.append(
            Finding("error", f"{path} holds crowds alone (iscrowd 1), which are neither learned nor scored", FIX)
        )
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
        (away, "lie outside their image", f"correct them, or overrule it with --{_flag(LOOSE)}", LOOSE),
        (loose, "are not around their masks", f"correct them, or overrule it with --{_flag(LOOSE)}", LOOSE),
    )
    findings = []
    for wrong, words, fix, overrule in kinds:
        if n := int(wrong.sum()):
            what = f"{path}: {n} of {len(ids)} boxes {words} (first: annotation {ids[int(wrong.argmax())]})"
            few = n <= FEW * len(ids)
            findings.append(Finding("warn", what) if few else Finding("error", what, fix, overrule))
    return findings


def _flag(setting: str) -> str:
    return setting.replace("_", "-")


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
    if odd.sum() > FEW * len(areas):
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
    """Warnings for categories without an instance, images that mdet passes by, and one file under two ids."""
    images, categories = content["images"], content["categories"]
    findings, used = [], {annotation["category_id"] for annotation in content["annotations"]}
    if lost := [category["name"] for category in categories if category["id"] not in used]:
        what = f"{path}: no instance of {', '.join(lost[:10])}" + f" and {len(lost) - 10} more" * (len(lost) > 10)
        findings.append(Finding("warn", what, "no AP can be given for them"))
    if small := [image["id"] for image in images if min(image["width"], image["height"]) < SMALLEST]:
        what = f"{path}: {len(small)} images have a side below {SMALLEST} pixels (first: {small[0]})"
        findings.append(Finding("warn", what, "they are tested on and never trained on"))
    names = Counter(image["file_name"] for image in images)
    if twice := [name for name, times in names.items() if times > 1]:
        findings.append(Finding("warn", f"{path}: {len(twice)} files are two images each (first: {twice[0]})", FIX))
    summary = f"{len(images)} images, {len(content['annotations'])} instances, {len(categories)} categories"
    return [*findings, okay(f"{path.name}: {summary}")]
