"""WebDataset shards: the same images in the same order as from a folder; what is broken is named and counted."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from selfpatch.pretrain import shards
from selfpatch.pretrain.checkpoint import load_file
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.data import CropDataset, Folder, open_images

VIEWS = {"view": {"size": 32, "scale": (0.25, 1.0), "count": 2}}


def pack(paths: list[Path], folder: Path, each: int) -> list[Path]:
    """Tar files of ``each`` images, every one with labels beside it, as WebDataset's writer leaves them."""
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(paths), each):
        with tarfile.open(folder / f"{first // each:04}.tar", "w") as archive:
            for number, path in enumerate(paths[first : first + each]):
                archive.add(path, f"{first + number:06}{path.suffix}")
                for ending, content in ((".cls", b"3"), (".seg.png", b"no picture of its own")):
                    member = tarfile.TarInfo(f"{first + number:06}{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return sorted(folder.glob("*.tar"))


@pytest.fixture
def packed(photos, tmp_path) -> Path:
    """The 24 photos in shards of 5."""
    pack(Folder(photos).paths, tmp_path / "shards", each=5)
    return tmp_path / "shards"


def test_shards_hold_the_images_of_the_folder(photos, packed):
    folder, tars = open_images(photos), open_images(packed)
    assert len(tars) == len(folder) == 24
    assert [tars[i] for i in range(24)] == [folder[i].read_bytes() for i in range(24)]
    assert (tars.name(0), tars.name(7)) == ("0000.tar/000000.png", "0001.tar/000007.png")
    assert np.array_equal(*(images.order(np.random.default_rng(3)) for images in (folder, tars)))
    one, other = CropDataset(photos, VIEWS, seed=0)[(1, 9)], CropDataset(packed, VIEWS, seed=0)[(1, 9)]
    assert torch.equal(one["crops"][0], other["crops"][0])


@pytest.mark.parametrize("world", [2, 4, 8])
def test_processes_list_a_part_each_and_know_all(monkeypatch, packed, world):
    alone, paths = open_images(packed), sorted(packed.glob("*.tar"))
    parts = [[shards.Shard.scan(path) for path in paths[rank::world]] for rank in range(world)]
    scanned = []
    monkeypatch.setattr(shards.Shard, "scan", lambda path: scanned.append(path))
    monkeypatch.setattr(shards, "get_dist_info", lambda: (1, world))
    monkeypatch.setattr(shards, "all_gather_object", lambda mine: parts)
    together = shards.Shards(packed, paths, allowed=0)
    assert scanned == paths[1::world]
    assert [together.name(i) for i in range(24)] == [alone.name(i) for i in range(24)]


def test_many_shards_are_read_a_window_at_a_time(monkeypatch, photos, tmp_path):
    pack(Folder(photos).paths, tmp_path, each=2)
    monkeypatch.setattr(shards, "WINDOW", 3)
    images = open_images(tmp_path)
    order = images.order(np.random.default_rng([0, 1]))
    assert sorted(order) == list(range(24))
    for first in range(0, 24, 6):  # 3 shards of 2 images
        assert len({number // 2 for number in order[first : first + 6]}) == 3
    assert not np.array_equal(order, images.order(np.random.default_rng([0, 2])))
    assert np.array_equal(order, images.order(np.random.default_rng([0, 1])))


def test_training_from_shards_ends_in_the_same_bits(photos, packed, command, run, undisturbed, tmp_path):
    done = run(command(packed, tmp_path / "run", "data.workers=2"))
    assert done.returncode == 0, done.stderr
    expected, found = (load_file(folder / "checkpoint.pth") for folder in (undisturbed, tmp_path / "run"))
    for name, value in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][name], value), name
    curves = [
        [line.split("loss:")[1].split()[0] for line in log.read_text().splitlines() if "Epoch(train)" in line]
        for folder in (undisturbed, tmp_path / "run")
        for log in folder.glob("*/*.log")
    ]
    assert len(curves[0]) == 18
    assert curves[0] == curves[1]


def test_a_broken_image_in_a_shard_is_named_and_replaced(photos, tmp_path):
    paths = Folder(photos).paths
    (tmp_path / "broken.png").write_bytes(paths[3].read_bytes()[:300])
    pack([*paths[:3], tmp_path / "broken.png", *paths[4:]], tmp_path / "shards", each=6)
    dataset = CropDataset(tmp_path / "shards", VIEWS, seed=0)
    sample = dataset[(0, 3)]
    assert sample["unreadable"] == [3]
    assert sample["crops"][0].float().std() > 1
    assert dataset.path(3) == f"{tmp_path}/shards/0000.tar/000003.png"


def test_one_shard_may_end_early_and_is_named(packed):
    tars = sorted(packed.glob("*.tar"))
    tars[1].write_bytes(tars[1].read_bytes()[:60_000])  # within the fourth image
    images = open_images(packed)
    assert len(images) == 22
    (finding,) = images.findings
    assert str(tars[1]) in finding
    assert "3 images of it are used" in finding
    tars[2].write_bytes(b"no tar")
    with pytest.raises(UserError, match=r"2 of 5 shards cannot be read to their end, the first is .*0001\.tar"):
        open_images(packed)


def test_shards_without_images_are_named(tmp_path):
    with tarfile.open(tmp_path / "labels.tar", "w") as archive:
        archive.add(__file__, "000000.txt")
    with pytest.raises(UserError, match="no image in the 1 shards"):
        open_images(tmp_path)
