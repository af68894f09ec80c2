"""The images of a training as one endless stream in which every position has its own random numbers.

The order of images and the augmentation of each depend on (seed, position in the stream) alone, and what a model draws
depends on (seed, process, iteration, part of its batch): workers change nothing, and a run that was killed and went on
ends with the very numbers of one that was not.
"""

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import get_rank, get_world_size
from mmengine.registry import LOOPS
from mmengine.runner import IterBasedTrainLoop
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from selfpatch.pretrain.cli import UserError

# batches as mmengine's models take them; the UserError of a loading process comes out as it went in
Loader = partial(DataLoader, collate_fn=pseudo_collate)


class ImageStream(Dataset):
    """A data set as an endless stream: address ``epoch·n + index`` is one image with one augmentation, always.

    Args:
        grouped: whether the two images of a pair should be both wide or both tall, so that little is padded.
    """

    metainfo = None  # mmengine looks for it

    def __init__(self, images: Any, seed: int, grouped: bool) -> None:
        images.full_init()
        if len(images) == 0:
            raise UserError("no training image has an annotation that can be learned from")
        self.images, self.seed = images, seed
        self.tall = np.zeros(len(images), dtype=bool)
        if grouped:
            info = (images.get_data_info(i) for i in range(len(images)))
            self.tall = np.array([item["height"] > item["width"] for item in info])
        self.grouped = grouped

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, address: int) -> dict:
        seed_everything(self.seed, 0, address)
        return self.images[address % len(self)]

    def order(self, epoch: int) -> np.ndarray:
        """The indices of one epoch in their random order; grouped: pairs of one orientation stay together."""
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(len(self))
        if not self.grouped:
            return order
        wide, tall = order[~self.tall[order]], order[self.tall[order]]
        left = [group[len(group) // 2 * 2 :] for group in (wide, tall)]
        pairs = np.concatenate([group[: len(group) // 2 * 2].reshape(-1, 2) for group in (wide, tall)])
        return np.concatenate([rng.permutation(pairs).ravel(), *left])

    def addresses(self, start: int) -> Iterator[int]:
        """All addresses from position ``start`` of the stream on."""
        epoch, skipped = divmod(start, len(self))
        while True:
            yield from (epoch * len(self) + self.order(epoch)[skipped:]).tolist()
            epoch, skipped = epoch + 1, 0


class Batches(Sampler):
    """This process's parts of every batch, ``parts`` of them an iteration, from iteration :attr:`start` on."""

    def __init__(self, stream: ImageStream, batch_size: int, parts: int, iterations: int) -> None:
        self.stream, self.batch_size, self.parts, self.iterations = stream, batch_size, parts, iterations
        self.start = 0

    def __len__(self) -> int:
        return self.iterations

    def __iter__(self) -> Iterator[list[int]]:
        rank, processes = get_rank(), get_world_size()
        addresses = self.stream.addresses(self.start * self.batch_size)
        size = self.batch_size // (processes * self.parts)
        for _ in range(self.start, self.iterations):
            batch = [next(addresses) for _ in range(self.batch_size)]
            for part in range(rank * self.parts, (rank + 1) * self.parts):
                yield batch[part * size : (part + 1) * size]


def seed_everything(seed: int, stream: int, position: int) -> None:
    """Set every global generator by an address; ``stream`` keeps apart what has the same positions."""
    number = int(np.random.SeedSequence((seed, stream, position)).generate_state(1)[0])
    random.seed(number)  # mmcv's transforms draw from all three
    np.random.seed(number)
    torch.manual_seed(number)


@LOOPS.register_module()
class AddressedTrainLoop(IterBasedTrainLoop):
    """mmengine's loop by iterations, with random numbers by address and batches in ``parts``; it resumes at once."""

    def __init__(self, runner, dataloader, max_iters: int, seed: int = 0, parts: int = 1) -> None:
        super().__init__(runner, dataloader, max_iters)
        self.seed, self.parts = seed, parts

    def run(self) -> nn.Module:
        """Train to the end, from wherever a checkpoint left the count."""
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        done, total = (count * self.parts for count in (self._iter, self._max_iters))  # the wrapper counts parts
        self.runner.optim_wrapper.initialize_count_status(self.runner.model, done, total)
        self.dataloader.batch_sampler.start = self._iter
        batches = iter(self.dataloader)
        while self._iter < self._max_iters:
            self.runner.model.train()
            self.run_iter(batches)
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_iter(self, batches: Iterator) -> None:
        """One step of the optimiser."""
        for part in range(self.parts):
            batch = next(batches)
            if part == 0:
                self.runner.call_hook("before_train_iter", batch_idx=self._iter, data_batch=batch)
            # of each part: without workers, its loading has just left the generators anywhere
            seed_everything(self.seed, 1 + get_rank(), self._iter * self.parts + part)
            outputs = self.runner.model.train_step(batch, optim_wrapper=self.runner.optim_wrapper)
        self.runner.call_hook("after_train_iter", batch_idx=self._iter, data_batch=batch, outputs=outputs)
        self._iter += 1
