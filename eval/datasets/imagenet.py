"""ImageNet, or any folder of images: splits and classes found, files looked at, and what makes it the benchmark."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from selfpatch.eval.datasets import checks
from selfpatch.eval.datasets.archives import Source
from selfpatch.eval.datasets.checks import Finding
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.folders import Listing, folders_in, list_files, merged

SOURCE = Source(
    "imagenet",
    "image-net.org (ILSVRC 2012, training images of tasks 1 and 2)",
    "data/imagenet",
    {"ILSVRC2012_img_train.tar": {"": "train"}},
)
TRAIN, VAL = ("train", "training"), ("val", "valid", "validation", "test", "testing", "eval", "dev")
OFFICIAL_TRAIN, OFFICIAL_VAL = 1_281_167, 50_000
OFFICIAL_WNIDS = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"  # SHA-256 of the classes' lines
OFFICIAL_PER_CLASS = range(732, 1301)  # training images; 50 for validation
OFFICIAL_SHORT = range(333, 401)  # pixels: the median short side; most photographs are 500 x 375


def find_splits(root: Path) -> tuple[Path, Path] | None:
    """The folders for training and for validation below ``root``; None if its folders are classes.

    Raises:
        UserError: there are names of splits, but it is not clear which is which.
    """
    folders = {folder.name.lower(): folder for folder in folders_in(root)}
    train, val = ([folders[name] for name in names if name in folders] for names in (TRAIN, VAL))
    if train and val:
        if len(train) > 1:
            raise UserError(f"{root} has {train[0].name}/ and {train[1].name}/: move one of the two away")
        return train[0], val[0]  # of val/ and test/ the first, as everywhere in the field
    half = [folder for folder in (*train, *val) if folders_in(folder)]  # with classes of its own: no class
    if half:
        lacking = "/, ".join(VAL if train else TRAIN)
        raise UserError(
            f"{root} has {half[0].name}/ with folders in it, but none of {lacking}/: give the other split such a name, "
            f"or give {half[0]} itself as the folder of classes"
        )
    return None


def classes_in(root: Path) -> tuple[dict[str, list[Path]], Listing]:
    """The images of every folder of ``root`` that holds any, at any depth; and what was passed by."""
    listings = {folder.name: list_files(folder) for folder in folders_in(root)}
    whole = merged(root, list(listings.values()))
    flat = list_files(root, deep=False)  # pictures that lie beside the folders have no class
    whole.hidden, whole.unread = flat.hidden + whole.hidden, flat.unread + whole.unread
    if flat.paths:
        whole.unread["outside the folders of classes"] = len(flat.paths)
    return {name: listing.paths for name, listing in listings.items() if listing.paths}, whole


def check_images(paths: Sequence[Path], where: str, thorough: bool = False) -> list[Finding]:
    """Errors for pictures that cannot be read to their end, and a count of odd ones, from a sample."""
    opened = checks.sample(paths, thorough, checks.SAMPLE // 4)
    headers, errors = checks.headers_of(opened)
    return [
        *errors,
        *checks.oddities(headers.values(), where),
        checks.okay(f"{where}: {checks.share(len(opened), len(paths))} images opened"),
    ]


def is_official(train: Mapping[str, int], val: Mapping[str, int], images: Sequence[Path]) -> bool:
    """Whether labelled images are ImageNet-1k: images a class, and the sizes of a sample of ``images``."""
    if (sum(train.values()), sum(val.values())) != (OFFICIAL_TRAIN, OFFICIAL_VAL) or set(val.values()) != {50}:
        return False
    wnids = hashlib.sha256("\n".join(sorted(train)).encode(errors="surrogateescape")).hexdigest()
    if wnids != OFFICIAL_WNIDS or not all(found in OFFICIAL_PER_CLASS for found in train.values()):
        return False
    headers, _ = checks.headers_of(checks.sample(images, thorough=False), decode=False)
    return bool(headers) and int(np.median([min(header.size) for header in headers.values()])) in OFFICIAL_SHORT


def check(root: str | Path, thorough: bool = False) -> list[Finding]:
    """Look at ImageNet, or any folder of images for pretraining: classes, counts, readable images."""
    root = Path(root)
    if not root.is_dir():
        return [checks.missing(root, SOURCE)]
    folder = next((found for found in folders_in(root) if found.name.lower() in TRAIN and folders_in(found)), root)
    classes = folders_in(folder)
    looked = checks.sample(classes, thorough, 50)
    listings = [list_files(path) for path in looked]
    flat = list_files(folder, deep=False)
    images = [path for listing in (flat, *listings) for path in listing.paths]
    findings = checks.passed_by(merged(folder, [flat, *listings]))
    if not images:
        return [*findings, Finding("error", f"{folder} holds no image", SOURCE.advice())]
    if empty := [path for path, listing in zip(looked, listings) if not listing.paths]:
        findings.append(Finding("warn", f"{len(empty)} folders hold no image (first: {empty[0]})", "unpack them again"))
    if len(classes) != 1000:
        findings.append(Finding("warn", f"{len(classes)} folders; ImageNet has 1000 classes", checks.NO_BENCHMARK))
    elif hashlib.sha256("\n".join(sorted(path.name for path in classes)).encode()).hexdigest() != OFFICIAL_WNIDS:
        findings.append(Finding("warn", f"{folder}: the 1000 folders are not ImageNet's", checks.NO_BENCHMARK))
    elif len(looked) == len(classes):
        findings.append(checks.count("train", len(images), OFFICIAL_TRAIN))
    else:
        findings += _estimated(looked, listings, len(classes))
    return findings + check_images(sorted(images), str(folder), thorough)


def _estimated(looked: Sequence[Path], listings: Sequence[Listing], classes: int) -> list[Finding]:
    """How many images a set has, told from some of its classes, and a warning for those that are too small."""
    counts = [len(listing.paths) for listing in listings]
    estimate = round(sum(counts) / len(looked) * classes, -3)
    findings = [checks.okay(f"train: {classes} classes, about {estimate:.0f} images (counted: {len(looked)} classes)")]
    if short := [path for path, found in zip(looked, counts) if found < OFFICIAL_PER_CLASS.start]:
        what = f"{len(short)} of {len(looked)} classes have fewer than 732 images (first: {short[0]})"
        findings.append(Finding("warn", what, "ImageNet's have 732 to 1300: --all counts all of them"))
    return findings
