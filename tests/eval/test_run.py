"""One command for every task: checks first, the certificate, the work, one record; and never the work twice."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from selfpatch.eval import run, tasks
from selfpatch.eval.tasks import TaskSettings
from selfpatch.pretrain.checkpoint import save_file
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.vit import VisionTransformer
from selfpatch.reports.metrics import Measure
from selfpatch.reports.record import Dataset, Evaluation, Protocol, Record


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "checkpoint.pth")


def write_checkpoint(path, seed=0):
    torch.manual_seed(seed)
    student, teacher = (VisionTransformer(embed_dim=24, depth=2, heads=3, img_size=32) for _ in range(2))
    state = {f"student.backbone.{name}": tensor for name, tensor in student.state_dict().items()}
    state |= {f"teacher.backbone.{name}": tensor for name, tensor in teacher.state_dict().items()}
    meta = {"method": "DINO", "arch": teacher.arch, "epoch": 3, "seed": 7, "config": {"clip": float("inf")}}
    save_file({"meta": meta, "state_dict": state}, path)
    return path


class Settings(TaskSettings):
    data: Path = Path("toys")
    save_predictions: bool = False


class Task:
    """A task that counts how often it works, with a data set and a protocol that a test can change."""

    __name__ = "selfpatch.eval.tasks.toy"
    TITLE, HEADLINE, MEASURE = "Toys", ["J&F"], Measure("toy", "J", ("J",), {})

    def __init__(self):
        self.worked, self.seen = 0, None
        self.top_k, self.data = 5, "a" * 64
        self.metrics, self.earlier_seconds = {"J&F": 61.0, "IoU/wall": 12.0}, 0.0

    def open(self, settings):
        identity = Dataset("toys", "val", self.data, miniature=True)
        return SimpleNamespace(identity=identity, findings=["a toy is broken"])

    def protocol(self, settings, backbone):
        return Protocol("toy@1", {"top_k": self.top_k, "patch": backbone.arch["patch"]})

    def evaluate(self, backbone, dataset, settings, out):
        self.worked += 1
        self.seen = backbone, out
        return Evaluation(self.metrics, {"J": np.arange(3.0)}, ["an object was lost"], self.earlier_seconds)


def go(task, checkpoint, save_predictions=False, force=False, **options) -> Record:
    """Run a task, with records beside the checkpoint."""
    settings = Settings(save_predictions=save_predictions, force=force)
    return run.run(task, settings, checkpoint, **{"records": checkpoint.parent / "records"} | options)


def test_a_run_leaves_one_record_of_everything(checkpoint, capsys):
    task = Task()
    record = go(task, checkpoint)
    assert Record.read(record.path) == record
    backbone, out = task.seen
    assert (record.task, record.dataset, record.split, record.miniature) == ("toy", "toys", "val", True)
    assert record.protocol == Protocol("toy@1", {"top_k": 5, "patch": 16})
    assert (record.method, record.pretrain_epochs, record.seed) == ("DINO", 3, 7)
    assert (record.title, record.headline, record.measure) == ("Toys", ["J&F"], "selfpatch.eval.tasks.toy:MEASURE")
    assert record.findings == ["a toy is broken"]
    assert record.arch["name"] == "vit-24x2-p16"
    assert record.config == {"clip": "inf"}
    assert record.certificate == backbone.certificate
    assert (record.metrics, record.notes) == (task.metrics, ["an object was lost"])
    assert out == Path("work_dirs/eval") / f"toy-{record.checkpoint_sha256[:12]}"
    printed = capsys.readouterr().out
    for line in (
        *backbone.certificate,
        "J&F 61.00",
        "an object was lost",
        "miniature",
        "warning: a toy is broken",
        str(record.path),
    ):
        assert line in printed
    assert "IoU/wall" not in printed  # per class: in the file


def test_seconds_of_stopped_runs_count(checkpoint):
    task = Task()
    task.earlier_seconds = 1000.0
    assert 1000 <= go(task, checkpoint).seconds < 1100


def test_the_same_again_shows_the_record_and_does_not_work(checkpoint, capsys):
    task = Task()
    first = go(task, checkpoint)
    capsys.readouterr()
    assert go(task, checkpoint) == first
    assert task.worked == 1
    assert "already recorded" in capsys.readouterr().out


def test_options_that_a_record_cannot_follow_are_said_to_be_ignored(checkpoint, capsys):
    task = Task()
    task.EXTRAS = ("save_predictions",)
    go(task, checkpoint, save_predictions=False)
    go(task, checkpoint, save_predictions=False, method="DINO")  # the name that it has
    assert "ignored" not in capsys.readouterr().out
    go(task, checkpoint, save_predictions=True, method="Mine")
    assert "--method, --save-predictions ignored (--force applies it)" in capsys.readouterr().out
    assert task.worked == 1


@pytest.mark.parametrize("name", tasks.names())
def test_extras_are_options_of_their_task(name):
    task = tasks.load(name)
    assert set(getattr(task, "EXTRAS", ())) <= task.Settings.model_fields.keys()


@pytest.mark.parametrize("change", ["checkpoint", "network", "protocol", "data", "--force"])
def test_anything_else_runs_and_is_recorded_beside_it(checkpoint, change, tmp_path):
    task, options = Task(), {}
    first = go(task, checkpoint)
    before = first.path.read_bytes()
    if change == "checkpoint":
        options["records"], checkpoint = checkpoint.parent / "records", write_checkpoint(tmp_path / "other.pth", seed=1)
    elif change == "network":
        options["which"] = "student"
    elif change == "protocol":
        task.top_k = 7
    elif change == "data":
        task.data = "b" * 64
    second = go(task, checkpoint, force=change == "--force", **options)
    assert task.worked == 2
    assert second.path != first.path
    assert first.path.read_bytes() == before
    assert go(task, checkpoint, **options) in (first, second)  # each is found again
    assert task.worked == 2


def test_another_number_of_heads_is_another_result(tmp_path):
    """The weights are the same, the features are not."""
    torch.manual_seed(0)
    model = VisionTransformer(embed_dim=24, depth=2, heads=3, img_size=32)
    torch.save(model.state_dict(), tmp_path / "bare.pth")  # no metadata: --heads tells
    task = Task()
    records = {heads: go(task, tmp_path / "bare.pth", heads=heads) for heads in (3, 6)}
    assert task.worked == 2
    assert {heads: record.arch["heads"] for heads, record in records.items()} == {3: 3, 6: 6}
    assert go(task, tmp_path / "bare.pth", heads=6) == records[6]
    assert task.worked == 2


class TestOrder:
    """What is cheap and what is the user's comes before the work."""

    def test_arguments_and_data_before_the_checkpoint(self, tmp_path):
        task = Task()
        task.open = lambda settings: (_ for _ in ()).throw(UserError("no such data"))
        with pytest.raises(UserError, match="no such data"):
            go(task, tmp_path / "nowhere.pth")

    def test_the_checkpoint_before_the_work(self, tmp_path):
        task = Task()
        with pytest.raises(UserError, match="no such checkpoint"):
            go(task, tmp_path / "nowhere.pth")
        assert task.worked == 0

    def test_a_place_for_the_record_before_the_work(self, checkpoint):
        task = Task()
        (checkpoint.parent / "file").write_text("")
        with pytest.raises(UserError, match="--records"):
            go(task, checkpoint, records=checkpoint.parent / "file" / "records")
        assert task.worked == 0

    def test_a_failed_evaluation_leaves_no_record(self, checkpoint):
        task = Task()
        task.evaluate = lambda *_: (_ for _ in ()).throw(UserError("an image is missing"))
        with pytest.raises(UserError, match="an image is missing"):
            go(task, checkpoint)
        assert not (checkpoint.parent / "records").exists()


