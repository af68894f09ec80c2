"""The stream of images: what a model draws at random has an address, whoever loads its images."""

import gc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from selfpatch.eval.dense.image_stream import AddressedTrainLoop, Batches, ImageStream, Loader
from selfpatch.pretrain.cli import UserError


class Numbers:
    """A data set that draws from the global generators, as mmcv's transforms do."""

    def full_init(self):
        pass

    def __len__(self):
        return 6

    def get_data_info(self, i):
        return {"height": 1, "width": 1}

    def __getitem__(self, i):
        return i + np.random.rand()


def drawn(parts, workers, start=0):
    """For each part of each iteration, its images and what the model draws meanwhile."""
    found = []

    def train_step(batch, optim_wrapper):
        found.append((batch.tolist(), torch.rand(1).item(), np.random.rand()))

    stream = ImageStream(Numbers(), seed=1, grouped=False)
    batches = Batches(stream, batch_size=4, parts=parts, iterations=4)
    batches.start = start
    loop = object.__new__(AddressedTrainLoop)  # without a Runner
    loop._runner = SimpleNamespace(
        model=SimpleNamespace(train_step=train_step), optim_wrapper=None, call_hook=lambda *_, **__: None
    )
    loop.seed, loop.parts, loop._iter = 1, parts, start
    images = iter(DataLoader(stream, batch_sampler=batches, num_workers=workers))
    for _ in range(start, 4):
        loop.run_iter(images)
    return found


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_workers_change_nothing_of_what_a_model_draws(parts):
    alone = drawn(parts, workers=0)
    assert len({draw for _, draw, _ in alone}) == 4 * parts
    assert drawn(parts, workers=2) == alone


def test_a_run_that_goes_on_draws_what_it_would_have_drawn():
    assert drawn(2, workers=0, start=2) == drawn(2, workers=0)[4:]


class Broken:
    metainfo = None

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 2:
            raise UserError("2.png cannot be read")
        return {"inputs": torch.zeros(1)}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_told_in_one_line_whoever_reads_it(workers):
    batches = iter(Loader(Broken(), batch_size=2, num_workers=workers))
    assert len(next(batches)["inputs"]) == 2
    with pytest.raises(UserError, match=r"^2\.png cannot be read$"):
        next(batches)
    del batches
    gc.collect()  # the error's traceback held it: its process ends
