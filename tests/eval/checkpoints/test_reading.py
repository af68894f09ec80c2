"""What published checkpoints hold beside tensors is read, too, and runs nothing unless the user says so."""

import argparse
import os
import sys
from collections import OrderedDict
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file as save_safetensors

from selfpatch.eval.checkpoints.sources import read_source
from selfpatch.pretrain.cli import UserError


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


def test_what_published_checkpoints_hold_is_read(save):
    content = {
        "model": OrderedDict(WEIGHTS),
        "args": argparse.Namespace(arch="vit_small", scale=(0.25, 1.0), nested=argparse.Namespace(lr=5e-4)),
        "epoch": 100,
        "lr": np.float64(1e-3),
        "schedule": np.linspace(0, 1, 5),
        "best": np.float32(0.5),
    }
    read = read_source(save(content)).content
    assert torch.equal(read["model"]["a.weight"], WEIGHTS["a.weight"])
    assert read["args"].fields()["nested"].fields()["lr"] == 5e-4
    assert (read["lr"], read["best"]) == (1e-3, 0.5)
    np.testing.assert_array_equal(read["schedule"], content["schedule"])


def test_settings_of_moby_and_swin_are_read_as_a_dictionary(save, monkeypatch):
    """Their checkpoints hold yacs's CfgNode, whatever yacs itself may be."""

    class CfgNode(dict):
        pass

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    monkeypatch.setitem(sys.modules, "yacs", ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", ModuleType("yacs.config"))
    sys.modules["yacs.config"].CfgNode = CfgNode
    config = CfgNode(MODEL=CfgNode(TYPE="moby"), AMP="O1")
    config.__dict__["__immutable__"] = True
    path = save({"model": WEIGHTS, "config": config})
    monkeypatch.undo()
    read = read_source(path).content["config"]
    assert (read["MODEL"]["TYPE"], read["AMP"]) == ("moby", "O1")


def test_the_users_word_lets_it_run(save, tmp_path):
    path = save({**WEIGHTS, "args": RunsCode(tmp_path / "ran")})
    read_source(path)
    assert not (tmp_path / "ran").exists()
    assert read_source(path, unsafe=True).content["args"] == 0
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["c.safetensors", "c.bin"])
def test_safetensors_are_known_by_their_bytes_too(name, tmp_path):
    save_safetensors(WEIGHTS, tmp_path / name)
    assert torch.equal(read_source(tmp_path / name).content["b"], WEIGHTS["b"])


def test_safetensors_cut_short_cost_one_line(tmp_path):
    save_safetensors(WEIGHTS, tmp_path / "c.safetensors")
    whole = (tmp_path / "c.safetensors").read_bytes()
    (tmp_path / "c.safetensors").write_bytes(whole[:-3])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        read_source(tmp_path / "c.safetensors")
