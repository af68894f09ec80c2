"""DAVIS 2017 as folders: sequences read, checked and served, and masks written in the official submission's layout."""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from selfpatch.eval.datasets import checks
from selfpatch.eval.datasets.archives import Source
from selfpatch.eval.datasets.checks import Finding
from selfpatch.eval.measures.jf import VOID
from selfpatch.pretrain.cli import UserError, listed
from selfpatch.pretrain.files import read_lines
from selfpatch.pretrain.folders import Listing, list_files, merged
from selfpatch.pretrain.images import Header, ends_whole, read_header, read_labels
from selfpatch.pretrain.settings import option
from selfpatch.reports.record import Dataset

SOURCE = Source(
    "davis",
    "davischallenge.org (DAVIS 2017, TrainVal, 480p)",
    "data/DAVIS",
    {
        "DAVIS-2017-trainval-480p.zip": {
            "DAVIS/JPEGImages": "JPEGImages",
            "DAVIS/Annotations": "Annotations",
            "DAVIS/ImageSets": "ImageSets",
        }
    },
)
# fmt: off
OFFICIAL_VAL = {  # sequence: frames, objects
    "bike-packing": (69, 2), "blackswan": (50, 1), "bmx-trees": (80, 2), "breakdance": (84, 1), "camel": (90, 1),
    "car-roundabout": (75, 1), "car-shadow": (40, 1), "cows": (104, 1), "dance-twirl": (90, 1), "dog": (60, 1),
    "dogs-jump": (66, 3), "drift-chicane": (52, 1), "drift-straight": (50, 1), "goat": (90, 1), "gold-fish": (78, 5),
    "horsejump-high": (50, 2), "india": (81, 3), "judo": (34, 2), "kite-surf": (50, 3), "lab-coat": (47, 5),
    "libby": (49, 1), "loading": (50, 3), "mbike-trick": (79, 2), "motocross-jump": (40, 2),
    "paragliding-launch": (80, 3), "parkour": (100, 1), "pigs": (79, 3), "scooter-black": (43, 2), "shooting": (40, 3),
    "soapbox": (99, 3),
}
# fmt: on
OFFICIAL_FRAMES = 1999
OFFICIAL_SHORT, OFFICIAL_LONG = 480, range(640, 1281)  # pixels; most sequences are 854 x 480
OFFICIAL_BYTES = range(15_000, 150_000)  # of a frame, on average over a sequence: 40 to 72 thousand in six of them
ABSENT = "absent_objects"  # the setting that overrules what makes figures of objects meaningless
LAYOUT = "expected JPEGImages/480p/<sequence>/*.jpg, Annotations/480p/<sequence>/*.png and ImageSets/2017/val.txt"


