"""DAVIS 2017 as folders: sequences read and checked, and masks written in the layout of the official submission."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from selfpatch.eval.measures.jf import VOID, read_mask
from selfpatch.pretrain.cli import UserError

# fmt: off
OFFICIAL_VAL = {
    "bike-packing", "blackswan", "bmx-trees", "breakdance", "camel", "car-roundabout", "car-shadow", "cows",
    "dance-twirl", "dog", "dogs-jump", "drift-chicane", "drift-straight", "goat", "gold-fish", "horsejump-high",
    "india", "judo", "kite-surf", "lab-coat", "libby", "loading", "mbike-trick", "motocross-jump",
    "paragliding-launch", "parkour", "pigs", "scooter-black", "shooting", "soapbox",
}
# fmt: on
OFFICIAL_FRAMES = 1999
LAYOUT = "expected JPEGImages/480p/<sequence>/*.jpg, Annotations/480p/<sequence>/*.png and ImageSets/2017/val.txt"


@dataclass(frozen=True)
class Video:
    """One sequence of a DAVIS tree: its frames and their ground truth, in order."""

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]

    def fingerprint(self) -> str:
        """SHA-256 of the name, and of the names and contents of all frames and masks (all of DAVIS val: 0.3 s)."""
        digest = hashlib.sha256(self.name.encode())
        for path in (path for pair in zip(self.frames, self.masks) for path in pair):
            content = path.read_bytes()
            digest.update(f"\n{path.name} {len(content)}\n".encode())
            digest.update(content)
        return digest.hexdigest()


def read_tree(root: Path, resolution: str = "480p", only: Sequence[str] = ()) -> list[Video]:
    """The validation sequences of a DAVIS tree, checked as far as that is quick.

    Args:
        root: folder with JPEGImages, Annotations and ImageSets.
        resolution: name of the folder under the first two.
        only: sequences to keep; none: all of ``ImageSets/2017/val.txt``.

    Raises:
        UserError: something is missing, frames and annotations do not match, or a first annotation holds no object ids.
    """
    images, annotations, listed = (
        root / "JPEGImages" / resolution,
        root / "Annotations" / resolution,
        root / "ImageSets" / "2017" / "val.txt",
    )
    for path in (root, images, annotations, listed):
        if not path.exists():
            raise UserError(f"no such path: {path}; {LAYOUT.replace('480p', resolution)} (DAVIS 2017 trainval)")
    names = [line.strip() for line in listed.read_text().splitlines() if line.strip()]
    if not names:
        raise UserError(f"{listed} names no sequence")
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise UserError(f"{listed} names {twice[0]} twice: remove one of the lines")
    if unknown := sorted(set(only) - set(names)):
        raise UserError(f"--sequences {','.join(unknown)}: not in {listed}")
    videos = []
    for name in [name for name in names if not only or name in only]:
        if not (images / name).is_dir() or not (annotations / name).is_dir():
            missing = images / name if not (images / name).is_dir() else annotations / name
            raise UserError(f"no {missing}, though {listed} names the sequence {name}")
        frames = sorted(p for p in (images / name).iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
        masks = sorted((annotations / name).glob("*.png"))
        if twice := [frame for frame, before in zip(frames[1:], frames) if frame.stem == before.stem]:
            raise UserError(f"{images / name} has two frames {twice[0].stem}: remove {twice[0].name} or the other")
        odd = sorted({p.stem for p in frames} ^ {p.stem for p in masks})
        if odd:
            raise UserError(
                f"{len(frames)} frames in {images / name} but {len(masks)} annotations in {annotations / name}: "
                f"only one of the two has {odd[0]}"
            )
        if len(frames) < 3:
            raise UserError(
                f"{images / name}: {len(frames)} frames; at least 3 are needed, since the first and last do not score"
            )
        videos.append(Video(name, tuple(frames), tuple(masks)))
        _check_first(videos[-1])
    return videos


def _check_first(video: Video) -> None:
    try:
        with Image.open(video.frames[0]) as frame:
            size = frame.size
    except OSError:
        raise UserError(f"{video.frames[0]} is no readable image") from None
    labels = read_mask(video.masks[0])
    if labels.shape != size[::-1]:
        raise UserError(f"{video.masks[0]} is {labels.shape[1]}x{labels.shape[0]}, its frame {size[0]}x{size[1]}")
    ids = set(np.unique(labels).tolist())
    if ids == {0, VOID}:
        raise UserError(
            f"{video.masks[0]} holds 0 and 255 only, as DAVIS 2016's masks do: take the annotations of DAVIS 2017, "
            "whose pixels are object ids 1, 2, …"
        )
    if not ids - {0, VOID}:
        raise UserError(f"{video.masks[0]} holds no object, so there is nothing to follow in {video.name}")


def fingerprint_of(videos: Iterable[Video]) -> str:
    """SHA-256 over the fingerprints of a set of videos."""
    return hashlib.sha256("\n".join(video.fingerprint() for video in videos).encode()).hexdigest()


def is_official(videos: Sequence[Video]) -> bool:
    """Whether these are the 30 sequences and 1999 frames of DAVIS 2017 val: all else gives no benchmark figures."""
    return {v.name for v in videos} == OFFICIAL_VAL and sum(len(v.frames) for v in videos) == OFFICIAL_FRAMES


@lru_cache(1)
def davis_palette() -> tuple[int, ...]:
    """256 colours as R, G, B, …: an id's bits go to the channels in turn, filling each from its top (VOC's rule)."""
    palette = []
    for label in range(256):
        for channel in range(3):
            bits = [(label >> (3 * i + channel)) & 1 for i in range(3)]
            palette.append(sum(bit << (7 - i) for i, bit in enumerate(bits)))
    return tuple(palette)


def write_mask(path: Path, labels: np.ndarray, size: tuple[int, int] | None = None) -> None:
    """Write object ids (H, W) as a palette PNG, resized to ``size`` = (height, width) by nearest neighbour."""
    mask = Image.fromarray(labels)
    if size is not None and labels.shape != size:
        mask = mask.resize(size[::-1], Image.Resampling.NEAREST)
    mask.putpalette(davis_palette())  # turns the grey values into indices
    mask.save(path)