def test_a_figure_without_a_value_is_noted_not_recorded(checkpoint):
    task = Task()
    task.metrics = {"mask AP": 3.0, "mask AP/zebra": float("nan")}
    record = go(task, checkpoint)
    assert record.metrics == {"mask AP": 3.0}
    assert "mask AP/zebra has no value" in record.notes


def test_the_users_name_for_the_method(checkpoint):
    assert go(Task(), checkpoint, method="iBOT").method == "iBOT"


def test_a_method_that_the_file_does_not_tell_is_asked_for(tmp_path, capsys):
    torch.manual_seed(0)
    model = VisionTransformer(embed_dim=24, depth=2, heads=3, img_size=32)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "anyone.pth")
    options = {"heads": 3, "records": tmp_path / "records"}
    assert go(Task(), tmp_path / "anyone.pth", **options).method == "ViT"
    assert "called ViT: name it with --method" in capsys.readouterr().out
    assert go(Task(), tmp_path / "anyone.pth", method="iBOT", force=True, **options).method == "iBOT"
    assert "name it with" not in capsys.readouterr().out


def test_tasks_are_found_by_name():
    found = set(tasks.names())
    assert {"davis", "coco", "ade20k"} <= found
    assert not found & {"run", "record", "convert", "jf", "backbone", "training"}  # modules beside the tasks


