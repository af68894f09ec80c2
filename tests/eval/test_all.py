"""All benchmarks by one command: those whose data is there, each in its own process, whatever happens to the others."""

import subprocess
import sys

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
    assert [command[:4] for command in calls] == [
        [sys.executable, "-m", "selfpatch.eval.run", task] for task in ("davis", "ade20k")
    ]
    out, err = capsys.readouterr()
    assert "coco: no data in data/coco" in out
    assert err == "error: not scored: davis (see above)\n"


def test_options_reach_the_benchmarks_that_have_them(calls, tmp_path):
    (tmp_path / "photos").mkdir()
    mini = ["--size", "mini", "--coco", "photos", "--images", "frames", "--gpus", "2", "--records", "r", "--force"]
    every.main(["x.pth", *mini])
    davis, coco, ade20k = (" ".join(command[4:]) for command in calls)
    assert davis == "x.pth --data data/DAVIS --records r --force"
    assert coco == "x.pth --data photos --records r --force --images frames --gpus 2 --protocol mask-rcnn-mini"
    assert ade20k == "x.pth --data data/ade20k --records r --force --gpus 2 --protocol semantic-fpn-mini"


def test_its_protocols_are_configs():
    from selfpatch.eval.recipe import protocols

    for size in every.PROTOCOLS.values():
        for task, name in size.items():
            assert name in protocols(task)


@pytest.mark.parametrize(("argv", "reason"), [(["y.pth"], "no such checkpoint"), (["x.pth", "--davis", "z"], None)])
def test_nothing_to_do_is_an_error(calls, argv, reason, tmp_path):
    (tmp_path / "data/ade20k").rmdir()
    with pytest.raises(UserError, match=reason or "there is no data"):
        every.main(argv)
    assert not calls
