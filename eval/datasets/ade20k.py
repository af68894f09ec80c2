"""Sets in ADE20K's format, images and label maps paired by name: read, checked, fingerprinted and served."""

import hashlib
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from selfpatch.eval.datasets import checks
from selfpatch.eval.datasets.archives import Source
from selfpatch.eval.datasets.checks import Finding
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.files import read_json
from selfpatch.pretrain.folders import list_files
from selfpatch.pretrain.images import Header, read_header, read_labels
from selfpatch.pretrain.settings import option
from selfpatch.reports.record import Dataset

SOURCE = Source(
    "ade20k",
    "sceneparsing.csail.mit.edu (MIT Scene Parsing Benchmark)",
    "data/ade20k",
    {
        "ADEChallengeData2016.zip": {
            "ADEChallengeData2016/annotations": "annotations",
            "ADEChallengeData2016/images": "images",
            "ADEChallengeData2016/objectInfo150.txt": "objectInfo150.txt",
        }
    },
)
SPLITS = ("training", "validation")
OFFICIAL_CLASSES = 150
OFFICIAL_COUNTS = {"training": 20_210, "validation": 2_000}
# SHA-256 of "<name> <width>x<height>" of all validation images, a line each: of the authors' own list, validation.odgt
OFFICIAL_SIZES = "275e38cf7fd9c03f5c8ed6898ff037c2d50623216793f86e0dd68a357b21ed76"
VOID = 255  # the class of pixels with label 0, which is nobody's
ZERO = "ignore_zero"  # the setting that overrules the suspicion that labels are counted from 0
Pairs = list[tuple[Path, Path]]  # images and their label maps


@dataclass(frozen=True)
class LabelMaps:
    """The pairs that are trained and tested on, and what a reader of the figures should know of them."""

    root: Path
    names: tuple[str, ...] | None  # of the classes; None: ADE20K's own
    findings: tuple[str, ...]

    def pairs(self, split: str) -> Pairs:
        """(image, label map) of every image of a split, in order."""
        return pairs_in(*folders_of(self.root, split))

    @cached_property
    def identity(self) -> Dataset:
        return checks.identity(self.root, "ade20k-val", is_official(self.root), "validation", fingerprint_of(self.root))


def open_label_maps(root: str | Path, allowed: Collection[str] = ()) -> LabelMaps:
    """A set in ADE20K's format, after a look at its names and at a sample of its files.

    Raises:
        UserError: something is missing or cannot be learned from, and no setting of ``allowed`` overrules it.
    """
    findings = checks.require(check(root), allowed)
    names = class_names(root)
    return LabelMaps(Path(root), None if names is None else tuple(names), tuple(findings))


def class_names(root: str | Path) -> list[str] | None:
    """The names in ``classes.json``, that of label i at place i - 1; None for the official set, which has no such file.

    Raises:
        UserError: the file is not a list of distinct names, or is missing where the folder is not the official set.
    """
    root = Path(root)
    path = root / "classes.json"
    if not path.exists():
        marks = (root / "objectInfo150.txt").exists() or (root / "sceneCategories.txt").exists()
        folder = root / "images/training"
        if marks or (folder.is_dir() and len(checks.pictures(folder)) == OFFICIAL_COUNTS["training"]):
            return None
        raise UserError(
            f"{path} is missing and {root} is not the official ADE20K: write the class names into it as a JSON list, "
            "that of label 1 first"
        )
    names = read_json(path)
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise UserError(f"{path} is not a list of class names: write a JSON list of strings, the name of label 1 first")
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise UserError(f"{path} names '{twice[0]}' twice: each class needs a name of its own")
    if len(names) > 254:  # 0 and 255 are taken
        raise UserError(f"{path} holds {len(names)} classes: an 8-bit mask has room for 254")
    return names


def listed_names(root: Path) -> list[str]:
    """ADE20K's 150 names by its own ``objectInfo150.txt``, the first of several each; without that file, numbers."""
    listing = root / "objectInfo150.txt"
    if not listing.is_file():
        return [str(number) for number in range(1, OFFICIAL_CLASSES + 1)]
    rows = [line.split("\t") for line in listing.read_text(encoding="utf-8").splitlines()]
    named = {row[0].strip(): row[-1].partition(",")[0].strip() for row in rows}
    return [named.get(str(number), str(number)) for number in range(1, OFFICIAL_CLASSES + 1)]


