"""Images for pretraining: any folder of them, or of shards, in an order and with an augmentation of addresses alone."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import get_dist_info
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from selfpatch.pretrain.augment import MultiCrop
from selfpatch.pretrain.cli import UserError, listed
from selfpatch.pretrain.folders import PICTURES, list_files
from selfpatch.pretrain.images import Header, odd_ones, read_header
from selfpatch.pretrain.shards import SHARD, Shards

UNREADABLE_SHARE = 0.001  # of the images may be unreadable, and at least one
LOOKED_AT_FIRST = 1000  # images whose header is read before anything is computed


def list_images(root: str | Path) -> list[Path]:
    """All images under ``root``, at any depth, in order; UserError: there is none."""
    return Folder(root).paths


class Folder(Sequence[Path]):
    """The image files below a folder. Item i is what a reader of pictures takes: here a path."""

    def __init__(self, root: str | Path) -> None:
        listing = list_files(root)
        self.root, self.paths, self.findings = Path(root), listing.paths, listing.passed_by()
        if not self.paths:
            raise UserError(f"no image in {root}: expected {', '.join(PICTURES)} files, flat or in folders")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Path:
        return self.paths[number]

    def name(self, number: int) -> str:
        return self.paths[number].relative_to(self.root).as_posix()

    def order(self, rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(len(self))


def open_images(root: str | Path) -> Folder | Shards:
    """The images of a folder, or of the shards in it if there are any.

    Raises:
        UserError: there is no such folder, or no image in it, or too many shards are broken.
    """
    if not Path(root).is_dir():
        raise UserError(f"no such data folder: {root} (give an image folder with --data)")
    shards = list_files(root, (SHARD,)).paths
    return Shards(Path(root), shards, allowed_unreadable(len(shards))) if shards else Folder(root)


def allowed_unreadable(images: int) -> int:
    """How many of ``images`` may be unreadable before a run stops."""
    return max(1, int(images * UNREADABLE_SHARE))


class CropDataset(Dataset):
    """Crops of the images below a folder; an index is (epoch, number of the image).

    An unreadable image is replaced by the next one that can be read, and its number goes along as ``unreadable``, for
    the main process to name it and to count.

    Raises:
        UserError: as :func:`open_images`; or too many of the first images that are looked at cannot be read.
    """

    metainfo = None  # mmengine asks

    def __init__(self, root: str | Path, views: dict[str, dict], seed: int) -> None:
        self.images, self.multi_crop, self.seed = open_images(root), MultiCrop(views), seed
        odd = [f"{root}: {counted}: {how}" for counted, how in odd_ones(self.check_headers())]
        self.findings = [*self.images.findings, *odd]  # what was passed by, and what is odd, in a line each

    def check_headers(self) -> list[Header]:
        """The headers of up to :data:`LOOKED_AT_FIRST` images, evenly spread: a bad folder fails at once."""
        tried = range(0, len(self), -(-len(self) // LOOKED_AT_FIRST))
        headers, bad = [], []
        for number in tried:
            try:
                headers.append(read_header(self.images[number]))
            except UserError:
                bad.append(self.path(number))
        if not headers or len(bad) > allowed_unreadable(len(self)):
            raise UserError(f"{len(bad)} of {len(tried)} images cannot be read: {listed(bad)}; remove or replace them")
        return headers

    def path(self, number: int) -> str:
        """What a user is told of an image."""
        return f"{self.images.root}/{self.images.name(number)}"

    @cached_property
    def identity(self) -> dict:
        """How many images there are, and the SHA-256 of their paths below the folder, which may move."""
        digest = hashlib.sha256()
        for number in range(len(self)):
            digest.update(b"\n" * (number > 0) + self.images.name(number).encode(errors="surrogateescape"))
        return {"images": len(self), "sha256": digest.hexdigest()}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, address: tuple[int, int]) -> dict:
        epoch, index = address
        unreadable = []
        for step in range(min(len(self), allowed_unreadable(len(self)) + 1)):
            number = (index + step) % len(self)
            try:
                crops = self.multi_crop.read(self.images[number], self.rng(epoch, index))
                break
            except (UserError, OSError):
                unreadable.append(number)
        else:  # more in a row than a run may have: the main process will stop it
            crops = self.multi_crop(np.zeros((64, 64, 3), np.uint8), self.rng(epoch, index))
        return {"crops": crops, "unreadable": unreadable}

    def rng(self, epoch: int, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch, index])


ImageFolder = CropDataset  # its former name, which older scripts know


def collate_crops(samples: list[dict]) -> dict[str, list]:
    """Samples -> ``crops``: one uint8 tensor (V, B, 3, S, S) a group, and ``unreadable``: numbers of images."""
    groups: list[tuple[Tensor, ...]] = list(zip(*(sample["crops"] for sample in samples)))
    return {
        "crops": [torch.stack(group, dim=1) for group in groups],
        "unreadable": [number for sample in samples for number in sample["unreadable"]],
    }


def whole_batches(images: int, batch_size: int, processes: int) -> int:
    """How many global batches an epoch has; :class:`UserError` if it has none."""
    if images < batch_size * processes:
        raise UserError(f"{images} images do not fill one batch of {batch_size} x {processes}: lower data.batch_size")
    return images // (batch_size * processes)


class AddressSampler(Sampler):
    """Yields (epoch, index): whole global batches of an order that (seed, epoch) alone decides.

    Process r of p takes every p-th sample from the r-th, so that image j of its batch is image j·p + r of the global
    one. The epoch travels with the index, since persistent workers never see ``set_epoch``.
    """

    def __init__(self, images: Folder | Shards, batch_size: int, seed: int = 0) -> None:
        self.rank, self.world = get_dist_info()
        self.images, self.batch_size, self.seed, self.epoch = images, batch_size, seed, 0
        self.start = 0  # the batch at which the next epoch begins: a run that was cut goes on there
        self.batches = whole_batches(len(images), batch_size, self.world)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = self.images.order(np.random.default_rng([self.seed, self.epoch]))
        mine = order[: self.batches * self.batch_size * self.world][self.rank :: self.world]
        start, self.start = self.start * self.batch_size, 0
        return ((self.epoch, int(index)) for index in mine[start:])

    def __len__(self) -> int:
        return self.batches * self.batch_size
