"""Sweeps: a grid is checked before it runs; nothing finished is done twice, whatever was killed; failures are told.

The cells' processes are stubs, but for one pretraining and evaluation of real, tiny networks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import yaml
from PIL import Image

from selfpatch.eval.studies import sweep
from selfpatch.eval.studies.grid import Grid, read_grid
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.train import CONFIGS
from selfpatch.reports.ablation import ablation_tables, to_sheet
from selfpatch.reports.frames import load_sweep
from selfpatch.reports.record import Record

TINY = {
    "model.backbone": {"embed_dim": 24, "depth": 1, "heads": 3, "img_size": 64},
    "model": {"out_dim": 32, "hidden_dim": 16, "bottleneck_dim": 8, "patch_out_dim": 16},
    "views.global1": {"size": 64},
    "views.global2": {"size": 64},
    "views.local": {"size": 48, "count": 1},
    "data": {"batch_size": 4, "workers": 0},
    "schedule": {"epochs": 2, "warmup_epochs": 1},
}
STUBS = """
import json, os, sys, time
from pathlib import Path

kind, *argv = sys.argv[1:]
log = Path(os.environ["CALLS"])

def say(what):
    with open(log, "a") as file:
        file.write(json.dumps(what) + "\\n")

if kind == "report":
    out = Path(argv[argv.index("--out") + 1])
    out.mkdir(exist_ok=True)
    (out / "report.html").write_text(" ".join(argv))
elif kind == "pretrain":
    work = Path(argv[argv.index("--work-dir") + 1])
    k = next(int(word.split("=")[1]) for word in argv if word.startswith("model.k="))
    if (work / "checkpoint.pth").exists():
        sys.exit(0)  # nothing left to do
    say(["pretrain", k, (work / "half").exists()])
    work.mkdir(parents=True, exist_ok=True)
    (work / "half").touch()
    while k == 4 and "HOLD" in os.environ and not Path(os.environ["HOLD"]).exists():
        time.sleep(0.05)
    if k == 8 and not os.environ.get("MENDED"):
        print("loading")
        print("error: the loss is not finite", file=sys.stderr)
        print("a process that ended said so", file=sys.stderr)
        sys.exit(2)
    (work / "checkpoint.pth").write_text(str(k))
    say(["trained", k])
else:
    from selfpatch.reports.record import Record
    task, checkpoint = argv[:2]
    k = int(Path(checkpoint).read_text())
    records = Path(argv[argv.index("--records") + 1])
    of = " ".join(word for word in argv if word.startswith("--k="))
    for path in sorted(records.glob(f"{task}-*.json")):
        known = json.loads(path.read_text())
        if (known["checkpoint_sha256"], known["split"]) == (f"{k:064}", of):
            Path(argv[argv.index("--record-path") + 1]).write_text(f"{path}\\n")
            sys.exit(0)
    say(["evaluate", k])
    if k == 2 and not os.environ.get("MENDED"):
        sys.exit("out of memory")
    texts = ("dataset", "dataset_fingerprint", "method", "checkpoint", "weights_sha256", "device", "started")
    record = dict.fromkeys(texts, "x") | {"certificate": [], "notes": [], "versions": {}, "config": None}
    record.update(task=task, protocol={"name": "stub", "parameters": {}}, metrics={"top-1": 50.0 + k}, seed=0)
    record.update(split=of, checkpoint_sha256=f"{k:064}", pretrain_epochs=1, arch={"name": "vit"})
    record.update(seconds=1.0, miniature=True)
    path = Record.model_validate(record).write(records, {}).path
    Path(argv[argv.index("--record-path") + 1]).write_text(f"{path}\\n")
