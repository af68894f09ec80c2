"""The data doctor: what of a data set is there, what is missing or odd, and what to do about it.

Every evaluator asks it before it computes anything; ``tools/prepare_data.sh`` prints all that it finds. COCO's part is
:mod:`selfpatch.eval.datasets.coco`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from selfpatch.eval.datasets.archives import SOURCES
from selfpatch.eval.datasets.checks import (
    COUNTS,
    NO_BENCHMARK,
    PICTURES,
    SAMPLE,
    Finding,
    count,
    missing,
    okay,
    pictures,
    sample,
    share,
    unreadable,
)
from selfpatch.eval.datasets.davis import Video, is_official, read_tree
from selfpatch.eval.measures.jf import VOID, read_mask
from selfpatch.pretrain.cli import UserError

ADE20K_CLASSES = 150


# --- ADE20K ---------------------------------------------------------------------------------------------------------


def ade20k_classes(root: str | Path) -> list[str] | None:
    """The names in ``classes.json``, that of label i at place i - 1; None for the official set, which has no such file.

    Raises:
        UserError: the file is not a list of distinct names, or is missing where the folder is not the official set.
    """
    root = Path(root)
    path = root / "classes.json"
    if not path.exists():
        marks = (root / "objectInfo150.txt").exists() or (root / "sceneCategories.txt").exists()
        folder = root / "images/training"
        if marks or (folder.is_dir() and len(pictures(folder)) == COUNTS["ade20k"]["training"]):
            return None
        raise UserError(
            f"{path} is missing and {root} is not the official ADE20K: write the class names into it as a JSON list, "
            "that of label 1 first"
        )
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): it holds a list of class names") from None
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise UserError(f"{path} is not a list of class names: write a JSON list of strings, the name of label 1 first")
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise UserError(f"{path} names '{twice[0]}' twice: each class needs a name of its own")
    if len(names) > 254:  # 0 and 255 are taken
        raise UserError(f"{path} holds {len(names)} classes: an 8-bit mask has room for 254")
    return names


def check_ade20k(root: str | Path, thorough: bool = False) -> list[Finding]:
    """Look at a set in ADE20K's format: pairs of images and masks, sizes, label range.

    Args:
        root: the folder with ``images/``, ``annotations/`` and, unless it is the official set, ``classes.json``.
        thorough: open every file instead of a sample of large splits.
    """
    root = Path(root)
    if not root.is_dir():
        return [missing(root, "ade20k")]
    try:
        names = ade20k_classes(root)
    except UserError as error:
        return [Finding("error", str(error))]
    findings = [okay(f"{len(names)} classes in classes.json" if names else f"{ADE20K_CLASSES} classes of ADE20K")]
    classes = len(names or range(ADE20K_CLASSES))
    for split in ("training", "validation"):
        folders = [root / kind / split for kind in ("images", "annotations")]
        lost = [folder for folder in folders if not folder.is_dir()]
        if lost:
            findings.append(missing(lost[0], "ade20k"))
            continue
        images, masks = (pictures(folder) for folder in folders)
        if not images:
            findings.append(Finding("error", f"{folders[0]} holds no image", SOURCES["ade20k"].advice()))
            continue
        findings.append(count("ade20k", split, len(images)))
        findings += _pairs(images, masks, *folders)
        both = sorted(images.keys() & masks.keys())
        findings += _masks([(images[stem], masks[stem]) for stem in both], split, classes, names, thorough)
    return findings


def _pairs(images: dict[str, Path], masks: dict[str, Path], image_dir: Path, mask_dir: Path) -> list[Finding]:
    """Errors for images without a mask and masks without an image."""
    findings = []
    for have, lack, folder, what in ((images, masks, mask_dir, "mask"), (masks, images, image_dir, "image")):
        alone = sorted(have.keys() - lack.keys())
        if alone:
            path = have[alone[0]]
            others = f" (nor have {len(alone) - 1} others)" if len(alone) > 1 else ""
            findings.append(
                Finding("error", f"{path} has no {what} in {folder}{others}", f"restore it or remove {path.name}")
            )
    return findings


def _masks(
    pairs: list[tuple[Path, Path]], split: str, classes: int, names: list[str] | None, thorough: bool
) -> list[Finding]:
    """Errors for unreadable files, sizes that differ, colour masks and labels above the number of classes."""
    findings: list[Finding] = []
    opened = sample(pairs, thorough)
    pixels = np.zeros(256, np.int64)
    for image_path, mask_path in opened:
        broken = unreadable([image_path, mask_path])
        if broken:
            findings += broken
            continue
        with Image.open(image_path) as image, Image.open(mask_path) as mask:
            if image.size != mask.size:
                sizes = "{}x{} but its image {}x{}".format(*mask.size, *image.size)
                findings.append(Finding("error", f"{mask_path} is {sizes}", "mask and image must have the same size"))
            if mask.mode not in ("L", "P"):
                fix = "a mask is an 8-bit PNG of label numbers"
                findings.append(Finding("error", f"{mask_path} is a picture of mode {mask.mode}", fix))
                continue
            found = np.bincount(np.asarray(mask).ravel(), minlength=256)
        pixels += found
        if found[classes + 1 : 255].any():
            label = classes + 1 + int(np.flatnonzero(found[classes + 1 : 255])[-1])
            fix = f"labels are 0 (nothing), 1 … {classes} and 255 (ignored): correct the mask or classes.json"
            findings.append(Finding("error", f"{mask_path} has label {label} but there are {classes} classes", fix))
    findings.append(okay(f"{split}: {share(len(opened), len(pairs))} masks opened"))
    if len(opened) == len(pairs) and not pixels[1 : classes + 1].all():
        absent = [names[i] if names else str(i + 1) for i in np.flatnonzero(pixels[1 : classes + 1] == 0)]
        findings.append(
            Finding("warn", f"{split}: no pixel of {', '.join(absent[:10])}", "no IoU can be given for them")
        )
    return findings


# --- DAVIS ----------------------------------------------------------------------------------------------------------


def check_davis(root: str | Path, thorough: bool = False) -> list[Finding]:
    """Look at a tree of DAVIS 2017: sequences, frames, palette masks and their object ids.

    Args:
        root: the folder with ``JPEGImages``, ``Annotations`` and ``ImageSets``.
        thorough: open every frame and mask instead of the first mask of each sequence and a sample of the rest.
    """
    root = Path(root)
    if not root.is_dir():
        return [missing(root, "davis")]
    if not (root / "JPEGImages/480p").is_dir() and (root / "JPEGImages/Full-Resolution").is_dir():
        fix = "the protocols and published figures use DAVIS-2017-trainval-480p.zip"
        return [Finding("error", f"{root} holds full-resolution frames and no 480p", fix)]
    try:
        videos = read_tree(root)  # what the evaluator reads, with its checks
    except UserError as error:
        return [Finding("error", str(error))]
    if is_official(videos):
        findings = [okay(f"val: {len(videos)} sequences, as in DAVIS 2017")]
    else:
        what = f"val: {len(videos)} sequences, not the {COUNTS['davis']['val']} of DAVIS 2017"
        findings = [Finding("warn", what, NO_BENCHMARK)]
    return findings + check_videos(videos, thorough)


def check_videos(videos: Sequence[Video], thorough: bool = False) -> list[Finding]:
    """Look into the files of some sequences of DAVIS: object ids, frames and masks that can be read, sizes, modes.

    Args:
        videos: sequences that :func:`read_tree` found whole.
        thorough: open every frame and mask instead of the first mask of each sequence and a sample of the rest.
    """
    findings, triples, objects = [], [], 0
    for video in videos:
        first = read_mask(video.masks[0])
        triples += [(frame, mask, first.shape[::-1]) for frame, mask in zip(video.frames, video.masks)]
        ids = np.unique(first)
        ids = ids[(ids > 0) & (ids < VOID)]
        objects += int(ids.max())
        if gaps := sorted(set(range(1, int(ids.max()) + 1)) - set(ids.tolist())):
            what = f"{video.masks[0]} skips object {', '.join(map(str, gaps))}"
            findings.append(Finding("warn", what, "it counts as an object that is never there"))
    opened = sample(triples, thorough, SAMPLE // 2)
    with ThreadPoolExecutor() as pool:
        for found in pool.map(_frame, opened):
            findings += found
    sizes = {size for _, _, size in triples}
    if other := [size for size in sorted(sizes) if min(size) != 480]:
        what = "some frames are {}x{}; 480p has a short side of 480".format(*other[0])
        findings.append(Finding("warn", what, NO_BENCHMARK))
    shown = share(len(opened), len(triples))
    return [*findings, okay(f"{len(triples)} frames, {objects} objects; {shown} frames opened")]


def _frame(triple: tuple[Path, Path, tuple[int, int]]) -> list[Finding]:
    """Errors if a frame or its mask cannot be read or is not of its sequence's size, or if the mask holds no ids."""
    frame_path, mask_path, size = triple
    if broken := unreadable([frame_path, mask_path]):
        return broken
    findings = []
    for path in (frame_path, mask_path):
        with Image.open(path) as image:
            if path == mask_path and image.mode not in ("P", "L", "1"):
                fix = "DAVIS 2017 has palette PNGs of object ids"
                findings.append(Finding("error", f"{path} is a picture of mode {image.mode}", fix))
            if image.size != size:
                what = "{} is {}x{}, the first mask {}x{}".format(path, *image.size, *size)
                findings.append(Finding("error", what, "a sequence is of one resolution"))
    return findings


