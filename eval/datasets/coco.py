"""A set in COCO's format: where its parts lie, what identifies it, and what is wrong with it."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from selfpatch.eval.datasets.checks import SAMPLE, Finding, count, missing, okay, sample, share, unreadable

HUGE = 50_000_000  # bytes; an annotation file beyond this takes seconds to parse
MOST = 20  # errors that are told of one file
FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
CATEGORIES = re.compile(rb'"categories"\s*:\s*\[')
FIX = "get the file again or correct it"


def coco_paths(root: str | Path, images: str | Path | None = None) -> dict[str, tuple[Path, Path]]:
    """For "train" and "val" the annotation file and the folder that its file names start from.

    Args:
        root: the folder with ``annotations/instances_{train,val}[2017].json``.
        images: where the photographs lie, if not below ``root``.
    """
    paths = {}
    for split in ("train", "val"):
        year = Path(root) / "annotations" / f"instances_{split}2017.json"
        plain = year.with_name(f"instances_{split}.json")
        base = Path(images if images is not None else root)
        folders = [base / f"{split}2017", base / split, base / "images", base]
        paths[split] = (
            plain if plain.exists() and not year.exists() else year,
            next((folder for folder in folders if folder.is_dir()), folders[0]),
        )
    return paths


def photograph_names(listing: bytes) -> list[str]:
    """The file names in an annotation file, in its order, without parsing it: 450 MB in a second, not ten."""
    quoted = (match[1] for match in FILE_NAME.finditer(listing))
    return [json.loads(name) if b"\\" in name else name[1:-1].decode("utf-8", "replace") for name in quoted]


def photograph_sizes(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """The bytes of each photograph that is there; folders are listed whole, which is faster than to ask for each."""
    places = {name: PurePosixPath(name) for name in names}
    found: dict[PurePosixPath, int] = {}
    for parent in {place.parent for place in places.values()}:
        try:
            with os.scandir(folder / parent) as entries:
                found |= {parent / entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        except OSError:  # no such folder: its photographs are missing
            continue
    return {name: found[place] for name, place in places.items() if place in found}


def check_coco(root: str | Path, images: str | Path | None = None, thorough: bool = False) -> list[Finding]:
    """Look at a set in COCO's format: annotation files, their ids, categories and shapes, the photographs they name.

    Args:
        root: the folder with ``annotations/``.
        images: where the photographs lie, if not below ``root``.
        thorough: parse annotation files of any size and open every photograph.
    """
    root = Path(root)
    if not root.is_dir():
        return [missing(root, "coco")]
    if images is not None and not Path(images).is_dir():
        return [Finding("error", f"{images} is missing", "give the folder of the photographs with --images")]
    findings, categories = [], {}
    for split, (listing, folder) in coco_paths(root, images).items():
        if not listing.is_file():
            findings.append(missing(listing, "coco"))
            continue
        look = _glance if listing.stat().st_size > HUGE and not thorough else _annotations
        found, categories[split] = look(listing, folder, split, thorough)
        findings += found
    if len(categories) == 2 and categories["train"] != categories["val"] and all(categories.values()):
        what = f"{root}/annotations: training and validation files have different categories"
        findings.append(Finding("error", what, "both must come from the same set"))
    return findings


def _glance(path: Path, folder: Path, split: str, thorough: bool) -> tuple[list[Finding], list]:
    """What a file that takes long to parse shows at once: its photographs and its categories."""
    content = path.read_bytes()
    names = photograph_names(content)
    try:
        start = CATEGORIES.search(content).end() - 1
        categories, _ = json.JSONDecoder().raw_decode(content[start : start + 10_000_000].decode("utf-8", "replace"))
        categories = [(category["id"], category["name"]) for category in categories]
    except (AttributeError, ValueError, KeyError, TypeError):
        names = []
    if not names:
        what = f"{path} is not an instance annotation file"
        return [Finding("error", what, "it needs images, annotations and categories")], []
    summary = f"{path.name}: {len(content) / 1e6:.0f} MB, annotations not looked at (--all does)"
    return [okay(summary), count("coco", split, len(names)), *_lost(names, path, folder)], categories


def _annotations(path: Path, folder: Path, split: str, thorough: bool) -> tuple[list[Finding], list]:
    """What is wrong with one annotation file, and its categories."""
    parts = ("images", "annotations", "categories")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return [Finding("error", f"{path} is not JSON ({error})", FIX)], []
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in parts):
        what = f"{path} is not an instance annotation file"
        return [Finding("error", what, "it needs images, annotations and categories")], []
    pictures, annotations, categories = (content[part] for part in parts)
    errors = [f"{path}: {kind} {fault}" for kind, fault in _entries(pictures, categories)]
    if errors:  # annotations refer to them
        return [Finding("error", error, FIX) for error in errors[:MOST]], []

    images = {image["id"]: image for image in pictures}
    names = [(category["id"], category["name"]) for category in categories]
    if len(images) < len(pictures):
        errors.append(f"{path} uses an image id twice")
    for place, what in enumerate(("id", "name")):
        if len({category[place] for category in names}) < len(names):
            errors.append(f"{path} uses a category {what} twice")
    known = {number for number, _ in names}
    faults = ((i, fault_of(annotation, images, known)) for i, annotation in enumerate(annotations))
    for i, fault in faults:
        if fault:
            errors.append(f"{path}: annotation {_name(annotations[i], i)} {fault}")
        if len(errors) > MOST:
            break
    if not errors:
        errors += _of_all(path, annotations)
    if not images or not annotations or not categories:
        errors.append(
            f"{path} holds {len(images)} images, {len(annotations)} annotations, {len(categories)} categories"
        )
    findings = [Finding("error", error, FIX) for error in errors]
    if not errors and (flat := [a["id"] for a in annotations if not a["bbox"][2] * a["bbox"][3] > 0]):
        what = f"{path}: {len(flat)} boxes without an area (first: annotation {flat[0]})"
        findings.append(Finding("warn", what, "nothing is learned from them"))
    summary = f"{path.name}: {len(images)} images, {len(annotations)} instances, {len(categories)} categories"
    findings += [okay(summary), count("coco", split, len(images))]
    return findings + _photographs(pictures, path, folder, thorough), names


def _entries(images: list, categories: list) -> Iterable[tuple[str, str]]:
    """What is wrong with single images and categories."""
    for i, image in enumerate(images):
        if not isinstance(image, dict) or not _is_id(image.get("id")):
            yield f"image number {i}", "has no whole number as id"
        elif not isinstance(image.get("file_name"), str) or not image["file_name"]:
            yield f"image {image['id']}", "has no file_name"
        elif not all(_is_number(image.get(side)) and image[side] > 0 for side in ("width", "height")):
            yield f"image {image['id']}", "has no width and height"
    for i, category in enumerate(categories):
        if not isinstance(category, dict) or not _is_id(category.get("id")):
            yield f"category number {i}", "has no whole number as id"
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
        return "has no whole number as id"
    image, category = annotation.get("image_id"), annotation.get("category_id")
    if not _is_id(image) or image not in images:
        return f"belongs to image {image}, which is not listed"
    if not _is_id(category) or category not in categories:
        return f"has category {category}, which is not listed"
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
    if not all(len(polygon) >= 6 and len(polygon) % 2 == 0 and all(map(_is_number, polygon)) for polygon in mask):
        return "has a polygon that is not the x and y of three points or more"
    return None


def _fault_of_rle(mask: dict, size: list[int]) -> str | None:
    runs = mask.get("counts")
    if mask.get("size") != size:
        return f"has an RLE mask of size {mask.get('size')}, but its image is {size} (height, width)"
    if isinstance(runs, list) and not (all(map(_is_id, runs)) and sum(runs) == size[0] * size[1]):
        return "has an RLE mask whose runs do not add up to its image"
    return None if isinstance(runs, (str, list)) and runs else "has an RLE mask without counts"


def _of_all(path: Path, annotations: list[dict]) -> list[str]:
    """What is wrong with sound annotations taken together."""
    errors, ids = [], Counter(annotation["id"] for annotation in annotations)
    if ids and ids.most_common(1)[0][1] > 1:
        errors.append(f"{path} uses annotation id {ids.most_common(1)[0][0]} twice")
    if annotations and all(annotation.get("iscrowd", 0) for annotation in annotations):
        errors.append(f"{path} holds crowds alone (iscrowd 1), which are neither learned nor scored")
    return errors


def _name(annotation: Any, place: int) -> str:
    own = annotation.get("id") if isinstance(annotation, dict) else None
    return str(own) if _is_id(own) else f"number {place}"


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _lost(names: list[str], path: Path, folder: Path) -> list[Finding]:
    """An error if photographs are missing."""
    there = photograph_sizes(folder, names)
    lost = [name for name in names if name not in there]
    if not lost:
        return []
    what = f"{len(lost)} of {len(names)} photographs of {path} are not in {folder} (first: {lost[0]})"
    fix = "get them, name their folder with --images, or use the annotation file that belongs to them"
    return [Finding("error", what, fix)]


def _photographs(images: list[dict], path: Path, folder: Path, thorough: bool) -> list[Finding]:
    """Errors for photographs that are missing, cannot be read, or have another size than the annotations say."""
    if lost := _lost([image["file_name"] for image in images], path, folder):
        return lost
    findings: list[Finding] = []
    opened = sample(images, thorough, SAMPLE // 2)  # decoding a photograph takes longer than a mask
    for image in opened:
        photograph = folder / image["file_name"]
        broken = unreadable([photograph])
        findings += broken
        if not broken:
            with Image.open(photograph) as picture:
                if picture.size != (image["width"], image["height"]):
                    sizes = "{}x{}".format(*picture.size)
                    what = f"{photograph} is {sizes}, but {path.name} says {image['width']}x{image['height']}"
                    findings.append(Finding("error", what, "the annotation file belongs to another set or size"))
    return [*findings, okay(f"{folder}: {share(len(opened), len(images))} photographs opened")]
