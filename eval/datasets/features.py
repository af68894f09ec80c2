"""Labelled images, and one global feature of each: computed once for a checkpoint and kept on disk.

k-NN and linear classification share them. The cache is a NumPy file named by everything that its content depends on;
a run that was cut short goes on in it.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from selfpatch.eval.checkpoints.load import LoadedBackbone
from selfpatch.eval.datasets.checks import require, sample, unreadable
from selfpatch.pretrain.backbone import IMAGENET_MEAN, IMAGENET_STD
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.files import raise_unless_writable, write_text
from selfpatch.pretrain.folders import PICTURES
from selfpatch.pretrain.progress import Meter
from selfpatch.reports.record import Dataset

DATA = Path("data/imagenet")  # the default of --data
RESIZE, CROP = 256, 224  # as DINO evaluates: the short side, then the centre
GLOBAL = "[CLS] of the last layer; without [CLS], the mean of its patch tokens"
SPLIT = 5  # without train/ and val/: every fifth image of a class, from its second, is val
HEADS_READ = 100_000  # of so many images the first bytes enter the fingerprint; of the others name and size
IMAGENET = (1000, 1_281_167, 50_000)  # classes, images in train/ and val/
SAVE_EVERY = 20.0  # seconds between the moments a kill would go back to
LAYOUT = "expected train/<class>/*.jpg and val/<class>/*.jpg, or <class>/*.jpg"


# --- labelled images -------------------------------------------------------------------------------------------------


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

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of every image's place, class and size, and of the first 4 KiB of up to :data:`HEADS_READ` images."""
        digest = hashlib.sha256(self.split.encode())
        step = -(-(len(self.train) + len(self.val)) // HEADS_READ)
        for part in (self.train, self.val):
            digest.update(b"\n\n")
            for number, (path, label) in enumerate(zip(part.paths, part.labels.tolist())):
                digest.update(f"\n{path.relative_to(self.root).as_posix()} {label} {path.stat().st_size} ".encode())
                if number % step == 0:
                    with open(path, "rb") as file:
                        digest.update(file.read(4096))
        return digest.hexdigest()

    @property
    def dataset(self) -> Dataset:
        """As records name it: ``imagenet1k-val`` if classes and counts are its, else the folder's name."""
        official = (len(self.classes), len(self.train), len(self.val)) == IMAGENET
        name = "imagenet1k-val" if official else f"{self.root.resolve().name}-val"
        return Dataset(name, "val", self.fingerprint, miniature=not official)


def read_folder(root: str | Path) -> LabelledFolder:
    """The images under ``train/`` and ``val/``, or all class folders of ``root`` split by :func:`every`.

    Raises:
        UserError: no such folder; no class folders, fewer than two, or none with a second image; a class is only in
            ``val/``.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"no such data folder: {root} (give an image folder with --data: {LAYOUT})")
    if (root / "train").is_dir() and (root / "val").is_dir():
        train, val = (_class_folders(root / part) for part in ("train", "val"))
        if unknown := sorted(val.keys() - train.keys()):
            raise UserError(f"{root / 'val'} has the class {unknown[0]}, which {root / 'train'} has no images of")
        classes = sorted(train)
        parts = [_labelled(found, classes) for found in (train, val)]
        return LabelledFolder(root, classes, *parts, split="train/ and val/")
    found = _class_folders(root)
    classes = sorted(found)
    if all(len(paths) == 1 for paths in found.values()):
        raise UserError(f"{root} has one image per class: there is nothing to learn a class from and still score on")
    whole = _labelled(found, classes)
    scored = every(SPLIT, whole.labels)
    parts = [
        Labelled([path for path, taken in zip(whole.paths, mask) if taken], whole.labels[mask])
        for mask in (~scored, scored)
    ]
    return LabelledFolder(root, classes, *parts, split=f"every {SPLIT}th image of a class is val, from its 2nd")


def every(n: int, labels: np.ndarray) -> np.ndarray:
    """Which images (N,) to hold out: of each class, in order, the second and every ``n``-th after it; bool (N,)."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(labels[order]) > 0])
    place = np.empty(len(labels), dtype=np.int64)  # an image's place within its class
    place[order] = np.arange(len(labels)) - np.repeat(starts, np.diff(np.r_[starts, len(labels)]))
    return place % n == 1


def _class_folders(root: Path) -> dict[str, list[Path]]:
    found = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        paths = [Path(at, name) for at, _, names in os.walk(folder, followlinks=True) for name in names]
        if paths := sorted(path for path in paths if path.suffix.lower() in PICTURES):
            found[folder.name] = paths
    if len(found) < 2:
        raise UserError(f"{root} has {len(found)} class folders with images: at least 2 are needed; {LAYOUT}")
    return found


def _labelled(found: dict[str, list[Path]], classes: Sequence[str]) -> Labelled:
    pairs = [(path, label) for label, name in enumerate(classes) for path in found.get(name, [])]
    return Labelled([path for path, _ in pairs], np.array([label for _, label in pairs], dtype=np.int64))


# --- features --------------------------------------------------------------------------------------------------------


def read_image(path: Path, resize: int = RESIZE, crop: int = CROP) -> np.ndarray:
    """An image as the backbone takes it: short side ``resize`` (bicubic), centre ``crop``, normalised; (3, crop, crop).

    Raises:
        UserError: it cannot be read.
    """
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a readable image ({error}): remove or replace it") from None
    width, height = image.size
    short = min(width, height)
    width, height = resize * width // short, resize * height // short
    left, top = round((width - crop) / 2), round((height - crop) / 2)
    image = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + crop, top + crop))
    pixels = (np.asarray(image, dtype=np.float32) / 255 - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    return pixels.transpose(2, 0, 1)


def features_of(
    backbone: LoadedBackbone, part: Labelled, args: argparse.Namespace, title: str, fingerprint: str
) -> np.ndarray:
    """The global features (N, C), float32, of the images of ``part``, from the cache where they are there.

    Args:
        backbone: whose features.
        part: the images.
        args: with the options of :func:`add_arguments`.
        title: "train" or "val".
        fingerprint: of the folder.

    Returns:
        a read-only, memory-mapped array.

    Raises:
        UserError: an image cannot be read, or a feature is not finite.
    """
    identity = {
        "weights_sha256": backbone.weights_sha256,
        "arch": backbone.arch,  # the same weights compute something else with another number of heads
        "data": fingerprint,
        "part": title,
        "images": len(part),
        "parameters": parameters(args),
    }
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    path = Path(args.features) / backbone.checkpoint_sha256[:12] / f"{title}-{name}.npy"
    raise_unless_writable(path.parent, "--features")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path.with_suffix(".lock")):
        known = _finished(path, len(part))
        if known is None:
            _extract(backbone, part, args, title, path)
            write_text(path.with_suffix(".json"), json.dumps(identity, indent=1) + "\n")
            known = np.load(path, mmap_mode="r")
        else:
            print(f"{title}: {len(part)} features from {path}", flush=True)
    return known