def read_classes(path: str | Path, classes: int) -> np.ndarray:
    """The class of each pixel (H, W), uint8, of a label map: label i is class i - 1, 0 and 255 are none (255).

    Raises:
        UserError: it cannot be read, or has a label beyond the classes.
    """
    labels = read_labels(path)
    wrong = labels[(labels > classes) & (labels != VOID)]
    if wrong.size:
        raise UserError(f"{path} has label {int(wrong.max())} but there are {classes} classes")
    return np.where((labels == 0) | (labels == VOID), VOID, labels - 1).astype(np.uint8)


def folders_of(root: Path, split: str) -> tuple[Path, Path]:
    """The folders of the images and of the label maps of a split."""
    return root / "images" / split, root / "annotations" / split


def pairs_in(images: Path, masks: Path) -> Pairs:
    """(image, label map) of every image that has one, in order."""
    maps = checks.label_maps(masks).by_stem()
    return [(image, maps[stem]) for stem, image in checks.pictures(images).items() if stem in maps]


def check(root: str | Path, thorough: bool = False) -> list[Finding]:
    """Look at a set in ADE20K's format: pairs of images and masks, sizes, label range, what is odd."""
    root = Path(root)
    if not root.is_dir():
        return [checks.missing(root, SOURCE)]
    try:
        names = class_names(root)
        listed = names or [str(number) for number in range(1, OFFICIAL_CLASSES + 1)]
        findings = [checks.okay(f"{len(listed)} classes " + ("in classes.json" if names else "of ADE20K"))]
        pairs, pixels = {}, {}
        for split in SPLITS:
            folders = folders_of(root, split)
            if lost := [folder for folder in folders if not folder.is_dir()]:
                findings.append(checks.missing(lost[0], SOURCE))
                continue
            listings = list_files(folders[0], deep=False), checks.label_maps(folders[1])
            images, masks = (listing.by_stem() for listing in listings)
            findings += checks.passed_by(*listings)
            if not images:
                findings.append(Finding("error", f"{folders[0]} holds no image", SOURCE.advice()))
                continue
            findings += [checks.count(split, len(images), OFFICIAL_COUNTS[split]), *_alone(images, masks, *folders)]
            pairs[split] = pairs_in(*folders)
            found, pixels[split] = _look(split, pairs[split], listed, thorough)
            findings += found
    except UserError as error:
        return [Finding("error", str(error))]
    if len(pairs) == len(SPLITS) and names and not any(finding.level == "error" for finding in findings):
        findings += _counted_from_zero(pairs, pixels, names)
    return findings


def _alone(images: dict[str, Path], masks: dict[str, Path], image_dir: Path, mask_dir: Path) -> list[Finding]:
    """Errors for images without a mask and masks without an image."""
    findings = []
    for have, lack, folder, what in ((images, masks, mask_dir, "mask"), (masks, images, image_dir, "image")):
        if alone := [path for stem, path in have.items() if stem not in lack]:
            others = f" (nor have {len(alone) - 1} others)" if len(alone) > 1 else ""
            fix = f"restore it or remove {alone[0].name}"
            findings.append(Finding("error", f"{alone[0]} has no {what} in {folder}{others}", fix))
    return findings