"""
DRIVER = """
import sys
from selfpatch.eval.studies import sweep
from selfpatch.pretrain.cli import run_command
sweep.PRETRAIN = (sys.executable, {stubs!r}, "pretrain")
sweep.EVALUATE = (sys.executable, {stubs!r}, "evaluate")
sweep.REPORT = (sys.executable, {stubs!r}, "report")
run_command(sweep.main)
"""


def write_images(root: Path) -> Path:
    random = np.random.default_rng(0)
    for kind, scale in (("coarse", 12), ("fine", 3)):
        (root / kind).mkdir(parents=True)
        for number in range(6):
            small = random.integers(0, 256, (72 // scale, 72 // scale, 3), dtype=np.uint8)
            Image.fromarray(np.kron(small, np.ones((scale, scale, 1), np.uint8))).save(root / kind / f"{number}.png")
    return root


@pytest.fixture
def grid(tmp_path):
    """Writes a grid, by default of one axis over k and with k-NN to score it, and returns its path."""
    images = write_images(tmp_path / "images")

    def write(drop: str = "", **changes) -> Path:
        content = {
            "name": "test",
            "config": "selfpatch_toy",
            "data": str(images),
            "axes": {"model.k": [1, 4]},
            "evaluate": [{"task": "knn", "options": {"data": str(images), "k": 3, "crop": 64}}],
            **changes,
        }
        content = {key: value for key, value in content.items() if key != drop and value is not None}
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


@pytest.fixture
def stubs(tmp_path, monkeypatch) -> Path:
    """Stub commands in place of the real ones; the file lists their calls."""
    script, calls = tmp_path / "stubs.py", tmp_path / "calls.jsonl"
    script.write_text(STUBS)
    (tmp_path / "driver.py").write_text(DRIVER.format(stubs=str(script)))
    calls.touch()
    monkeypatch.setenv("CALLS", str(calls))
    monkeypatch.setattr(sweep, "PRETRAIN", (sys.executable, str(script), "pretrain"))
    monkeypatch.setattr(sweep, "EVALUATE", (sys.executable, str(script), "evaluate"))
    monkeypatch.setattr(sweep, "REPORT", (sys.executable, str(script), "report"))
    monkeypatch.chdir(tmp_path)
    return calls


def calls_of(stubs: Path) -> list:
    lines = [json.loads(line) for line in stubs.read_text().splitlines()]
    stubs.write_text("")
    return lines


def statuses() -> list[str]:
    return [cell["status"] for cell in json.loads(Path("work_dirs/sweeps/test/sweep.json").read_text())["cells"]]


# --- the grid --------------------------------------------------------------------------------------------------------


def test_axes_become_every_combination_in_order(grid):
    made = read_grid(grid(axes={"model.k": [1, 4], "model.neighbourhood": [3, "all"]}))
    assert [cell.name for cell in made.cells] == [
        "k=1,neighbourhood=3",
        "k=1,neighbourhood=all",
        "k=4,neighbourhood=3",
        "k=4,neighbourhood=all",
    ]
    assert made.cells[1].settings == {"model.k": 1, "model.neighbourhood": "all"}
    assert made.cells[1].pretrain_argv[:4] == ["selfpatch_toy", "--cfg-options", "model.k=1", "model.neighbourhood=all"]


def test_listed_cells_show_what_differs_between_them(grid):
    cells = [
        {"name": "one", "options": {"model.k": 1}},
        {"name": "whole", "options": {"model.neighbourhood": "all"}},
        {"name": "dino", "config": "dino_toy"},
    ]
    made = read_grid(grid(axes=None, cells=cells))
    assert made.axes == {
        "cell": ["one", "whole", "dino"],
        "config": ["selfpatch_toy", "dino_toy"],
        "model.k": [1, 4, "default"],
        "model.neighbourhood": [3, "all", "default"],
    }
    own = {"config": "selfpatch_toy", "model.k": 4, "model.neighbourhood": "all"}
    assert made.cells[1].settings == {"cell": "whole", **own}


def test_equal_networks_are_one_however_they_are_spelt(grid):
    cells = [{"name": "plain"}, {"name": "spelt", "options": {"model.k": 4}}, {"name": "k1", "options": {"model.k": 1}}]
    plain, spelt, other = read_grid(grid(axes=None, cells=cells)).cells
    assert plain.pretrain_id == spelt.pretrain_id != other.pretrain_id


def test_a_listed_cell_names_those_it_is_compared_with(grid, stubs):
    cells = [{"name": "k4"}, {"name": "k1", "options": {"model.k": 1}, "against": "k4"}]
    path = grid(axes=None, cells=cells, seeds=[0, 1])
    assert [cell.against for cell in read_grid(path).cells] == [(), (), ("k4",), ("k4",)]
    sweep.main([str(path)])
    written = load_sweep("work_dirs/sweeps/test/sweep.json")["cells"]
    assert [cell["against"] for cell in written] == [[], [], ["k4"], ["k4"]]


def test_every_setting_is_trained_with_every_seed(grid):
    made = read_grid(grid(seeds=[0, 7]))
    assert [(cell.name, cell.seed) for cell in made.cells] == [
        *[("k=1,seed=0", 0), ("k=1,seed=7", 7)],
        *[("k=4,seed=0", 0), ("k=4,seed=7", 7)],
    ]
    assert made.axes == {"model.k": [1, 4]}, "a seed is no setting: tables put seeds together"
    assert made.cells[1].settings == {"model.k": 1}
    assert made.cells[1].pretrain_argv[:4] == ["selfpatch_toy", "--cfg-options", "model.k=1", "seed=7"]
    assert len({cell.pretrain_id for cell in made.cells}) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": [0, 1, 0]}, "seed 0 stands twice in seeds"),
        ({"seeds": []}, "seeds is an empty list"),
        ({"seeds": 3}, "seeds=3: expected whole numbers in brackets"),
        ({"seeds": [0, True]}, "seeds=[0, True]: expected whole numbers in brackets"),
        ({"seeds": [-1]}, "seeds=[-1]: must be 0 or more"),
        ({"seeds": [0], "options": {"seed": 3}}, "give either seeds for all settings or the option seed"),
        ({"seeds": [0], "axes": {"seed": [1, 2]}}, "give either seeds for all settings or the option seed"),
        ({"axis": {}}, "unknown key axis: did you mean axes?"),
        ({"axes": {"model.kk": [1]}}, "cell kk=1: unknown config key model.kk: did you mean model.k?"),
        ({"axes": {"model.k": 4}}, "the axis model.k must be a list"),
        ({"axes": {"model.k": [4, 4]}}, "two cells are named k=4"),
        ({"axes": {}}, "there is no cell"),
        ({"axes": None, "cells": [{"name": "a"}, {"name": "b", "against": "c"}]}, "cell b: against c: choose from a"),
        ({"axes": None, "cells": [{"name": "a", "against": ["a"]}]}, "cell a: against a: choose from nothing"),
        ({"cells": [{"name": "one"}]}, "either axes"),
        (
            {"axes": None, "cells": [{"name": "one", "option": {}}]},
            "unknown key cells.1.option: did you mean cells.1.options?",
        ),
        ({"config": "selfpatch_toi"}, "no such config: selfpatch_toi; did you mean selfpatch_toy?"),
        ({"axes": {"config": ["dino_toy", "dino_toi"]}}, "cell dino_toi: no such config"),
        ({"axes": {"model.k": [4, 9]}}, "cell k=9: "),
        ({"axes": {"views.local.size": [64, 16]}}, "cell size=16: "),
        ({"options": {"schedule.warmup_epochs": 30}}, "warmup_epochs=30 is not shorter"),
        ({"data": "nowhere"}, "no such data folder: nowhere"),
        ({"options": [1]}, "options=[1]: expected several keys"),
        ({"evaluate": []}, "evaluate is missing"),
        ({"evaluate": [{"task": "nn"}]}, "unknown task 'nn'"),
        ({"evaluate": [{"task": "knn", "option": {}}]}, "unknown key evaluate.option: did you mean evaluate.options?"),
        ({"evaluate": [{"task": "knn", "options": {"kk": 3}}]}, "--kk=3"),
        ({"evaluate": [{"task": "knn", "options": {"k": "many"}}]}, "--k many: expected a whole number"),
        ({"evaluate": [{"task": "knn", "options": {"data": "nowhere"}}]}, "no such data folder: nowhere"),
        ({"evaluate": [{"task": "knn", "options": {"records": "here"}}]}, "records is not for the grid to choose"),
        ({"name": "pretrained"}, "choose another"),
        ({"drop": "name"}, "there is no key name: it must be given"),
        ({"drop": "config"}, "config is missing"),
    ],
)
def test_a_wrong_grid_costs_one_line_and_nothing_is_run(grid, stubs, changes, words):
    with pytest.raises(UserError) as raised:
        sweep.main([str(grid(**changes))])
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert calls_of(stubs) == []
    assert not Path("work_dirs").exists()


def test_an_out_that_is_a_file_costs_one_line(grid, stubs, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--out .*file is a file"):
        sweep.main([str(grid()), "--out", str(tmp_path / "file")])
    assert calls_of(stubs) == []


@pytest.mark.parametrize("content", ["a: [", "just words", None])
def test_a_file_that_is_no_grid_costs_one_line(tmp_path, content):
    path = tmp_path / "grid.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"grid\.yaml"):
        read_grid(path)


def test_shipped_grids_are_of_known_keys_and_configs(tmp_path, monkeypatch):
    """Each is read, but for its data, which need not be here."""
    monkeypatch.setattr("selfpatch.eval.studies.grid.check_command", lambda task, argv: None)
    paths = sorted((CONFIGS / "sweeps").glob("*.yaml"))
    assert paths
    for path in paths:
        content = {**yaml.safe_load(path.read_text()), "data": str(tmp_path)}
        (tmp_path / path.name).write_text(yaml.safe_dump(content, sort_keys=False))
        made = read_grid(tmp_path / path.name)
        assert made.name == path.stem
        assert len(made.cells) >= 2


# --- running ---------------------------------------------------------------------------------------------------------


def test_each_cell_is_trained_and_scored_once(grid, stubs):
    assert sweep.main([str(grid())]) == 0
    assert calls_of(stubs) == [
        *[["pretrain", 1, False], ["trained", 1], ["evaluate", 1]],
        *[["pretrain", 4, False], ["trained", 4], ["evaluate", 4]],
    ]
    folder = Path("work_dirs/sweeps/test")
    told = (folder / "report/report.html").read_text()
    assert f"--records {folder}/records --sweep {folder}/sweep.json" in told
    assert sweep.main([str(grid())]) == 0
    assert calls_of(stubs) == []
    (table,) = ablation_tables(load_sweep("work_dirs/sweeps/test/sweep.json"))
    assert [head.name for head in to_sheet(table).heads] == ["k", "top-1"]
    assert [[cell.text for cell in row] for row in to_sheet(table).rows] == [["1", "51.0"], ["4", "54.0"]]


def test_cells_run_side_by_side(grid, stubs, monkeypatch):
    """The first waits for a file that the second's end makes: one at a time would never end."""
    monkeypatch.setenv("HOLD", "released")
    watch = Thread(target=lambda: (wait_for(stubs, ["trained", 1]), Path("released").touch()))
    watch.start()
    assert sweep.main([str(grid(axes={"model.k": [4, 1]})), "--parallel", "2"]) == 0
    watch.join()
    assert statuses() == ["done", "done"]
    with pytest.raises(UserError, match="--parallel 0: must be 1 or more"):
        sweep.main([str(grid()), "--parallel", "0"])


