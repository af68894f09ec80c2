"""Scaling on paper: the arithmetic, what is measured for it, and the bytes that processes really exchange."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from selfpatch.pretrain import measure
from selfpatch.pretrain.config import load_config
from selfpatch.pretrain.plan import Figures, gloo_seconds, gradient_bytes, main
from selfpatch.pretrain.train import build_method

FIGURES = Figures(batch=100, step=0.1, augment=0.004, image=100_000, gradients=80_000_000, bandwidth=1e9)


def test_one_gpu_reduces_nothing():
    assert (FIGURES.reduced(1), FIGURES.images_per_second(1), FIGURES.workers(1)) == (0, 1000, 4)
    assert FIGURES.gpu_hours(1, 3_600_000) == pytest.approx(1)
    assert FIGURES.read(1) == pytest.approx(1e8)


def test_many_gpus_pay_for_the_ring():
    assert FIGURES.reduced(4) == pytest.approx(120e6)  # 2 · 3/4 · 80 MB
    assert FIGURES.reduce_seconds(4) == pytest.approx(0.12)
    assert FIGURES.images_per_second(4) == pytest.approx(400 / 0.22)
    assert FIGURES.gpu_hours(4, 3_600_000) == pytest.approx(2.2)
    assert FIGURES.workers(4) == 2  # 455 images/s a GPU at 250 a core


def bytes_of_a_step(tiny: dict) -> int:
    """What DDP averages in a step: the size of its buckets."""
    method = build_method(load_config("selfpatch_toy", {**tiny, "model.patch_out_dim": 32}))
    model, sent = torch.nn.parallel.DistributedDataParallel(method), []

    def counted(state, bucket):
        sent.append(bucket.buffer().numel() * bucket.buffer().element_size())
        return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda done: done.value()[0])

    model.register_comm_hook(None, counted)
    model([torch.randn(2, 2, 3, 64, 64), torch.randn(4, 2, 3, 48, 48)])["loss"].backward()
    return sum(sent)


def count_bytes(rank: int, world: int, folder: str, tiny: dict) -> None:
    """One process of a group; its model is gone before the group ends, which might else wait for a thread for ever.

    (torch 2.13: the Reducer's destructor joins that thread with the GIL held, which the thread may be waiting for.)
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    Path(folder, str(rank)).write_text(str(bytes_of_a_step(tiny)))
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ddp_averages_the_bytes_of_the_plan(tiny, tmp_path, world):
    arguments = (world, str(tmp_path), tiny)
    torch.multiprocessing.start_processes(count_bytes, arguments, world, daemon=True, start_method="fork")
    method = build_method(load_config("selfpatch_toy", {**tiny, "model.patch_out_dim": 32}))
    assert [int((tmp_path / str(rank)).read_text()) for rank in range(world)] == [gradient_bytes(method)] * world


def test_processes_can_be_timed():
    assert 0 < gloo_seconds(2, 1_000_000, times=2) < 30


def test_the_command_shows_its_arithmetic(capsys):
    given = ["--images-per-s", "1000", "--augment-ms", "4", "--batch", "100", "--bandwidth", "1", "--gpus", "1", "8"]
    main(["selfpatch_vit-s16_8xb128-200e_in1k", *given])
    text = capsys.readouterr().out
    assert "100 images / 0.1 s = 1,000 images/s" in text
    assert "54.1 M numbers x 4 bytes = 216 MB a step" in text
    row = next(line.split() for line in text.splitlines() if line.split()[:1] == ["8"])
    assert row[:5] == ["8", "1,672", "1", "184", "378"]  # 8 · 100 / (0.1 + 0.378) images/s


def test_what_is_not_given_is_measured(tiny):
    config = load_config("dino_toy", tiny)
    method = build_method(config).train()
    before = [p.clone() for p in method.student.parameters()]
    take = measure.training_step(method, config, batch=2)
    assert take().isfinite()
    assert any(not torch.equal(a, b) for a, b in zip(before, method.student.parameters()))
    assert measure.seconds_of(take, torch.device("cpu"), steps=1) > 0
    products = 2 * 2 * 2 * 16 * 24 * 72  # the first layer's queries, keys and values of the global crops, at least
    assert measure.operations_of(take) > 3 * products
    assert measure.augmentation_seconds(config, measure.some_pictures(None), least=0.05) > 0
    assert measure.share_of_peak(1e12, 1.0) is None or torch.cuda.is_available()


def test_pictures_are_taken_from_all_over_a_folder(photos):
    assert len(measure.some_pictures(photos, count=8)) == 8
    assert len(measure.some_pictures(photos)) == 24