@dataclass(frozen=True)
class Video:
    """One sequence of a DAVIS tree: its frames and their ground truth, in order."""

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the name, and of the names and contents of all frames and masks (all of DAVIS val: 0.3 s)."""
        digest = hashlib.sha256(self.name.encode(errors="surrogateescape"))
        for path in (path for pair in zip(self.frames, self.masks) for path in pair):
            content = path.read_bytes()
            digest.update(f"\n{path.name} {len(content)}\n".encode(errors="surrogateescape"))
            digest.update(content)
        return digest.hexdigest()


@dataclass(frozen=True)
class Videos:
    """The sequences that are evaluated, and what a reader of the figures should know of them."""

    root: Path
    resolution: str
    videos: tuple[Video, ...]
    chosen: bool  # by name, not all of the list
    findings: tuple[str, ...]

    @cached_property
    def identity(self) -> Dataset:
        official = is_official(self.videos)
        split = "val" + (f"[{','.join(video.name for video in self.videos)}]" if self.chosen else "")
        split += "" if self.resolution == "480p" else f" {self.resolution}"
        return checks.identity(self.root, "davis2017-val", official, split, fingerprint_of(self.videos))


def open_videos(
    root: str | Path, resolution: str = "480p", sequences: Sequence[str] = (), allowed: Collection[str] = ()
) -> Videos:
    """The validation sequences of a DAVIS tree, after a look into every file (all of DAVIS val: about 10 s).

    Args:
        sequences: those to keep; none: all of ``ImageSets/2017/val.txt``.

    Raises:
        UserError: something is missing or cannot be evaluated.
    """
    videos, listed = read_tree(Path(root), resolution, sequences)
    findings = checks.require([*checks.passed_by(*listed), *check_videos(videos, thorough=True, decode=False)], allowed)
    return Videos(Path(root), resolution, tuple(videos), bool(sequences), tuple(findings))


def read_tree(root: Path, resolution: str = "480p", only: Sequence[str] = ()) -> tuple[list[Video], list[Listing]]:
    """The validation sequences of a DAVIS tree, checked as far as that is quick; and what was passed by.

    Raises:
        UserError: something is missing, frames and annotations do not match, or a first annotation holds no object ids.
    """
    images, annotations = (root / kind / resolution for kind in ("JPEGImages", "Annotations"))
    listed = root / "ImageSets/2017/val.txt"
    for path in (root, images, annotations, listed):
        if not path.exists():
            raise UserError(f"no such path: {path}; {LAYOUT.replace('480p', resolution)} (DAVIS 2017 trainval)")
    names = read_lines(listed)
    if unknown := sorted(set(only) - set(names)):
        raise UserError(f"--sequences {','.join(unknown)}: not in {listed}")
    videos, seen = [], {images: [], annotations: []}
    for name in [name for name in names if not only or name in only]:
        for folder in (images / name, annotations / name):
            if not folder.is_dir():
                raise UserError(f"no {folder}, though {listed} names the sequence {name}")
        frames = list_files(images / name, deep=False)
        masks = checks.label_maps(annotations / name)
        videos.append(_paired(name, frames, masks))
        _check_first(videos[-1])
        seen[images].append(frames)
        seen[annotations].append(masks)
    return videos, [merged(folder, listings) for folder, listings in seen.items()]


def _paired(name: str, frames: Listing, masks: Listing) -> Video:
    """A sequence whose frames and masks have the same names."""
    images, labels = frames.by_stem(), masks.by_stem()
    if odd := sorted(images.keys() ^ labels.keys()):
        raise UserError(
            f"{len(images)} frames in {frames.root} but {len(labels)} annotations in {masks.root}: "
            f"only one of the two has {odd[0]}"
        )
    if len(images) < 3:
        wanted = "at least 3 are needed, since the first and last do not score"
        raise UserError(f"{frames.root}: {len(images)} frames; {wanted}")
    return Video(name, tuple(images.values()), tuple(labels[stem] for stem in images))


def _check_first(video: Video) -> None:
    labels = read_labels(video.masks[0])
    header = read_header(video.frames[0])
    if labels.shape not in (header.size, header.upright):
        raise UserError("{} is {}x{}, its frame {}x{}".format(video.masks[0], *labels.shape[::-1], *header.size[::-1]))
    ids = ids_of(labels)
    if not ids and (labels == VOID).any():
        raise UserError(
            f"{video.masks[0]} holds 0 and 255 only, as DAVIS 2016's masks do: take the annotations of DAVIS 2017, "
            "whose pixels are object ids 1, 2, …"
        )
    if not ids:
        raise UserError(f"{video.masks[0]} holds no object, so there is nothing to follow in {video.name}")


def ids_of(labels: np.ndarray) -> set[int]:
    """The object ids in a mask: neither background nor void."""
    return set(np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).tolist()) - {0, VOID}


def check(root: str | Path, thorough: bool = False) -> list[Finding]:
    """Look at a tree of DAVIS 2017: sequences, frames, palette masks and their object ids."""
    root = Path(root)
    if not root.is_dir():
        return [checks.missing(root, SOURCE)]
    if not (root / "JPEGImages/480p").is_dir() and (root / "JPEGImages/Full-Resolution").is_dir():
        fix = "the protocols and published figures use DAVIS-2017-trainval-480p.zip"
        return [Finding("error", f"{root} holds full-resolution frames and no 480p", fix)]
    try:
        videos, listed = read_tree(root)  # what the evaluator reads, with its checks
    except UserError as error:
        return [Finding("error", str(error))]
    if fault := _unofficial(videos):
        findings = [Finding("warn", f"val is not that of DAVIS 2017 ({fault})", checks.NO_BENCHMARK)]
    else:
        findings = [checks.okay(f"val: {len(videos)} sequences, as in DAVIS 2017")]
    return findings + checks.passed_by(*listed) + check_videos(videos, thorough)


def check_videos(videos: Sequence[Video], thorough: bool = False, decode: bool = True) -> list[Finding]:
    """Look into the files of some sequences: object ids, frames and masks that can be read, sizes, what is odd.

    Args:
        decode: decode the frames that are opened; without it only those whose file does not end as it should.
    """
    findings, moments, objects = [], [], 0
    for video in videos:
        first = read_labels(video.masks[0])
        ids = ids_of(first)
        objects += max(ids)
        moments += [_Moment(*pair, first.shape, ids) for pair in zip(video.frames, video.masks)]
        if gaps := sorted(set(range(1, max(ids))) - ids):
            shown = listed(gaps)
            what = f"{video.masks[0]} skips object {shown}"
            fix = "each counts as an object that is never there (J = F = 1): number objects 1, 2, …, or give"
            findings.append(Finding("error", what, f"{fix} {option(ABSENT)}", ABSENT))
    opened = checks.sample(moments, thorough, checks.SAMPLE // 2)
    headers, late = [], {}
    with ThreadPoolExecutor() as pool:
        for moment, looked in zip(opened, pool.map(partial(_Moment.look, decode=decode), opened)):
            found, header, ids = looked
            findings += found
            headers += [header] if header else []
            for number in ids - moment.ids:
                late.setdefault((moment.mask.parent, number), moment.mask.name)
    for (folder, number), name in sorted(late.items()):
        what = f"{folder} has object {number} in {name}, but not in its first mask"
        findings.append(Finding("warn", what, "nothing can follow it, and it is not scored as itself"))
    findings += checks.oddities(headers, "frames")
    sizes = {moment.size for moment in moments}
    if other := [size for size in sorted(sizes) if min(size) != OFFICIAL_SHORT]:
        what = "some frames are {}x{}; 480p has a short side of 480".format(*other[0][::-1])
        findings.append(Finding("warn", what, checks.NO_BENCHMARK))
    shown = checks.share(len(opened), len(moments))
    return [*findings, checks.okay(f"{len(moments)} frames, {objects} objects; {shown} frames opened")]


@dataclass(frozen=True)
class _Moment:
    """A frame and its mask, and what the sequence's first mask says: (height, width) and ids."""

    frame: Path
    mask: Path
    size: tuple[int, int]
    ids: set[int]

    def look(self, decode: bool) -> tuple[list[Finding], Header | None, set[int]]:
        """Errors if one cannot be read or is not of the sequence's size; the frame's header, and the ids in the mask.

        A frame is decoded if asked, and if its file does not end as one of its format does: it may be cut short.
        """
        try:
            header = read_header(self.frame, decode=decode or not ends_whole(self.frame))
            labels = read_labels(self.mask)
            sizes = [(self.frame, {header.size, header.upright}, header.size)]
        except UserError as error:
            return [Finding("error", str(error))], None, set()
        sizes.append((self.mask, {labels.shape}, labels.shape))
        findings = []
        for path, possible, size in sizes:
            if self.size not in possible:
                what = "{} is {}x{}, the first mask {}x{}".format(path, *size[::-1], *self.size[::-1])
                findings.append(Finding("error", what, "a sequence is of one resolution"))
        return findings, header, ids_of(labels)


