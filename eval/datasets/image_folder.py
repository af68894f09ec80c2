"""A folder of labelled images as a data set: split into what is learnt from and what is scored, and fingerprinted."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from selfpatch.eval.datasets import checks, imagenet
from selfpatch.eval.datasets.checks import Finding
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.folders import Listing
from selfpatch.reports.record import Dataset

SPLIT = 5  # without train/ and val/: every fifth image of a class, from its second, is val
HEADS_READ = 100_000  # of so many images the first bytes enter the fingerprint; of the others name and size
LAYOUT = "expected train/<class>/*.jpg and val/<class>/*.jpg, or <class>/*.jpg"


@dataclass(frozen=True)
class Labelled:
    """Images of one split in a fixed order, and the number of the class of each."""

    paths: list[Path]
    labels: np.ndarray  # (N,), int64

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class LabelledFolder:
    """A folder whose subfolders are classes, split into what is learnt from and what is scored."""

    root: Path
    classes: list[str]
    train: Labelled
    val: Labelled
    split: str  # how the two came about: part of the protocol
    findings: tuple[str, ...] = ()  # what is odd in its files

    @cached_property
    def _looked_at(self) -> tuple[str, list[Path]]:
        """The fingerprint, and the images of ``val`` whose size and first bytes one of ``train`` has, too."""
        digest, shared = hashlib.sha256(self.split.encode()), []
        step = -(-(len(self.train) + len(self.val)) // HEADS_READ)
        known: set[bytes] = set()
        for part in (self.train, self.val):
            digest.update(b"\n\n")
            for number, (path, label) in enumerate(zip(part.paths, part.labels.tolist())):
                place, size = path.relative_to(self.root).as_posix(), path.stat().st_size
                digest.update(f"\n{place} {label} {size} ".encode(errors="surrogateescape"))
                if number % step == 0:
                    with open(path, "rb") as file:
                        head = file.read(4096)
                    digest.update(head)
                    content = hashlib.sha256(b"%d " % size + head).digest()
                    if part is self.train:
                        known.add(content)
                    elif content in known:
                        shared.append(path)
        return digest.hexdigest(), shared

    @property
    def fingerprint(self) -> str:
        """SHA-256 of every image's place, class and size, and of the first 4 KiB of up to :data:`HEADS_READ` images."""
        return self._looked_at[0]

    @cached_property
    def identity(self) -> Dataset:
        counted = (np.bincount(part.labels, minlength=len(self.classes)) for part in (self.train, self.val))
        counts = (dict(zip(self.classes, counts.tolist())) for counts in counted)
        official = imagenet.is_official(*counts, [*self.train.paths, *self.val.paths])
        return checks.identity(self.root, "imagenet1k-val", official, "val", self.fingerprint)

    def units(self, scores: Tensor) -> dict[str, np.ndarray]:
        """What a record keeps of scores (M, classes) of ``val``: whether each image is right; top-5 from 6 classes."""
        labels = torch.from_numpy(self.val.labels)
        places = np.array([path.relative_to(self.root).as_posix() for path in self.val.paths])
        ranks = [n for n in (1, 5) if n == 1 or len(self.classes) > n]
        return {"image": places} | {f"top-{n}": top(scores, labels, n).numpy() for n in ranks}


def top(scores: Tensor, labels: Tensor, n: int) -> Tensor:
    """Whether the true class is among the ``n`` best of (M, classes); of equal scores the lower class wins."""
    best = scores.argsort(dim=1, descending=True, stable=True)[:, :n]
    return (best == labels[:, None]).any(dim=1)


def open_folder(root: str | Path) -> LabelledFolder:
    """A labelled folder, after a sample of its images (of few: all) was decoded.

    Raises:
        UserError: it is not one of classes, or an image cannot be decoded.
    """
    folder = read_folder(root)
    found = imagenet.check_images([*folder.train.paths, *folder.val.paths], str(root))
    if shared := folder._looked_at[1]:
        what = f"{root}: {len(shared)} images that are scored are among those that are learnt from (first: {shared[0]})"
        found.append(Finding("warn", what, "remove the copies"))
    return replace(folder, findings=(*folder.findings, *checks.require(found)))


def read_folder(root: str | Path) -> LabelledFolder:
    """The images under ``train/`` and ``val/``, or all class folders of ``root`` split by :func:`held_out`.

    Raises:
        UserError: no such folder; no class folders, fewer than two, or none with a second image; a class is only in
            ``val/``.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"no such data folder: {root} (give an image folder with --data: {LAYOUT})")
    if splits := imagenet.find_splits(root):
        (train, seen), (val, seen_too) = map(_classes_in, splits)
        if unknown := sorted(val.keys() - train.keys()):
            raise UserError(f"{splits[1]} has the class {unknown[0]}, which {splits[0]} has no images of")
        classes = sorted(train)
        parts = [_labelled(found, classes) for found in (train, val)]
        return LabelledFolder(root, classes, *parts, split_of(root), (*seen.passed_by(), *seen_too.passed_by()))
    found, seen = _classes_in(root)
    classes = sorted(found)
    if all(len(paths) == 1 for paths in found.values()):
        raise UserError(f"{root} has one image per class: there is nothing to learn a class from and still score on")
    whole = _labelled(found, classes)
    scored = held_out(SPLIT, whole.labels)
    parts = [
        Labelled([path for path, taken in zip(whole.paths, mask) if taken], whole.labels[mask])
        for mask in (~scored, scored)
    ]
    return LabelledFolder(root, classes, *parts, split_of(root), tuple(seen.passed_by()))


def split_of(root: Path) -> str:
    """How a folder is split into what is learnt from and what is scored: a parameter of the protocol."""
    if splits := imagenet.find_splits(root):
        return " and ".join(f"{folder.name}/" for folder in splits)
    return f"every {SPLIT}th image of a class is val, from its 2nd"


def held_out(n: int, labels: np.ndarray) -> np.ndarray:
    """Which images (N,) to hold out: of each class, in order, the second and every ``n``-th after it; bool (N,)."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(labels[order]) > 0])
    place = np.empty(len(labels), dtype=np.int64)  # an image's place within its class
    place[order] = np.arange(len(labels)) - np.repeat(starts, np.diff(np.r_[starts, len(labels)]))
    return place % n == 1


def _classes_in(root: Path) -> tuple[dict[str, list[Path]], Listing]:
    found, seen = imagenet.classes_in(root)
    if len(found) < 2:
        hint = "; ".join(["", *seen.passed_by()])
        raise UserError(f"{root} has {len(found)} class folders with images: at least 2 are needed; {LAYOUT}{hint}")
    return found, seen


def _labelled(found: dict[str, list[Path]], classes: Sequence[str]) -> Labelled:
    pairs = [(path, label) for label, name in enumerate(classes) for path in found.get(name, [])]
    return Labelled([path for path, _ in pairs], np.array([label for _, label in pairs], dtype=np.int64))
