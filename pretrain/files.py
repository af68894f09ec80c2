"""Files that are either whole or absent, and the fingerprints that name them."""

import glob
import hashlib
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfpatch.pretrain.cli import UserError

LONGEST_NAME = 255  # bytes that a file system takes


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on a clean exit it is synced to disk and renamed to ``path``.

    A kill at any moment leaves the old file or the new one, never half of either. The suffix is kept, since many
    writers choose a format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def raise_unless_writable(folder: str | Path, option: str) -> None:
    """Say before the work that its result could not be stored in ``folder``, of the command's ``option``; make nothing.

    Raises:
        UserError: it, or the nearest folder above it that exists, is no folder or cannot be written.
    """
    folder = Path(folder)
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        why = "" if nearest.is_dir() else f": {nearest} is a file"
        raise UserError(f"{option} {folder} cannot be written{why}; choose another folder")


def temporary_name(path: Path) -> Path:
    """Where this process writes what will be ``path``; the suffix is kept."""
    return path.with_name(f".{path.stem}.{platform.node()}.{os.getpid()}.tmp{path.suffix}")


def sweep(path: str | Path) -> None:
    """Remove what processes of this machine that are gone, killed while they wrote ``path``, have left beside it."""
    mine = temporary_name(path := Path(path)).name
    head, tail = mine.split(f".{os.getpid()}.tmp", 1)
    for left in path.parent.glob(f"{glob.escape(head)}.*.tmp{glob.escape(tail)}"):
        process = left.name[len(head) + 1 : -len(f".tmp{tail}")]
        try:
            if process.isdecimal():
                os.kill(int(process), 0)  # sends nothing
        except PermissionError:
            pass  # somebody else's, who lives
        except ProcessLookupError:
            left.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_lines(path: str | Path) -> list[str]:
    """The names in a list such as ``val.txt``, one a line, without blanks around them and a byte order mark.

    Raises:
        UserError: it cannot be read, is no UTF-8 text, is empty, or holds a line twice, or one that names no file.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no list that can be read ({_reason(error)})") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{path} is empty: it lists one name a line")
    for line in lines:
        if len(os.fsencode(line)) > LONGEST_NAME or not line.isprintable() or set("/\\") & set(line) or line[0] == ".":
            raise UserError(f"{path} is no list of names: one is {line[:40]!r}")
    if len(lines) > len(set(lines)):
        twice = next(line for line in lines if lines.count(line) > 1)
        raise UserError(f"{path} names {twice} twice: remove one of the lines")
    return lines


def read_json(path: str | Path) -> Any:
    """The content of a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        UserError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path} is no JSON that can be read ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())[:200] or type(error).__name__


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
