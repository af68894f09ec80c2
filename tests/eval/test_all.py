"""All benchmarks by one command: those whose data is there, each in its own process, whatever happens to the others."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from selfpatch.eval import all as every
from selfpatch.eval import tasks
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.settings import check
from selfpatch.pretrain.swin import Swin
from selfpatch.pretrain.vit import VisionTransformer


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """The commands that were run instead of being run; DAVIS and ADE20K are there, DAVIS fails."""
    monkeypatch.chdir(tmp_path)
    for folder in ("data/DAVIS", "data/ade20k"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "x.pth").touch()
    commands = []

    def run(command, check):
        commands.append(command)
        return subprocess.CompletedProcess(command, int("davis" in command))

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_a_benchmark_that_fails_does_not_keep_the_others(calls, capsys):
    assert every.main(["x.pth"]) == 1
    assert [command[:4] for command in calls[:-1]] == [
        [sys.executable, "-m", "selfpatch.eval.run", task] for task in ("davis", "ade20k")
    ]
    assert calls[-1] == [sys.executable, "-m", "selfpatch.reports.report"]  # the table of what there is
    out, err = capsys.readouterr()
    assert "coco: no data in data/coco" in out
    assert err == "error: not scored: davis (see above)\n"


def test_options_reach_the_benchmarks_that_have_them(calls, tmp_path):
    (tmp_path / "photos").mkdir()
    mini = ["--size", "mini", "--coco", "photos", "--images", "frames", "--gpus", "2", "--records", "r", "--force"]
    every.main(["x.pth", *mini])
    davis, ade20k, coco = (command[3:] for command in calls[:-1])
    common = ["x.pth", "--records", "r", "--force"]
    assert sorted(davis) == sorted([*common, "davis", "--data", "data/DAVIS"])
    trained = [*common, "--gpus", "2"]
    assert sorted(coco) == sorted(
        [*trained, "coco", "--data", "photos", "--images", "frames", "--protocol", "mask-rcnn-mini"]
    )
    assert sorted(ade20k) == sorted([*trained, "ade20k", "--data", "data/ade20k", "--protocol", "semantic-fpn-mini"])
    assert calls[-1][2:] == ["selfpatch.reports.report", "--records", "r"]


@pytest.mark.parametrize("family", [VisionTransformer, Swin])
@pytest.mark.parametrize(
    ("name", "size"), [(name, size) for name in tasks.names() for size in getattr(tasks.load(name), "SIZES", {})]
)
def test_every_size_takes_either_family(name, size, family):
    task = tasks.load(name)
    settings = check(task.Settings, task.SIZES[size])
    with torch.device("meta"):
        model = family()
    backbone = SimpleNamespace(model=model, arch={**model.arch, "name": "x"}, checkpoint="x.pth", tap_norm=False)
    assert task.protocol(settings, backbone).name.startswith(f"{settings.protocol}@")


@pytest.mark.parametrize(("argv", "reason"), [(["y.pth"], "no such checkpoint"), (["x.pth", "--davis", "z"], None)])
def test_nothing_to_do_is_an_error(calls, argv, reason, tmp_path):
    (tmp_path / "data/ade20k").rmdir()
    with pytest.raises(UserError, match=reason or "there is no data"):
        every.main(argv)
    assert not calls