# --- ImageNet -------------------------------------------------------------------------------------------------------


def check_imagenet(root: str | Path, thorough: bool = False) -> list[Finding]:
    """Look at ImageNet, or any folder of images for pretraining: classes, counts, readable images.

    Args:
        root: the folder with ``train/<wnid>/*.JPEG``, or any folder of pictures, nested or flat.
        thorough: count every folder and open every image; else 50 classes are counted and a sample is opened.
    """
    root = Path(root)
    if not root.is_dir():
        return [missing(root, "imagenet")]
    folder = root / "train" if (root / "train").is_dir() else root
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    looked = sample(classes, thorough, 50)
    images = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES]
    per_class = {}
    for path in looked:
        found = [image for image in path.rglob("*") if image.suffix.lower() in PICTURES]
        per_class[path] = len(found)
        images += found
    if not images:
        return [Finding("error", f"{folder} holds no image", SOURCES["imagenet"].advice())]
    findings = []
    empty = [path for path, images_of_it in per_class.items() if not images_of_it]
    if empty:
        findings.append(Finding("warn", f"{len(empty)} folders hold no image (first: {empty[0]})", "unpack them again"))
    if len(classes) != 1000:
        what = f"{len(classes)} folders; ImageNet has 1000 classes"
        findings.append(Finding("warn", what, "pretraining takes any folder of images, but this is not ImageNet"))
    elif len(looked) == len(classes):
        findings.append(count("imagenet", "train", len(images)))
    else:  # official classes have 732 to 1300 images each
        short = [path for path, images_of_it in per_class.items() if images_of_it < 732]
        estimate = round(len(images) / len(looked) * len(classes), -3)
        findings.append(okay(f"train: 1000 classes, about {estimate:.0f} images (counted: {len(looked)} classes)"))
        if short:
            what = f"{len(short)} of {len(looked)} classes have fewer than 732 images (first: {short[0]})"
            findings.append(Finding("warn", what, "ImageNet's have 732 to 1300: --all counts all of them"))
    opened = sample(sorted(images), thorough, SAMPLE // 4)
    findings += unreadable(opened)
    return [*findings, okay(f"{folder}: {share(len(opened), len(images))} images opened")]
