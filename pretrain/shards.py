"""Images in WebDataset shards: tar files whose members with one name up to the first dot are one sample.

The members' places are listed once, so that any process reads any image by its number: an order, a resume and random
numbers are addressed as for a folder. Every process lists its part of the shards and tells the others.
"""

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mmengine.dist import all_gather_object, get_dist_info

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.folders import PICTURES

SHARD = ".tar"  # not compressed: a member is read where it lies
WINDOW = 16  # shards that are read at a time: neighbours on the disk are read close in time


@dataclass
class Shard:
    """The images of one tar file: member names, and where their bytes lie. ``error``: why it could not be read on."""

    path: Path
    names: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    error: str = ""

    @classmethod
    def scan(cls, path: Path) -> "Shard":
        """The images of a tar file, as far as it can be read."""
        shard = cls(path)
        try:
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    stem, dot, ending = Path(member.name).name.partition(".")
                    if member.isfile() and stem and dot + ending.lower() in PICTURES:
                        shard.names.append(member.name)
                        shard.offsets.append(member.offset_data)
                        shard.sizes.append(member.size)
                    archive.members = []  # it would keep them all
        except (tarfile.TarError, OSError) as error:
            shard.error = str(error)
        return shard

    def read(self, number: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offsets[number])
            return file.read(self.sizes[number])


class Shards(Sequence[bytes]):
    """The images of all shards below a folder, in the order of the shards' names and of their members.

    Item i is what a reader of pictures takes: here the bytes of a file.

    Args:
        allowed: how many of them may end early or not be readable at all.

    Raises:
        UserError: no shard holds an image, or too many are broken.
    """

    def __init__(self, root: Path, paths: Sequence[Path], allowed: int) -> None:
        rank, world = get_dist_info()
        mine = [Shard.scan(path) for path in paths[rank::world]]
        parts = all_gather_object(mine)  # every process's
        self.root, self.shards = root, [parts[i % world][i // world] for i in range(len(paths))]
        broken = [shard for shard in self.shards if shard.error]
        self.ends = np.cumsum([len(shard.names) for shard in self.shards])
        if len(broken) > allowed:
            first = f"{broken[0].path} ({broken[0].error})"
            raise UserError(f"{len(broken)} of {len(paths)} shards cannot be read to their end, the first is {first}")
        if not self.ends[-1]:
            raise UserError(f"no image in the {len(paths)} shards of {root}: expected members {', '.join(PICTURES)}")
        self.findings = [
            f"{shard.path} cannot be read to its end ({shard.error}): {len(shard.names)} images of it are used"
            for shard in broken
        ]

    def __len__(self) -> int:
        return int(self.ends[-1])

    def place(self, number: int) -> tuple[Shard, int]:
        """The shard of an image, and which of its images that is."""
        which = int(np.searchsorted(self.ends, number, side="right"))
        return self.shards[which], number - int(self.ends[which]) + len(self.shards[which].names)

    def __getitem__(self, number: int) -> bytes:
        shard, place = self.place(number)
        return shard.read(place)

    def name(self, number: int) -> str:
        """The shard below the folder, and the member: part/0001.tar/000012.jpg."""
        shard, place = self.place(number)
        return f"{shard.path.relative_to(self.root).as_posix()}/{shard.names[place]}"

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """A random order in which :data:`WINDOW` shards at a time are read; all at once if there are no more."""
        if len(self.shards) <= WINDOW:
            return rng.permutation(len(self))
        shards, starts = rng.permutation(len(self.shards)), np.concatenate([[0], self.ends])
        parts = [np.arange(starts[shard], starts[shard + 1]) for shard in shards]
        groups = (np.concatenate(parts[first : first + WINDOW]) for first in range(0, len(parts), WINDOW))
        return np.concatenate([rng.permutation(group) for group in groups])
