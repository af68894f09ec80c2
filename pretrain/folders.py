"""The one walk over folders of pictures: each real file once, in the order of the numbers in the names.

Hidden files (``._0.jpg`` of macOS, ``.ipynb_checkpoints``), folders that tools leave behind, links that lead back and
files with an ending that is not read are passed by; all of it is counted, and :meth:`Listing.passed_by` says so.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from selfpatch.pretrain.cli import UserError

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
LEFT_BEHIND = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}  # by tools, not people
DIGITS = re.compile("([0-9]+)")


def natural(name: str) -> tuple[list[str | int], str]:
    """What names are sorted by: their numbers count as numbers, so that 9.jpg comes before 10.jpg."""
    parts: list[str | int] = DIGITS.split(name)
    parts[1::2] = map(int, parts[1::2])
    return parts, name  # 01 and 1 are equal numbers


@dataclass
class Listing:
    """The files of a folder that are read, in order, and what was passed by."""

    root: Path
    endings: tuple[str, ...] = PICTURES
    paths: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)  # to nothing, or to what is listed already
    unread: Counter[str] = field(default_factory=Counter)  # ending → files

    def passed_by(self) -> list[str]:
        """A line for each kind of thing that was passed by."""
        lines = []
        if self.hidden:
            lines.append(f"{len(self.hidden)} hidden files or folders are passed by (first: {self.hidden[0]})")
        if self.unread:
            counts = ", ".join(f"{n} {ending or 'without an ending'}" for ending, n in self.unread.most_common(8))
            lines.append(f"{self.unread.total()} files are passed by ({counts}): {', '.join(self.endings)} are read")
        if self.links:
            known = "that lead nowhere or to what is listed already"
            lines.append(f"{len(self.links)} links {known} are passed by (first: {self.links[0]})")
        return [f"{self.root}: {line}" for line in lines]

    def by_stem(self) -> dict[str, Path]:
        """Name without ending → path; UserError: two files share one."""
        found: dict[str, Path] = {}
        for path in self.paths:
            if found.setdefault(path.stem, path) is not path:
                raise UserError(f"{found[path.stem]} and {path.name} have one name: remove one of the two")
        return found


def list_files(root: str | Path, endings: Sequence[str] = PICTURES, deep: bool = True) -> Listing:
    """The files below ``root`` that end in one of ``endings``, in whatever case.

    Args:
        root: an existing folder.
        endings: in small letters, with their dot.
        deep: look into folders, too.

    Raises:
        UserError: a folder cannot be listed.
    """
    listing = Listing(Path(root), tuple(endings))
    _Walk(listing, deep).run()
    return listing


def merged(root: str | Path, listings: Sequence[Listing]) -> Listing:
    """One listing of several folders below ``root``."""
    whole = Listing(Path(root), listings[0].endings if listings else PICTURES)
    for listing in listings:
        whole.paths += listing.paths
        whole.hidden += listing.hidden
        whole.links += listing.links
        whole.unread += listing.unread
    return whole


def folders_in(root: str | Path) -> list[Path]:
    """The folders directly in ``root`` that are not hidden, in order."""
    with _scanned(root) as entries:
        names = [e.name for e in entries if e.is_dir() and not _is_hidden(e.name)]
    return [Path(root, name) for name in sorted(names, key=natural)]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in LEFT_BEHIND


def _scanned(folder: str | Path) -> Iterator[os.DirEntry]:
    try:
        return os.scandir(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror})") from None


class _Walk:
    """A walk that fills a listing."""

    def __init__(self, listing: Listing, deep: bool) -> None:
        self.listing, self.deep = listing, deep
        self.real_path = lru_cache(1024)(os.path.realpath)  # of a folder: a forest of links has few of them
        self.places = [os.path.realpath(listing.root)]  # the root, and the folders outside it that links led to
        self.targets: set[str] = set()  # the files outside them that links led to

    def run(self) -> None:
        """Add everything below the root; a stack in place of recursion, since folders may lie thousands deep."""
        stack = [iter(self._entries(str(self.listing.root)))]
        while stack:
            entry = next(stack[-1], None)
            if entry is None:
                stack.pop()
            elif _is_hidden(entry.name):
                self.listing.hidden.append(Path(entry.path))
            elif entry.is_symlink() and not self._is_new(entry.path):
                self.listing.links.append(Path(entry.path))
            elif entry.is_dir():
                if self.deep:
                    stack.append(iter(self._entries(entry.path)))
            elif (ending := os.path.splitext(entry.name)[1].lower()) in self.listing.endings and entry.is_file():
                self.listing.paths.append(Path(entry.path))
            else:
                self.listing.unread[ending] += 1

    def _entries(self, folder: str) -> list[os.DirEntry]:
        with _scanned(folder) as entries:
            return sorted(entries, key=lambda entry: natural(entry.name))

    def _is_new(self, link: str) -> bool:
        """Whether a link leads to something that the walk neither meets in its own place nor has met already."""
        if not os.path.exists(link):
            return False
        is_file = os.path.isfile(link)
        if is_file:
            folder, name = os.path.split(os.path.join(os.path.dirname(link), os.readlink(link)))
            target = os.path.join(self.real_path(folder), name)
        else:
            target = os.path.realpath(link)
        if any(self._is_met(target, place, is_file) for place in self.places) or target in self.targets:
            return False
        if any(place.startswith(target.rstrip(os.sep) + os.sep) for place in self.places):  # back to a folder above
            return False
        if is_file:
            self.targets.add(target)
        else:
            self.places.append(target)
        return True

    def _is_met(self, target: str, place: str, is_file: bool) -> bool:
        """Whether the walk of ``place`` comes to ``target`` without a link."""
        if target == place:
            return True
        if not target.startswith(place.rstrip(os.sep) + os.sep):
            return False
        parts = os.path.relpath(target, place).split(os.sep)
        read = not is_file or target.lower().endswith(self.listing.endings)  # a store names its files by their content
        return read and not any(map(_is_hidden, parts)) and (self.deep or len(parts) == 1)