def fingerprint_of(videos: Iterable[Video]) -> str:
    """SHA-256 over the fingerprints of a set of videos."""
    return hashlib.sha256("\n".join(video.sha256 for video in videos).encode()).hexdigest()


def is_official(videos: Sequence[Video]) -> bool:
    """Whether these are the 30 sequences of DAVIS 2017 val at 480p: all else gives no benchmark figures.

    What is compared: names, frames and objects of each sequence, its resolution, and the mean size of its files, which
    is that of photographs.
    """
    return _unofficial(videos) is None


def _unofficial(videos: Sequence[Video]) -> str | None:
    """The first thing in which videos differ from DAVIS 2017 val; None if there is none."""
    if {video.name for video in videos} != OFFICIAL_VAL.keys():
        shared = {video.name for video in videos} & OFFICIAL_VAL.keys()
        return f"{len(videos)} sequences, {len(shared)} of its {len(OFFICIAL_VAL)}"
    for video in videos:
        frames, objects = OFFICIAL_VAL[video.name]
        if len(video.frames) != frames:
            return f"{video.name} has {len(video.frames)} frames, not {frames}"
        first = read_labels(video.masks[0])
        if min(first.shape) != OFFICIAL_SHORT or max(first.shape) not in OFFICIAL_LONG:
            return "{} is {}x{}, not 480p".format(video.name, *first.shape[::-1])
        if len(ids_of(first)) != objects:
            return f"{video.name} has {len(ids_of(first))} objects, not {objects}"
        mean = sum(path.stat().st_size for path in video.frames) // len(video.frames)
        if mean not in OFFICIAL_BYTES:
            return f"the frames of {video.name} have {mean} bytes each, as no photograph of that size has"
    return None


@lru_cache(1)
def davis_palette() -> tuple[int, ...]:
    """256 colours as R, G, B, …: an id's bits go to the channels in turn, filling each from its top (VOC's rule)."""
    places = ((label, channel) for label in range(256) for channel in range(3))
    return tuple(sum((label >> (3 * i + channel) & 1) << (7 - i) for i in range(3)) for label, channel in places)


def write_mask(path: Path, labels: np.ndarray, size: tuple[int, int] | None = None) -> None:
    """Write object ids (H, W) as a palette PNG, resized to ``size`` = (height, width) by nearest neighbour."""
    mask = Image.fromarray(labels)
    if size is not None and labels.shape != size:
        mask = mask.resize(size[::-1], Image.Resampling.NEAREST)
    mask.putpalette(davis_palette())  # turns the grey values into indices
    mask.save(path)