def _finished(path: Path, images: int) -> np.ndarray | None:
    try:
        known = np.load(path, mmap_mode="r")
        return known if len(known) == images else None
    except (OSError, ValueError, EOFError):
        return None  # never made, or damaged: made again


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Two runs that want the same features: the second waits, and finds them."""
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _extract(backbone: LoadedBackbone, part: Labelled, args: argparse.Namespace, title: str, path: Path) -> None:
    """Compute features into ``<name>.part.npy``, and in ``.part.json`` how many are safe; rename at the end."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = backbone.model.to(device).eval()
    half, note = path.with_suffix(".part.npy"), path.with_suffix(".part.json")
    kept, done = None, _safe_rows(note)
    saved = time.perf_counter()
    with (
        ThreadPoolExecutor(args.workers) as pool,
        Meter(f"{title} features", len(part), "images", done) as meter,
        torch.inference_mode(),
    ):

        def load(start: int) -> list:
            return [pool.submit(read_image, p, args.resize, args.crop) for p in part.paths[start : start + args.batch]]

        if done:
            print(f"{title}: going on after {done} of {len(part)} images", flush=True)
        ahead = load(done)
        while done < len(part):
            jobs, ahead = ahead, load(done + args.batch)
            try:
                pixels = torch.from_numpy(np.stack([job.result() for job in jobs])).to(device)
            except UserError:
                pool.shutdown(cancel_futures=True)
                raise
            batch = model(pixels)[0].float().cpu().numpy()  # (B, C)
            if not np.isfinite(batch).all():
                raise UserError(f"the backbone's features are not finite for an image from {part.paths[done]} on")
            if kept is None:
                kept = _open(half, (len(part), batch.shape[1]), fresh=done == 0)
            kept[done : done + len(batch)] = batch
            done += len(batch)
            meter.advance(len(batch))
            if time.perf_counter() - saved > SAVE_EVERY:
                kept.flush()
                write_text(note, json.dumps({"rows": done}))
                saved = time.perf_counter()
    if kept is not None:
        kept.flush()
    os.replace(half, path)
    note.unlink(missing_ok=True)


