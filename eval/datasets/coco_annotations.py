"""A COCO annotation file: parsed once, every quantity checked for what training and scoring need of it.

First each entry for itself (:func:`fault_of`: a fault there would end the work in a traceback), then all together for
sense (:mod:`~selfpatch.eval.datasets.coco_sense`).
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfpatch.eval.datasets.checks import Finding
from selfpatch.eval.datasets.coco_sense import FIX, sense
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.files import read_json
from selfpatch.pretrain.images import MOST_PIXELS

MOST = 20  # errors that are told of one file
SHAPELESS = "it needs images, annotations and categories"
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
    if errors := list(_faults(content)):
        return Annotations(path, findings=[Finding("error", f"{path}: {error}", FIX) for error in errors[:MOST]])
    findings = sense(path, content)
    if floats:
        what = f"{path}: {floats} whole numbers are written with a point"
        findings.insert(0, Finding("warn", what, "read as whole"))
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
        faults += [f"uses annotation id {number} twice" for number, times in ids.most_common(1) if times > 1]
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
    """What is wrong with one annotation; None: nothing."""
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
    return math.isfinite(value) if isinstance(value, float) else _is_id(value)
