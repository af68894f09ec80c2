"""What a run may go on from: its own recipe, images and batches, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from selfpatch.pretrain.checkpoint import load_file, plain
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.data import CropDataset
from selfpatch.pretrain.train import check_run, load_config, main

VIEWS = {"global": {"size": 32, "scale": (0.25, 1.0)}}


@pytest.fixture
def config(photos, tiny):
    """The config of the finished run."""
    config = load_config("selfpatch_toy", {**tiny, "model.patch_out_dim": 32})
    config.data.root = str(photos)
    return config


def test_the_checkpoint_names_its_images_and_batches(photos, undisturbed):
    meta = load_file(undisturbed / "checkpoint.pth")["meta"]
    assert (meta["batch"], meta["iterations"], meta["data"]["images"]) == (4, 6, 24)
    assert meta["data"] == CropDataset(photos, VIEWS, seed=0).identity


def test_a_moved_folder_holds_the_same_images(photos, tmp_path, monkeypatch):
    expected = CropDataset(photos, VIEWS, seed=0).identity
    moved = shutil.copytree(photos, tmp_path / "moved")
    monkeypatch.chdir(moved)
    for root in (str(moved), f"{moved}/", ".", "../moved"):
        assert CropDataset(root, VIEWS, seed=0).identity == expected
    (moved / "00.png").rename(moved / "24.png")
    assert CropDataset(moved, VIEWS, seed=0).identity != expected


@pytest.mark.parametrize(("batch_size", "processes"), [(4, 1), (2, 2), (1, 4)])
def test_the_same_global_batch_goes_on_however_it_is_shared(config, undisturbed, batch_size, processes):
    config.data.batch_size = batch_size
    check_run(config, undisturbed, True, processes)


@pytest.mark.parametrize(("batch_size", "processes"), [(2, 1), (4, 2), (5, 1)])
def test_another_global_batch_is_refused(config, undisturbed, batch_size, processes):
    """5: as many iterations an epoch, another learning rate."""
    config.data.batch_size = batch_size
    with pytest.raises(UserError, match=f"in batches of 4, and these are of {batch_size * processes}"):
        check_run(config, undisturbed, True, processes)


def test_other_images_are_refused(config, photos, undisturbed, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "more")
    config.data.root = str(folder)
    check_run(config, undisturbed, True, 1)
    shutil.copy(photos / "23.png", folder / "23.png")  # a repaired file is the same image
    check_run(config, undisturbed, True, 1)
    shutil.copy(photos / "23.png", folder / "24.png")
    with pytest.raises(UserError, match="other images, by their names: 24 then, 25 now; give the same folder"):
        check_run(config, undisturbed, True, 1)


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize(
    "content",
    [torch.zeros(2), {"state_dict": {}}, {"meta": 3}, {"meta": {"epoch": 3}, "state_dict": {}}],
    ids=["a tensor", "no meta", "no dictionary", "somebody else's"],
)
def test_what_is_no_run_is_neither_overwritten_nor_resumed(config, tmp_path, content, resume):
    torch.save(content, tmp_path / "checkpoint.pth")
    with pytest.raises(UserError, match="does not come from a pretraining run"):
        check_run(config, tmp_path, resume, 1)


def test_a_run_that_does_not_name_its_images_is_not_resumed(config, tmp_path):
    meta = {"method": "DINO+SelfPatch", "epoch": 1, "config": plain(config.to_dict())}
    torch.save({"meta": meta, "state_dict": {}}, tmp_path / "checkpoint.pth")
    with pytest.raises(UserError, match="an unknown number of then, 24 now"):
        check_run(config, tmp_path, True, 1)


# --- untrained networks ----------------------------------------------------------------------------------------------


def untrained(work_dir: Path, *options: str) -> bytes:
    main(["selfpatch_toy", "--untrained", "--work-dir", str(work_dir), *(["--cfg-options", *options] * bool(options))])
    return (work_dir / "checkpoint.pth").read_bytes()


def test_an_untrained_network_never_replaces_a_trained_one(undisturbed):
    before = (undisturbed / "checkpoint.pth").read_bytes()
    with pytest.raises(UserError, match=r"trained network \(epoch 3\), which --untrained would overwrite"):
        untrained(undisturbed)
    assert (undisturbed / "checkpoint.pth").read_bytes() == before


def test_an_untrained_network_is_kept_and_not_trained_on(config, tmp_path):
    first = untrained(tmp_path)
    assert untrained(tmp_path) == first
    with pytest.raises(UserError, match="untrained with another seed"):
        untrained(tmp_path, "seed=1")
    with pytest.raises(UserError, match="of an untrained network"):
        check_run(config, tmp_path, True, 1)
    assert (tmp_path / "checkpoint.pth").read_bytes() == first