def wait_for(stubs: Path, call: list) -> None:
    deadline = time.monotonic() + 60
    while call not in [json.loads(line) for line in stubs.read_text().splitlines()]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_changed_grid_does_only_what_is_new(grid, stubs):
    sweep.main([str(grid())])
    calls_of(stubs)
    sweep.main([str(grid(axes={"model.k": [4, 6]}))])
    assert [call[:2] for call in calls_of(stubs)] == [["pretrain", 6], ["trained", 6], ["evaluate", 6]]
    other = {"task": "knn", "options": {"data": str(Path("images").resolve()), "k": 1}}
    sweep.main([str(grid(evaluate=[other]))])
    assert calls_of(stubs) == [["evaluate", 1], ["evaluate", 4]]


def test_another_sweep_shares_the_networks(grid, stubs):
    sweep.main([str(grid())])
    calls_of(stubs)
    sweep.main([str(grid(name="other"))])
    assert calls_of(stubs) == [["evaluate", 1], ["evaluate", 4]]


def test_a_failed_cell_is_told_the_others_go_on_and_it_is_tried_again(grid, stubs, capsys, monkeypatch):
    path = grid(axes={"model.k": [8, 2, 1]})
    assert sweep.main([str(path)]) == 1
    assert statuses() == ["failed", "failed", "done"]
    said = capsys.readouterr().out
    assert "failed: k=8: pretraining: the loss is not finite" in said
    assert "failed: k=2: knn: out of memory" in said
    (table,) = ablation_tables(load_sweep("work_dirs/sweeps/test/sweep.json"))
    texts = [cell.text for cell in to_sheet(table).rows[0]]
    assert texts == ["8", "–", "failed: pretraining: the loss is not finite"]
    calls_of(stubs)
    monkeypatch.setenv("MENDED", "1")
    assert sweep.main([str(path)]) == 0
    assert calls_of(stubs) == [["pretrain", 8, True], ["trained", 8], ["evaluate", 8], ["evaluate", 2]]
    assert statuses() == ["done"] * 3