def _look(split: str, pairs: Pairs, classes: list[str], thorough: bool) -> tuple[list[Finding], np.ndarray]:
    """What is wrong or odd with some pairs of a split, and how often each label 0 … 255 occurs in their label maps."""
    opened = checks.sample(pairs, thorough)
    findings, headers, pixels = [], [], np.zeros(256, np.int64)
    with ThreadPoolExecutor() as pool:
        for found, header, counted in pool.map(partial(_look_at, classes=len(classes)), opened):
            findings += found
            headers += [header] if header else []
            pixels += counted
    findings += checks.oddities(headers, split)
    findings.append(checks.okay(f"{split}: {checks.share(len(opened), len(pairs))} masks opened"))
    absent = [name for name, count in zip(classes, pixels[1:]) if count == 0]
    if pixels.any() and len(absent) == len(classes):
        fix = f"labels are 1 … {len(classes)}; 0 and 255 are ignored"
        findings.append(Finding("error", f"{pairs[0][1].parent}: no pixel has a label", fix))
    elif absent and len(opened) == len(pairs):
        what = f"{split}: no pixel of {', '.join(absent[:10])}"
        findings.append(Finding("warn", what, "no IoU can be given for them"))
    return findings, pixels


def _look_at(pair: tuple[Path, Path], classes: int) -> tuple[list[Finding], Header | None, np.ndarray]:
    """Errors of one pair: unreadable files, sizes that differ, labels above the number of classes."""
    image, mask = pair
    try:
        header, labels = read_header(image, decode=True), read_labels(mask)
        fits = labels.shape in (header.size, header.upright)
    except UserError as error:
        return [Finding("error", str(error))], None, np.zeros(256, np.int64)
    findings = []
    if not fits:
        sizes = "{}x{} but its image {}x{}".format(*labels.shape[::-1], *header.size[::-1])
        findings.append(Finding("error", f"{mask} is {sizes}", "mask and image must have the same size"))
    pixels = np.bincount(labels.ravel(), minlength=256)
    if beyond := np.flatnonzero(pixels[classes + 1 : VOID]).tolist():
        what = f"{mask} has label {classes + 1 + beyond[-1]} but there are {classes} classes"
        fix = f"labels are 0 (nothing), 1 … {classes} and 255 (ignored): correct the mask or classes.json"
        findings.append(Finding("error", what, fix))
    return findings, header, pixels


def _counted_from_zero(pairs: dict[str, Pairs], pixels: dict[str, np.ndarray], names: list[str]) -> list[Finding]:
    """An error if label 0 is used and the last one is not: then the first class is what nobody is trained on."""
    last, (used, unused) = len(names), (sum(pixels.values())[label] for label in (0, len(names)))
    if unused or not used:
        return []
    masks = [mask for split in pairs.values() for _, mask in split]
    with ThreadPoolExecutor() as pool:  # all of them: the last class may be rare
        if any(pool.map(lambda mask: (read_labels(mask) == last).any(), masks)):
            return []
    what = f"{masks[0].parent.parent} has label 0 but nowhere label {last} ('{names[-1]}')"
    fix = (
        "labels count from 1, 0 is ignored: it seems that they count from 0 here; add 1 to them, or, if they are "
        f"right, overrule it with {option(ZERO)}"
    )
    return [Finding("error", what, fix, ZERO)]


def is_official(root: Path) -> bool:
    """Whether a set is the official one: its counts, and names and sizes of all validation images (0.5 s)."""
    images = {split: checks.pictures(root / "images" / split) for split in SPLITS}
    if class_names(root) is not None or {split: len(found) for split, found in images.items()} != OFFICIAL_COUNTS:
        return False
    sizes = (f"{path.name} {w}x{h}" for path in images["validation"].values() for h, w in [read_header(path).size])
    return hashlib.sha256("\n".join(sorted(sizes)).encode(errors="surrogateescape")).hexdigest() == OFFICIAL_SIZES


def fingerprint_of(root: Path) -> str:
    """SHA-256 of names and sizes of all files, the first 4 KiB of each, and the validation masks in full."""
    names = class_names(root)
    if names is None:
        from mmseg.datasets import ADE20KDataset

        names = ADE20KDataset.METAINFO["classes"]
    digest = hashlib.sha256("\n".join(names).encode())
    for folder in ("images/training", "annotations/training", "images/validation", "annotations/validation"):
        for path in sorted(checks.pictures(root / folder).values()):
            digest.update(f"\n{folder}/{path.name} {path.stat().st_size}\n".encode(errors="surrogateescape"))
            with open(path, "rb") as file:
                digest.update(file.read() if folder == "annotations/validation" else file.read(4096))
    return digest.hexdigest()