@pytest.mark.parametrize("name", tasks.names())
def test_every_task_follows_the_contract(name):
    task = tasks.load(name)
    assert all(callable(getattr(task, part)) for part in ("open", "protocol", "evaluate"))
    assert issubclass(task.Settings, TaskSettings)
    assert isinstance(task.MEASURE, Measure)
    assert task.TITLE
    assert task.HEADLINE


def test_from_python_a_setting_is_checked_as_an_option_is(checkpoint):
    with pytest.raises(UserError, match="unknown setting topkk: did you mean topk"):
        run.evaluate("davis", checkpoint, topkk=3)
    with pytest.raises(UserError, match="topk=0: must be 1 or more"):
        run.evaluate("davis", checkpoint, topk=0)


def command(*arguments, cwd):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    call = [sys.executable, "-m", "selfpatch.eval.run", *map(str, arguments)]
    return subprocess.run(call, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("no-such-task", "x.pth"), "unknown task 'no-such-task'"),
        (("davis", "x.pth", "--data", "nowhere"), "nowhere"),
        (("davis",), "checkpoint"),
        ((), "task"),
    ],
)
def test_a_mistake_costs_a_line_and_status_2(arguments, told, tmp_path):
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["text", "truncated", "a tensor lacking", "a tensor too many", "a pickled call"])
def test_a_bad_checkpoint_costs_one_line(kind, checkpoint, capsys):
    """The door's own tests try every tensor; this is the way of one of each through the command."""
    content = torch.load(checkpoint, weights_only=True)
    if kind == "text":
        checkpoint.write_text("weights\n")
    elif kind == "truncated":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-2000])
    elif kind == "a tensor lacking":
        del content["state_dict"]["teacher.backbone.blocks.1.norm2.bias"]
        torch.save(content, checkpoint)
    else:
        content["state_dict"]["teacher.backbone.blocks.1.norm3.bias"] = torch.zeros(24)
        torch.save(content, checkpoint)
    task = Task()
    with pytest.raises(UserError) as error:
        go(task, checkpoint)
    assert "\n" not in str(error.value)
    assert str(checkpoint) in str(error.value)
    if "tensor" in kind:
        assert "blocks.1.norm" in str(error.value)
    assert task.worked == 0


def test_a_call_that_a_checkpoint_pickles_is_not_made(checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    content["meta"]["config"] = RunsCode(checkpoint.parent / "ran")
    torch.save(content, checkpoint)
    go(task := Task(), checkpoint)
    assert task.worked == 1
    assert not (checkpoint.parent / "ran").exists()


class RunsCode:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def test_help_shows_a_tasks_own_options(tmp_path):
    done = command("davis", "--help", cwd=tmp_path)
    assert done.returncode == 0
    for option in ("--data", "--records", "--heads", "--unsafe-load", "--force"):
        assert option in done.stdout
    assert "selfpatch.eval.run davis checkpoint.pth" in done.stdout


def test_a_record_is_json_that_other_tools_read(checkpoint):
    path = go(Task(), checkpoint).path
    record = json.loads(path.read_text(), parse_constant=lambda constant: pytest.fail(constant))
    assert np.load(path.parent / record["units"])["J"].tolist() == [0.0, 1.0, 2.0]
