"""A set in COCO's format: where its parts lie, what is wrong with it, what identifies it."""

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from selfpatch.eval.datasets import checks
from selfpatch.eval.datasets.archives import Source
from selfpatch.eval.datasets.checks import Finding
from selfpatch.eval.datasets.coco_annotations import SHAPELESS, Annotations, read_annotations
from selfpatch.reports.record import Dataset

SOURCE = Source(
    "coco",
    "cocodataset.org (Download)",
    "data/coco",
    {
        "train2017.zip": {"train2017": "train2017"},
        "val2017.zip": {"val2017": "val2017"},
        "annotations_trainval2017.zip": {"annotations": "annotations"},
    },
)
OFFICIAL_COUNTS = {"train": 118_287, "val": 5_000}
OFFICIAL_INSTANCES, OFFICIAL_CATEGORIES = 36_781, 80  # of val2017
# SHA-256 of the sorted names of val2017's photographs, a line each
OFFICIAL_NAMES = "ba91ce69f38c873ebc21dd415ac6a8f587c2e7d672aef57ad63beedd9e008692"
OFFICIAL_LONG = 640  # pixels: the longer side of nearly every photograph
HUGE = 50_000_000  # bytes; an annotation file beyond this takes seconds to parse
FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
CATEGORIES = re.compile(rb'"categories"\s*:\s*\[')


@dataclass(frozen=True)
class Instances:
    """The annotation files and photographs that are trained and tested on."""

    root: Path  # the folder with annotations/
    # "train" and "val" → annotation file, and the folder that its file names start from
    paths: dict[str, tuple[Path, Path]]
    truth: dict[str, Any]  # the content of val's file
    findings: tuple[str, ...]  # what a reader of the figures should know

    @cached_property
    def identity(self) -> Dataset:
        return checks.identity(self.root, "coco-val2017", is_official(self.truth), "val", fingerprint_of(self.paths))


def open_instances(root: str | Path, images: str | Path | None = None, allowed: Collection[str] = ()) -> Instances:
    """A set in COCO's format, after a look at its files; of a training file beyond :data:`HUGE` only a glance.

    Raises:
        UserError: something is missing or cannot be used, and no setting of ``allowed`` overrules it.
    """
    found, files = _look(Path(root), images, thorough=False)
    findings = checks.require(found, allowed)
    val = files["val"] if files["val"].content else read_annotations(files["val"].path)  # beyond a glance
    checks.require(val.findings, allowed)
    return Instances(Path(root), coco_paths(root, images), val.content, tuple(findings))


def coco_paths(root: str | Path, images: str | Path | None = None) -> dict[str, tuple[Path, Path]]:
    """For "train" and "val" the annotation file and the folder that its file names start from."""
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


def check(root: str | Path, images: str | Path | None = None, thorough: bool = False) -> list[Finding]:
    """Look at a set in COCO's format: annotation files, their ids, categories and shapes, the photographs they name."""
    return _look(Path(root), images, thorough)[0]


def _look(root: Path, images: str | Path | None, thorough: bool) -> tuple[list[Finding], dict[str, Annotations]]:
    """All findings, and what was read of each split's annotation file."""
    if not root.is_dir():
        return [checks.missing(root, SOURCE)], {}
    if images is not None and not Path(images).is_dir():
        return [Finding("error", f"{images} is missing", "give the folder of the photographs with --images")], {}
    findings, files, names = [], {}, {}
    for split, (path, folder) in coco_paths(root, images).items():
        if not path.is_file():
            findings.append(checks.missing(path, SOURCE))
            continue
        if path.stat().st_size > HUGE and not thorough:
            files[split], names[split] = _glance(path)
        else:
            files[split] = read_annotations(path)
            names[split] = [image["file_name"] for image in files[split].content.get("images", [])]
        findings += files[split].findings
        if names[split]:
            findings.append(checks.count(split, len(names[split]), OFFICIAL_COUNTS[split]))
            there = photograph_sizes(folder, names[split])
            if lost := [name for name in names[split] if name not in there]:
                share = f"{len(lost)} of {len(names[split])} photographs of {path}"
                what = f"{share} are not in {folder} (first: {lost[0]})"
                fix = "get them, name their folder with --images, or use the annotation file that belongs to them"
                findings.append(Finding("error", what, fix))
            else:
                findings += _photographs(files[split], folder, thorough)
    categories = [file.categories for file in files.values()]
    if len(categories) == 2 and categories[0] != categories[1] and all(categories):
        what = f"{root}/annotations: training and validation files have different categories"
        findings.append(Finding("error", what, "both must come from the same set"))
    return findings + _shared(coco_paths(root, images), names), files


