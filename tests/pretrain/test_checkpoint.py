"""Checkpoints are read without running what they hold, and written whole or not at all."""

import argparse
import os
import pickle
import random
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from selfpatch.eval.checkpoints.sources import read_source
from selfpatch.pretrain.checkpoint import load_file, plain, point_to, save_file
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.files import temporary_name


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.__version__, str(torch.__version__)),  # a subclass of str
        (np.float64(1.5), 1.5),  # a subclass of float
        (True, True),
        (None, None),
        ({"a": (1, np.str_("b"))}, {"a": [1, "b"]}),
    ],
)
def test_plain_leaves_only_builtin_types(tmp_path, value, expected):
    torch.save(plain(value), tmp_path / "meta.pth")
    read = torch.load(tmp_path / "meta.pth", weights_only=True)
    assert read == expected
    assert type(read) is type(expected)


# --- reading ---------------------------------------------------------------------------------------------------------


class RunsCode:
    """Pickles as a call of os.system, which leaves a file behind if it is ever made."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.float16)}


@pytest.fixture(params=["zip", "legacy"])
def save(request, tmp_path):
    """Writes a checkpoint in torch's format of today, or in the one from before 1.6."""

    def write(content):
        torch.save(content, tmp_path / "c.pth", _use_new_zipfile_serialization=request.param == "zip")
        return tmp_path / "c.pth"

    return write


@pytest.fixture(params=["ours", "any"])
def read(request):
    """Reads a checkpoint of this project alone, or of anybody."""
    return load_file if request.param == "ours" else lambda path: read_source(path).content


@pytest.mark.parametrize("place", ["alone", "among weights", "as a bare pickle"])
def test_a_pickled_call_is_refused_and_does_not_run(place, save, tmp_path):
    trace = tmp_path / "ran"
    if place == "as a bare pickle":
        path = tmp_path / "c.pth"
        path.write_bytes(pickle.dumps(RunsCode(trace), protocol=2))
    else:
        path = save(RunsCode(trace) if place == "alone" else {**WEIGHTS, "args": RunsCode(trace)})
    with pytest.raises(UserError, match=r"posix\.system .*no checkpoint of this project") as error:
        load_file(path)
    assert "\n" not in str(error.value)
    assert "--unsafe-load" not in str(error.value)
    assert not trace.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"not a checkpoint\n", "Gewichte für morgen\n".encode() * 99, b"\x80\x02}q\x00.", bytes(range(256)) * 40],
    ids=["empty", "text", "more text", "an empty pickle", "bytes"],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_checkpoint_costs_one_line(content, suffix, read, tmp_path):
    path = tmp_path / f"c{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(path)) + " is not a") as error:
        read(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95, 0.999])
def test_a_checkpoint_cut_short_costs_one_line(share, save, read):
    path = save(WEIGHTS | {f"more{i}": torch.randn(8, 8) for i in range(9)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=re.escape(str(path))) as error:
        read(path)
    assert "\n" not in str(error.value)


def test_broken_bytes_never_give_anything_but_one_line(save, read):
    """Flipped bytes make torch raise whatever its parts raise: all of it is the user's one line."""
    path = save({"model": WEIGHTS, "args": argparse.Namespace(lr=np.float32(1.0)), "epoch": 3})
    whole, dice = path.read_bytes(), random.Random(1)
    told = []
    for _ in range(150):
        broken = bytearray(whole)
        for _ in range(dice.choice([1, 3, 20])):
            broken[dice.randrange(min(len(broken), 600))] = dice.randrange(256)
        path.write_bytes(broken)
        try:
            read(path)
        except UserError as error:
            told.append(str(error))
    assert len(told) > 50
    assert not any("\n" in line for line in told)


@pytest.mark.parametrize("path", ["nowhere.pth", "."])
def test_a_missing_file_is_named(path, tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):
        load_file(tmp_path / path)


# --- writing ---------------------------------------------------------------------------------------------------------


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "checkpoint.pth"
    save_file(WEIGHTS, path)
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        save_file({"f": lambda: 0}, path)
    assert torch.equal(load_file(path)["b"], WEIGHTS["b"])
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pth"]


def test_what_killed_saves_left_goes_with_the_next(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()

    def temporary(name: str, process: int) -> Path:
        mine = temporary_name(tmp_path / name)
        return mine.with_name(mine.name.replace(f".{os.getpid()}.", f".{process}."))

    left, pointer = temporary("epoch_2.pth", gone.pid), temporary("checkpoint.pth", gone.pid)
    held, other = temporary("epoch_2.pth", os.getppid()), temporary("epoch_3.pth", gone.pid)
    for path in (left, held, other, pointer):
        path.write_bytes(b"half")
    save_file(WEIGHTS, tmp_path / "epoch_2.pth")
    point_to(tmp_path / "epoch_2.pth", tmp_path / "checkpoint.pth")
    assert {path.name for path in tmp_path.iterdir()} == {"epoch_2.pth", "checkpoint.pth", held.name, other.name}


def test_the_pointer_moves_in_one_step(tmp_path):
    for epoch in (1, 2):
        save_file({"epoch": epoch}, tmp_path / f"epoch_{epoch}.pth")
        point_to(tmp_path / f"epoch_{epoch}.pth", tmp_path / "checkpoint.pth")
        assert load_file(tmp_path / "checkpoint.pth")["epoch"] == epoch
    (tmp_path / "epoch_2.pth").unlink()  # an old epoch may go: the pointer keeps its content
    assert load_file(tmp_path / "checkpoint.pth")["epoch"] == 2
