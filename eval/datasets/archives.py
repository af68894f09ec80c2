"""Where a data set comes from, and unpacking what the user has downloaded: safely, whole or not at all."""

import lzma
import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.progress import Meter

BLOCK = 1 << 20
ENCRYPTED = 1  # of a zip member's flags (PKWARE's APPNOTE, section 4.4.4)


@dataclass(frozen=True)
class Source:
    """Where a data set comes from and what its archives hold."""

    name: str  # what the data doctor calls it
    page: str  # the official page
    folder: str  # where the set lies by default
    # archive name → {folder inside it: folder it becomes below the set}; "" is the archive's top
    archives: dict[str, dict[str, str]]

    def advice(self) -> str:
        """One line: what to download and which command to type then."""
        files, above = ", ".join(self.archives), Path(self.folder).parent
        return f"download {files} from {self.page} into {above}/, then tools/prepare_data.sh {self.name}"


def unpack_downloads(source: Source, root: Path) -> list[str]:
    """Unpack the archives of ``source`` that lie in ``root`` or beside it and are not unpacked yet.

    Each is unpacked into ``root/.unpacking-<archive>`` and its folders are renamed to their places at the end; a run
    that was stopped is done anew (an archive of archives, such as ImageNet's, goes on at the class where it stopped).

    Returns:
        a line for each archive, on what was done.

    Raises:
        UserError: an archive is damaged, does not hold what it should, has a member that would be written elsewhere, or
            the disk is too small.
    """
    lines = []
    for name, parts in source.archives.items():
        places = [root / part for part in parts.values()]
        archive = next((folder / name for folder in (root, root.parent) if (folder / name).is_file()), None)
        if archive is None:
            continue
        if there := [place for place in places if place.exists()]:
            if len(there) < len(places):
                missing = next(place for place in places if not place.exists())
                lines.append(f"{archive} not unpacked: {there[0]} is there but {missing} is not; move {there[0]} away")
            else:
                lines.append(f"{archive} is unpacked already; it may be deleted")
            continue
        started = time.monotonic()
        _unpack(archive, root, parts)
        lines.append(f"{archive} unpacked in {time.monotonic() - started:.0f} s; it may be deleted")
    return lines


def _unpack(archive: Path, root: Path, parts: dict[str, str]) -> None:
    staging = root / f".unpacking-{archive.name}"
    try:
        staging.mkdir(parents=True, exist_ok=True)
        with _members(archive) as members, Meter(f"unpacking {archive.name}", 0, "MB") as meter:
            size, done = sum(member.size for member in members), 0
            if size > (free := shutil.disk_usage(staging).free):
                raise UserError(f"{archive} needs {size / 1e9:.1f} GB and {root} has {free / 1e9:.1f} GB: make room")
            if not any(member.name.endswith(".tar") for member in members):
                shutil.rmtree(staging)  # of a run that was stopped
            for member in members:
                target = staging / safe_name(member.name, archive)
                if target.suffix == ".tar":
                    _unpack_nested(member, target.with_suffix(""), archive)
                else:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with member.open() as source, open(target, "wb") as file:
                        shutil.copyfileobj(source, file, BLOCK)
                done += member.size
                meter.update(done // 10**6, size // 10**6)
        for inside in parts:
            if not (staging / inside).exists():
                raise UserError(f"{archive} holds no {inside}: it is not the file of that name; download it again")
        for inside, place in parts.items():
            (staging / inside).rename(root / place)
        shutil.rmtree(staging, ignore_errors=True)  # gone already where the whole of it was renamed
    except tarfile.FilterError as error:
        raise UserError(f"{archive}: {error}: do not use this file") from None
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{archive} is cut short or damaged ({error}): download it again") from None
    except NotImplementedError as error:
        raise UserError(f"{archive} is packed in a way that cannot be read ({error}): unpack it yourself") from None
    except OSError as error:
        raise UserError(f"cannot unpack {archive} into {root}: {error.strerror or error}") from None


class _Member(NamedTuple):
    """A file in an archive."""

    name: str
    size: int
    open: Callable[[], BinaryIO]


@contextmanager
def _members(archive: Path) -> Iterator[list[_Member]]:
    """The files of an archive, which stays open meanwhile; links and devices are refused, folders come with files."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as content:
            files = [info for info in content.infolist() if not info.is_dir()]
            if any(info.flag_bits & ENCRYPTED for info in files):
                raise UserError(f"{archive} is encrypted, which no official file is: download it from its page")
            yield [_Member(info.filename, info.file_size, partial(content.open, info)) for info in files]
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as content:
            files = [info for info in content if not info.isdir()]
            if odd := [info.name for info in files if not info.isfile()]:
                raise UserError(f"{archive} holds {odd[0]}, which is a link or device: it is not the official file")
            yield [_Member(info.name, info.size, partial(content.extractfile, info)) for info in files]
    else:
        raise UserError(f"{archive} is neither a whole zip nor a tar file: download it again")


def safe_name(name: str, archive: Path) -> PurePosixPath:
    """``name`` as a path below the folder that is unpacked to; UserError for one that would leave it."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name:
        raise UserError(f"{archive} holds {name!r}, which would be written outside the folder: do not use this file")
    return path


def _unpack_nested(member: _Member, folder: Path, archive: Path) -> None:
    """Unpack an archive within an archive into ``folder``, unless an earlier run has done so."""
    if folder.is_dir():
        return
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    with tarfile.open(fileobj=member.open()) as inner:
        inner.extractall(part, filter="data")  # refuses what would be written elsewhere, and devices
    part.rename(folder)