def _glance(path: Path) -> tuple[Annotations, list[str]]:
    """What a file that takes long to parse shows at once: its categories, and the names of its photographs."""
    content = path.read_bytes()
    names, found = photograph_names(content), Annotations(path)
    try:
        start = CATEGORIES.search(content).end() - 1
        categories, _ = json.JSONDecoder().raw_decode(content[start : start + 10_000_000].decode("utf-8", "replace"))
        found.content = {"categories": [{"id": each["id"], "name": each["name"]} for each in categories]}
    except (AttributeError, ValueError, KeyError, TypeError, RecursionError):
        names = []
    if not names:
        what = f"{path} is not an instance annotation file"
        return Annotations(path, findings=[Finding("error", what, SHAPELESS)]), []
    size = f"{len(content) / 1e6:.0f} MB"
    found.findings = [checks.okay(f"{path.name}: {size}, annotations not looked at (--all does, and so does training)")]
    return found, names


def photograph_names(listing: bytes) -> list[str]:
    """The file names in an annotation file, in its order, without parsing it: 450 MB in a second, not ten."""

    def unquoted(name: bytes) -> str:
        try:
            return json.loads(name) if b"\\" in name else name[1:-1].decode("utf-8", "replace")
        except ValueError:  # no JSON: the parser says so
            return name.decode("utf-8", "replace")

    return [unquoted(match[1]) for match in FILE_NAME.finditer(listing)]


def photograph_sizes(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """The bytes of each photograph that is there; folders are listed whole, which is faster than to ask for each."""
    places = {name: PurePosixPath(name) for name in names}
    found: dict[PurePosixPath, int] = {}
    for parent in {place.parent for place in places.values()}:
        try:
            with os.scandir(folder / parent) as entries:
                found |= {parent / entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        except (OSError, ValueError):  # no such folder, or no name of one: its photographs are missing
            continue
    return {name: found[place] for name, place in places.items() if place in found}


def _photographs(file: Annotations, folder: Path, thorough: bool) -> list[Finding]:
    """Errors for photographs that cannot be read, or have another size than the annotations say; what is odd."""
    images = file.content.get("images", [])
    opened = {folder / image["file_name"]: image for image in checks.sample(images, thorough, checks.SAMPLE // 2)}
    headers, findings = checks.headers_of(list(opened))
    for path, header in headers.items():
        width, height = opened[path]["width"], opened[path]["height"]
        if (height, width) not in (header.size, header.upright):
            what = "{} is {}x{}, but {} says {}x{}".format(path, *header.size[::-1], file.path.name, width, height)
            findings.append(Finding("error", what, "the annotation file belongs to another set or size"))
    if not images:
        return findings
    shown = checks.share(len(opened), len(images))
    return [
        *findings,
        *checks.oddities(headers.values(), str(folder)),
        checks.okay(f"{folder}: {shown} photographs opened"),
    ]


def _shared(paths: dict[str, tuple[Path, Path]], names: dict[str, list[str]]) -> list[Finding]:
    """A warning for photographs that are trained on and tested on."""
    if len(names) < 2 or paths["train"][1] != paths["val"][1]:
        return []
    if not (shared := sorted(set(names["train"]) & set(names["val"]))):
        return []
    what = f"{len(shared)} photographs are in the training and in the validation file (first: {shared[0]})"
    return [Finding("warn", what, "figures on what was trained on say little")]


def is_official(truth: dict[str, Any]) -> bool:
    """Whether the content of a validation file is that of val2017: names of all photographs, sizes, counts."""
    images = truth["images"]
    names = "\n".join(sorted(image["file_name"] for image in images))
    counts = (len(images), len(truth["annotations"]), len(truth["categories"]))
    long = sum(max(image["width"], image["height"]) == OFFICIAL_LONG for image in images)
    return (
        counts == (OFFICIAL_COUNTS["val"], OFFICIAL_INSTANCES, OFFICIAL_CATEGORIES)
        and hashlib.sha256(names.encode(errors="surrogatepass")).hexdigest() == OFFICIAL_NAMES
        and long > 0.8 * len(images)
    )


def fingerprint_of(paths: dict[str, tuple[Path, Path]]) -> str:
    """SHA-256 over both annotation files, and the name and size of every photograph."""
    digest = hashlib.sha256()
    for listing, folder in paths.values():
        content = listing.read_bytes()
        digest.update(hashlib.sha256(content).digest())
        names = photograph_names(content)
        sizes = photograph_sizes(folder, names)
        lines = "".join(f"{name} {sizes.get(name)}\n" for name in names)
        digest.update(lines.encode(errors="surrogatepass"))
    return digest.hexdigest()
