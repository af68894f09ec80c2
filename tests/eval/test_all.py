"""All benchmarks by one command: those whose data is there, each in its own process, whatever happens to the others."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from selfpatch.eval import all as every
from selfpatch.pretrain.cli import UserError


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
    davis, coco, ade20k = (" ".join(command[4:]) for command in calls[:-1])
    assert davis == "x.pth --data data/DAVIS --records r --force"
    assert coco == "x.pth --data photos --records r --force --images frames --gpus 2 --protocol mask-rcnn-mini"
    assert ade20k == "x.pth --data data/ade20k --records r --force --gpus 2 --protocol semantic-fpn-mini"
    assert calls[-1][2:] == ["selfpatch.reports.report", "--records", "r"]


ARCHS = {
    "vit": {"family": "vit", "depth": 12, "final_norm": True, "name": "vit-s16"},
    "swin": {"family": "swin", "depths": [2, 2, 6, 2], "final_norm": True, "name": "swin-t"},
}


@pytest.mark.parametrize("family", ARCHS)
@pytest.mark.parametrize("size", every.PROTOCOLS)
@pytest.mark.parametrize("task", ["coco", "ade20k"])
def test_its_protocols_take_either_family(task, size, family):
    from selfpatch.eval.dense import recipe

    name = every.PROTOCOLS[size].get(task)  # None: the task's own default for the family, which its tests build
    if name is not None:
        backbone = SimpleNamespace(arch=ARCHS[family], checkpoint="x.pth")
        found, _, _ = recipe.read(task, SimpleNamespace(protocol=name), backbone)
        assert found == f"{name}@1"


@pytest.mark.parametrize(("argv", "reason"), [(["y.pth"], "no such checkpoint"), (["x.pth", "--davis", "z"], None)])
def test_nothing_to_do_is_an_error(calls, argv, reason, tmp_path):
    (tmp_path / "data/ade20k").rmdir()
    with pytest.raises(UserError, match=reason or "there is no data"):
        every.main(argv)
    assert not calls
