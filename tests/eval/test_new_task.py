"""A new task is one file: found by its name everywhere, with nothing else edited."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from selfpatch.eval import all as every
from selfpatch.eval import run, tasks
from selfpatch.eval.datasets import prepare
from selfpatch.eval.dense import recipe
from selfpatch.pretrain.checkpoint import save_file
from selfpatch.pretrain.vit import VisionTransformer

TASK = '''
"""Brightness: how bright a network finds pictures. Made up for a test."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
from mmengine.config import Config
from pydantic import Field

from selfpatch.eval.dense.recipe import CONFIGS
from selfpatch.eval.tasks import TaskSettings
from selfpatch.reports.metrics import Measure
from selfpatch.reports.record import Dataset, Evaluation, Protocol


def mean_brightness(units, weights):
    values = units["brightness"][np.argsort(units["picture"])]
    return 100 * (weights @ values) / weights.sum(axis=1)


TITLE = "Brightness of pictures"
HEADLINE = ["brightness"]
MEASURE = Measure("picture", "picture", ("picture",), {"brightness": mean_brightness})
SIZES = {"mini": {"gain": 0.5}}


class Settings(TaskSettings):
    data: Path = Field(Path("data/pictures"), description="where the data set lies")
    gain: float = Field(1.0, gt=0, description="factor")


def open(settings):
    names = sorted(path.name for path in settings.data.iterdir())
    return SimpleNamespace(names=names, identity=Dataset("pictures-val", "val", "f" * 64, True), findings=["dark"])


def protocol(settings, backbone):
    version = Config.fromfile(CONFIGS / "brightness" / "plain.py").version
    return Protocol(f"brightness@{version}", {"gain": settings.gain})


def evaluate(backbone, dataset, settings, out):
    bias = float(backbone.model.cls_token.detach().mean())
    values = settings.gain * np.linspace(0.1, 0.9, len(dataset.names)) + bias
    units = {"picture": np.array(dataset.names), "brightness": values}
    return Evaluation(MEASURE.evaluate(units), units)
'''


@pytest.fixture
def dropped(tmp_path, monkeypatch):
    """The task's file and its config lie in folders beside ours; every process of the test finds them there."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/brightness.py").write_text(TASK.lstrip())
    (tmp_path / "configs/brightness").mkdir(parents=True)
    (tmp_path / "configs/brightness/plain.py").write_text("version = 3\n")
    (tmp_path / "data/pictures").mkdir(parents=True)
    for number in range(6):
        (tmp_path / f"data/pictures/{number}.png").touch()
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path / "tasks")])
    monkeypatch.setattr(recipe, "CONFIGS", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("selfpatch.eval.tasks.brightness", None)
    vars(tasks).pop("brightness", None)


def checkpoint(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    model = VisionTransformer(embed_dim=24, depth=1, heads=2, img_size=32, patch_size=8)
    state = {f"teacher.backbone.{name}": tensor for name, tensor in model.state_dict().items()}
    save_file({"state_dict": state, "meta": {"method": f"M{seed}", "arch": model.arch, "epoch": 1, "seed": 0}}, path)
    return path


def test_a_task_is_one_file(dropped, capsys, monkeypatch):
    assert "brightness" in tasks.names()
    records = [run.evaluate("brightness", checkpoint(dropped / f"{seed}.pth", seed), gain=0.5) for seed in (0, 1)]
    assert (records[0].title, records[0].headline) == ("Brightness of pictures", ["brightness"])
    assert records[0].protocol.name == "brightness@3"
    assert records[0].measure == "selfpatch.eval.tasks.brightness:MEASURE"
    capsys.readouterr()

    with pytest.raises(SystemExit):
        run.main(["brightness", "--help"])
    assert "--gain" in capsys.readouterr().out

    with pytest.raises(SystemExit):
        prepare.main(["--help"])
    assert "davis,imagenet,brightness" in "".join(capsys.readouterr().out.split())
    prepare.main(["brightness"])
    assert capsys.readouterr().out.splitlines() == ["warn   dark", "data/pictures is ready"]

    calls = []
    monkeypatch.setattr(
        subprocess, "run", lambda words, check: calls.append(words) or subprocess.CompletedProcess(words, 0)
    )
    assert every.main([str(dropped / "0.pth"), "--size", "mini"]) == 0
    assert calls[0][2:] == [
        "selfpatch.eval.run", "brightness", str(dropped / "0.pth"), "--data", "data/pictures", "--gain", "0.5",
    ]  # fmt: skip


def test_its_records_are_in_the_tables_and_in_the_bootstrap(dropped, capsys):
    from selfpatch.reports import bootstrap, report

    a, b = (run.evaluate("brightness", checkpoint(dropped / f"{seed}.pth", seed)) for seed in (0, 1))
    report.main(["--records", "work_dirs/records", "--out", "report"])
    assert "Brightness of pictures" in capsys.readouterr().out
    bootstrap.main([str(a.path), str(b.path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["delta"] == pytest.approx(a.metrics["brightness"] - b.metrics["brightness"])
    assert np.isfinite(found["low"])
