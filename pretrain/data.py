"""Images for pretraining: any folder of them, in an order and with an augmentation that depend on addresses alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import get_dist_info
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from selfpatch.pretrain.augment import MultiCrop
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.folders import PICTURES, Listing, list_files
from selfpatch.pretrain.images import read_header

UNREADABLE_SHARE = 0.001  # of the images may be unreadable, and at least one
LOOKED_AT_FIRST = 1000  # images whose header is read before anything is computed


def list_images(root: str | Path) -> list[Path]:
    """All images under ``root``, at any depth, in order.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    return listing_of(root).paths


def listing_of(root: str | Path) -> Listing:
    """As :func:`list_images`, with what was passed by."""
    if not Path(root).is_dir():
        raise UserError(f"no such data folder: {root} (give an image folder with --data)")
    listing = list_files(root)
    if not listing.paths:
        raise UserError(f"no image in {root}: expected {', '.join(PICTURES)} files, flat or in folders")
    return listing


def allowed_unreadable(images: int) -> int:
    """How many of ``images`` may be unreadable before a run stops."""
    return max(1, int(images * UNREADABLE_SHARE))


def list_of(paths: list[Path], most: int = 5) -> str:
    """Some paths in one line."""
    return ", ".join(str(path) for path in paths[:most]) + (
        f" and {len(paths) - most} more" if len(paths) > most else ""
    )


class ImageFolder(Dataset):
    """Crops of the images of a folder; an index is (epoch, number of the image).

    An unreadable image is replaced by the next one that can be read, and its number goes along as ``unreadable``, for
    the main process to name it and to count.

    ``findings`` says in a line each what was passed by.

    Args:
        root: the folder, nested or flat.
        views: the config's ``views``.
        seed: the run's seed.

    Raises:
        UserError: as :func:`list_images`; or too many of the first images that are looked at cannot be read.
    """

    metainfo = None  # mmengine asks

    def __init__(self, root: str, views: dict[str, dict], seed: int) -> None:
        listing = listing_of(root)
        self.root, self.paths, self.findings = Path(root), listing.paths, listing.passed_by()
        self.multi_crop, self.seed = MultiCrop(views), seed
        self.check_headers()

    def check_headers(self) -> None:
        """Read the headers of up to :data:`LOOKED_AT_FIRST` images, evenly spread: a bad folder fails at once."""
        some = self.paths[:: -(-len(self.paths) // LOOKED_AT_FIRST)]
        bad = [path for path in some if not has_image_header(path)]
        if len(bad) == len(some) or len(bad) > allowed_unreadable(len(self.paths)):
            raise UserError(f"{len(bad)} of {len(some)} images cannot be read: {list_of(bad)}; remove or replace them")

    @cached_property
    def identity(self) -> dict:
        """How many images there are, and the SHA-256 of their paths below the folder, which may move."""
        names = "\n".join(path.relative_to(self.root).as_posix() for path in self.paths)
        return {"images": len(self.paths), "sha256": hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, address: tuple[int, int]) -> dict:
        epoch, index = address
        unreadable = []
        for step in range(min(len(self.paths), allowed_unreadable(len(self.paths)) + 1)):
            number = (index + step) % len(self.paths)
            try:
                crops = self.multi_crop.read(self.paths[number], self.rng(epoch, index))
                break
            except UserError:
                unreadable.append(number)
        else:  # more in a row than a run may have: the main process will stop it
            crops = self.multi_crop(np.zeros((64, 64, 3), np.uint8), self.rng(epoch, index))
        return {"crops": crops, "unreadable": unreadable}

    def rng(self, epoch: int, index: int) -> np.random.Generator:
        """The random numbers of one sample."""
        return np.random.default_rng([self.seed, epoch, index])


def has_image_header(path: Path) -> bool:
    """Whether the file starts like an image of a known format."""
    try:
        read_header(path)
        return True
    except UserError:
        return False


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

    Args:
        dataset: gives the number of images.
        batch_size: images a process and step.
        seed: the run's seed.

    Raises:
        UserError: fewer images than one global batch.
    """

    def __init__(self, dataset: Dataset, batch_size: int, seed: int = 0) -> None:
        self.rank, self.world = get_dist_info()
        self.images, self.batch_size, self.seed, self.epoch = len(dataset), batch_size, seed, 0
        self.batches = whole_batches(self.images, batch_size, self.world)

    def set_epoch(self, epoch: int) -> None:
        """Called by mmengine before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.images)
        mine = order[: self.batches * self.batch_size * self.world][self.rank :: self.world]
        return ((self.epoch, int(index)) for index in mine)

    def __len__(self) -> int:
        return self.batches * self.batch_size
