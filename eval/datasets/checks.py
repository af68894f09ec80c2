"""What a look at a data set finds, and the small things that every such look needs."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from selfpatch.eval.datasets.archives import SOURCES
from selfpatch.pretrain.cli import UserError

PICTURES = {".jpg", ".jpeg", ".png", ".webp"}
NO_BENCHMARK = "figures on it are not the published benchmark's"
SAMPLE = 256  # how many files of a large set are opened: about a second
COUNTS = {  # what the official sets hold
    "imagenet": {"train": 1_281_167, "val": 50_000},
    "coco": {"train": 118_287, "val": 5_000},
    "ade20k": {"training": 20_210, "validation": 2_000},
    "davis": {"train": 60, "val": 30},
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: ``level`` is "ok", "warn" or "error"; ``fix`` says what to do about it."""

    level: str
    what: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.fix}" if self.fix else self.what


def require(findings: Sequence[Finding]) -> None:
    """Raise UserError, in one line, if there is an error among ``findings``."""
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more: tools/prepare_data.sh lists them)" if len(errors) > 1 else ""
        raise UserError(f"{errors[0]}{more}")


def okay(what: str) -> Finding:
    """A finding that is as it should be."""
    return Finding("ok", what)


def missing(path: Path, task: str) -> Finding:
    """An error for a file or folder that is not there, with where to get it."""
    return Finding("error", f"{path} is missing", SOURCES[task].advice())


def sample(items: Sequence, thorough: bool, most: int = SAMPLE) -> list:
    """All of ``items``, or the same random ``most`` of them at every call."""
    if thorough or len(items) <= most:
        return list(items)
    return random.Random(0).sample(list(items), most)


def share(opened: int, total: int) -> str:
    """How much of a set a sample was, in words."""
    return f"all {total}" if opened == total else f"{opened} of {total}"


def pictures(folder: Path) -> dict[str, Path]:
    """Stem → path of every picture directly in ``folder``, by name."""
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICTURES}


def unreadable(paths: Iterable[Path]) -> list[Finding]:
    """An error for each picture that cannot be decoded."""
    broken = []
    for path in paths:
        try:
            with Image.open(path) as image:
                image.load()
        except (OSError, SyntaxError, ValueError) as error:  # Pillow raises SyntaxError for a broken PNG
            reason = str(error).split(str(path))[0].strip(" '\"") or type(error).__name__
            broken.append(Finding("error", f"{path} cannot be read ({reason})", "get that file again"))
    return broken


def count(task: str, split: str, found: int) -> Finding:
    """How many images there are, beside how many the official set has."""
    official = COUNTS[task][split]
    if found == official:
        return okay(f"{split}: {found} images, as in the official set")
    return Finding("warn", f"{split}: {found} images; the official set has {official}", NO_BENCHMARK)