def test_a_record_that_is_gone_is_made_again(grid, stubs):
    sweep.main([str(grid())])
    calls_of(stubs)
    next(Path("work_dirs/sweeps/test/records").glob("*.json")).unlink()
    sweep.main([str(grid())])
    assert [call[0] for call in calls_of(stubs)] == ["evaluate"]


@pytest.mark.parametrize("with_children", [True, False])
def test_a_killed_sweep_goes_on(grid, stubs, with_children):
    """kill -9 while the second cell trains: of the sweep and its children, or of the sweep alone."""
    words = [sys.executable, "driver.py", str(grid(axes={"model.k": [1, 4, 6]}))]
    environment = {**os.environ, "HOLD": "released"}  # the second cell trains until there is a file of this name
    first = subprocess.Popen(words, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    wait_for(stubs, ["pretrain", 4, False])
    if with_children:
        os.killpg(first.pid, signal.SIGKILL)
    else:
        first.kill()
    assert first.wait() == -signal.SIGKILL
    assert statuses() == ["done", "pending", "pending"]
    if with_children:
        Path("released").touch()
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as again:
        for line in again.stdout:
            if "waiting for" in line:
                assert not with_children
                Path("released").touch()
    assert again.returncode == 0
    expected = [["pretrain", 1, False], ["trained", 1], ["evaluate", 1], ["pretrain", 4, False]]
    if with_children:
        expected += [["pretrain", 4, True], ["trained", 4], ["evaluate", 4]]
    else:  # the orphan ends first; then its network is there already
        expected += [["trained", 4], ["evaluate", 4]]
    assert calls_of(stubs) == [*expected, ["pretrain", 6, False], ["trained", 6], ["evaluate", 6]]
    assert statuses() == ["done"] * 3


def test_cells_run_as_jobs(grid, stubs, tmp_path):
    """With submitit's executor of processes in the place of Slurm's."""
    submitit = pytest.importorskip("submitit")
    made = read_grid(grid(axes={"model.k": [8, 1]}))
    place = sweep.Place(Path("work_dirs/sweeps"), "test")
    os.environ["PYTHONPATH"] = str(tmp_path)  # jobs import what they are given
    try:
        executor = submitit.LocalExecutor(tmp_path / "jobs")
        states = sweep.run_jobs(place, made, StubbedExecutor(executor, stubs), poll=0.2)
    finally:
        del os.environ["PYTHONPATH"]
    assert [states[name]["status"] for name in ("k=8", "k=1")] == ["failed", "done"]
    assert statuses() == ["failed", "done"]


class StubbedExecutor:
    """Sets the stub commands in the job's process too."""

    def __init__(self, executor, stubs: Path) -> None:
        self.executor, self.commands = executor, (sweep.PRETRAIN, sweep.EVALUATE)

    def submit(self, function, *args):
        commands = self.commands

        def job():
            from selfpatch.eval.studies import sweep

            sweep.PRETRAIN, sweep.EVALUATE = commands
            return function(*args)

        return self.executor.submit(job)


def test_without_slurm_its_launcher_costs_one_line(grid, stubs, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="--launcher slurm: "):
        sweep.main([str(grid()), "--launcher", "slurm"])


def test_without_submitit_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install -e \.\[slurm\]"):
        sweep.slurm_executor(sweep.Place(Path("work_dirs"), "test"), Grid("test", {}, []))


def test_real_networks_are_trained_and_scored(grid, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = {f"{part}.{key}": value for part, keys in TINY.items() for key, value in keys.items()}
    path = grid(options={**options, "precision": "fp32"}, axes={"model.k": [1]})
    assert sweep.main([str(path)]) == 0, capfd.readouterr().out
    first = only_record()
    assert first.config["model"]["k"] == 1
    assert first.pretrain_epochs == 2
    assert 0 <= first.metrics["top-1"] <= 100
    assert "k-NN" in Path("work_dirs/sweeps/test/report/report.md").read_text()

    assert sweep.main([str(path)]) == 0, capfd.readouterr().out
    assert only_record() == first
    image = tmp_path / "images" / "fine" / "0.png"
    Image.fromarray(np.full((72, 72, 3), 9, np.uint8)).save(image)
    assert sweep.main([str(path)]) == 0, capfd.readouterr().out
    assert only_record().dataset_fingerprint != first.dataset_fingerprint  # the old one is of other data
    assert only_record().checkpoint_sha256 == first.checkpoint_sha256


def only_record() -> Record:
    (cell,) = load_sweep("work_dirs/sweeps/test/sweep.json")["cells"]
    (record,) = cell["records"]
    return record
