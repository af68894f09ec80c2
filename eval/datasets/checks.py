"""What a look at a data set finds, and the small things that every such look needs."""

import random
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from selfpatch.eval.datasets.archives import Source
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.folders import Listing, list_files
from selfpatch.pretrain.images import Header, odd_ones, read_header
from selfpatch.reports.record import Dataset

NO_BENCHMARK = "figures on it are not the published benchmark's"
SAMPLE = 256  # how many files of a large set are opened: about a second
FEW = 0.01  # of all quantities of a kind may be odd and only be noted: real sets hold slips


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: str  # "ok", "warn" or "error"
    what: str  # what was found, and where
    fix: str = ""  # what to do about it
    overrule: str = ""  # the name of the setting under which an error is a warning; empty: nothing overrules it

    def __str__(self) -> str:
        return f"{self.what}: {self.fix}" if self.fix else self.what


def require(findings: Sequence[Finding], allowed: Collection[str] = ()) -> list[str]:
    """The warnings among ``findings``, a line each: they belong beside every figure on this set.

    Raises:
        UserError: there is an error that nothing overrules; the first in one line.
    """
    errors = [finding for finding in findings if finding.level == "error" and finding.overrule not in allowed]
    if errors:
        more = f" (and {len(errors) - 1} more: tools/prepare_data.sh lists them)" if len(errors) > 1 else ""
        raise UserError(f"{errors[0]}{more}")
    warnings = [finding for finding in findings if finding.level != "ok" and finding.fix != NO_BENCHMARK]
    return [str(finding) for finding in warnings]  # that it is no benchmark, a record says by itself


def okay(what: str) -> Finding:
    """A finding that is as it should be."""
    return Finding("ok", what)


def missing(path: Path, source: Source) -> Finding:
    """An error for a file or folder that is not there, with where to get it."""
    return Finding("error", f"{path} is missing", source.advice())


def sample(items: Sequence, thorough: bool, most: int = SAMPLE) -> list:
    """All of ``items``, or the same random ``most`` of them at every call."""
    if thorough or len(items) <= most:
        return list(items)
    return random.Random(0).sample(list(items), most)


def share(opened: int, total: int) -> str:
    """How much of a set a sample was, in words."""
    return f"all {total}" if opened == total else f"{opened} of {total}"


def label_maps(folder: Path) -> Listing:
    """The PNGs of a folder; without any, its other pictures, which the reader of label maps refuses by name."""
    found = list_files(folder, [".png"], deep=False)
    return found if found.paths else list_files(folder, deep=False)


def identity(root: Path, benchmark: str, official: bool, split: str, sha256: str) -> Dataset:
    """A set as records name it: by the benchmark if it is that, else by its folder; a name alone makes no benchmark."""
    root = root.resolve()
    own = f"{root.name}-val"
    own = f"{root.parent.name}-{benchmark}" if own == benchmark else own
    return Dataset(benchmark if official else own, split, sha256, miniature=not official)


def pictures(folder: Path) -> dict[str, Path]:
    """Name without ending → path of every picture directly in ``folder``; UserError if two share a name."""
    return list_files(folder, deep=False).by_stem()


def passed_by(*listings: Listing) -> list[Finding]:
    """A warning for each kind of file that was passed by."""
    return [Finding("warn", line) for listing in listings for line in listing.passed_by()]


def headers_of(paths: Sequence[Path], decode: bool = True) -> tuple[dict[Path, Header], list[Finding]]:
    """The headers of pictures that can be read, to their end if ``decode``; and an error for each other one."""

    def look(path: Path) -> Header | Finding:
        try:
            return read_header(path, decode)
        except UserError as error:
            return Finding("error", str(error))

    with ThreadPoolExecutor() as pool:
        looked = dict(zip(paths, pool.map(look, paths)))
    headers = {path: found for path, found in looked.items() if isinstance(found, Header)}
    return headers, [found for found in looked.values() if isinstance(found, Finding)]


def oddities(headers: Iterable[Header], where: str) -> list[Finding]:
    """A warning for each kind of odd picture: how many there are, and how they are read."""
    return [Finding("warn", f"{where}: {counted}", how) for counted, how in odd_ones(headers)]


def count(split: str, found: int, official: int) -> Finding:
    """How many images there are, beside how many the official set has."""
    if found == official:
        return okay(f"{split}: {found} images, as in the official set")
    return Finding("warn", f"{split}: {found} images; the official set has {official}", NO_BENCHMARK)
