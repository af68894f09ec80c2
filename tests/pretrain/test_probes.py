"""Figures while pretraining: right on features that are known, logged, and without a trace in the weights."""

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from selfpatch.pretrain.checkpoint import load_file
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.probes import Probe, nearest_accuracy, rankme


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_rankme_counts_dimensions(rank):
    basis = torch.linalg.qr(torch.randn(16, rank, generator=torch.Generator().manual_seed(0)))[0].T
    assert rankme(basis.repeat(4, 1)) == pytest.approx(rank, rel=1e-5)
    assert rankme(torch.zeros(4, 16)) == pytest.approx(1, abs=0.01)


def test_rankme_is_the_published_formula():
    features = torch.randn(40, 12, generator=torch.Generator().manual_seed(1))
    shares = torch.linalg.svdvals(features.double())
    shares = shares / shares.sum() + 1e-7
    assert rankme(features) == pytest.approx(float((-(shares * shares.log()).sum()).exp()), rel=1e-4)


def test_the_nearest_others_vote():
    angles = torch.tensor([0.0, 0.1, 0.2, 1.5, 1.6, 0.15])
    features, labels = torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([0, 0, 0, 1, 1, 1])
    assert nearest_accuracy(features, labels, k=1) == pytest.approx(100 * 3 / 6)  # the last misleads two, itself too
    assert nearest_accuracy(features[:5], labels[:5], k=1) == 100


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    root = tmp_path_factory.mktemp("classes")
    for shade, name in ((40, "dark"), (200, "bright")):
        (root / name).mkdir()
        for i in range(6):
            Image.new("RGB", (80, 60), (shade + i, shade, shade)).save(root / name / f"{i}.png")
    return root


def test_a_probe_is_logged_and_changes_nothing(undisturbed, photos, classes, command, run, tmp_path):
    done = run(command(photos, tmp_path / "run", "--probe", str(classes), "--probe-every", "2"))
    assert done.returncode == 0, done.stderr
    (events,) = (tmp_path / "run").rglob("events.out.*")
    board = EventAccumulator(str(events)).Reload()
    for name, low, high in (("probe_knn", 0, 100), ("probe_rankme", 1, 12), ("probe_patch_rankme", 1, 1000)):
        points = board.Scalars(name)
        assert len(points) == 2  # after the second epoch of three, and after the last
        assert all(low <= point.value <= high for point in points)
    states = [load_file(folder / "checkpoint.pth")["state_dict"] for folder in (undisturbed, tmp_path / "run")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_a_folder_without_images_costs_one_line(tmp_path):
    with pytest.raises(UserError, match="holds 0 images: give a folder of images"):
        Probe(tmp_path, 1, 32)