def _safe_rows(note: Path) -> int:
    try:
        return int(json.loads(note.read_text())["rows"]) if note.with_suffix(".npy").exists() else 0
    except (OSError, ValueError, KeyError):
        return 0


def _open(path: Path, shape: tuple[int, int], fresh: bool) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="w+" if fresh else "r+", dtype=np.float32, shape=shape)


# --- what both tasks share -------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the features, for every task that uses them."""
    add = parser.add_argument
    add("--resize", type=int, default=RESIZE, metavar="PIXELS", help="short side of an image before the centre crop")
    add("--crop", type=int, default=CROP, metavar="PIXELS", help="side of the centre crop")
    add("--features", type=Path, default=Path("work_dirs/features"), metavar="DIR", help="where features are kept")
    add("--batch", type=int, default=64, metavar="N", help="images a step of the backbone")
    add("--workers", type=int, default=min(4, os.cpu_count() or 1), metavar="N", help="threads that read images")


def check(args: argparse.Namespace) -> LabelledFolder:
    """The folder, read once for a command.

    Raises:
        UserError: an option is out of range, the folder is not one of classes, or an image of a sample (of few: of all)
            cannot be decoded.
    """
    for name in ("crop", "batch", "workers"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: must be 1 or more")
    if args.resize < args.crop:
        raise UserError(f"--resize {args.resize} is smaller than --crop {args.crop}: the crop would leave the image")
    if not hasattr(args, "folder"):
        folder = read_folder(args.data)
        require(unreadable(sample([*folder.train.paths, *folder.val.paths], thorough=False)))
        args.folder = folder
    return args.folder


def parameters(args: argparse.Namespace) -> dict[str, object]:
    """What features depend on beside weights and images, as a protocol states it."""
    return {
        "feature": GLOBAL,
        "resize": args.resize,
        "interpolation": "bicubic",
        "crop": args.crop,
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
    }


def changed(args: argparse.Namespace, defaults: dict[str, object]) -> str:
    """What a protocol's name says of parameters that are not its own: ``+crop=64+k=5``; nothing if all are."""
    defaults = {"resize": RESIZE, "crop": CROP, **defaults}
    return "".join(f"+{name}={getattr(args, name)}" for name, own in defaults.items() if getattr(args, name) != own)


def notes(backbone: LoadedBackbone) -> list[str]:
    """What a reader of the figures should know of the feature."""
    if backbone.arch.get("cls_token"):
        return []
    return ["the global feature is the mean of the patch tokens: this network has no [CLS]"]
