"""Several processes on one machine: what ends one of them is told once, and none outlives the command."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from selfpatch.pretrain import launch as launching
from selfpatch.pretrain.cli import UserError

WORKER = """
import os, sys, time
from pathlib import Path
from selfpatch.pretrain.cli import UserError, run_command
from selfpatch.pretrain.launch import start_distributed

def main(argv):
    start_distributed("pytorch")
    rank = int(os.environ["RANK"])
    Path(f"alive{rank}").write_text(str(os.getpid()))
    what = argv[0]
    if what == "mistake" and rank == 1:
        time.sleep(0.3)  # the other has crashed by then, as it would over a broken connection
        raise UserError("this is wrong: do that")
    if what in ("crash", "mistake"):
        raise ZeroDivisionError(f"in process {rank}")
    if what == "killed" and rank == 1:
        os.kill(os.getpid(), 9)
    if what in ("killed", "work"):
        time.sleep(60)
    os.write(1, f"done {rank} {argv}\\n".encode())  # at once: the two share the output

run_command(main, interrupted="type it again")
"""
LAUNCH = """
import sys
from selfpatch.pretrain.cli import run_command
from selfpatch.pretrain.launch import run_processes
run_command(lambda argv: run_processes(2, "worker", argv), interrupted="type it again")
"""


@pytest.fixture
def launch(tmp_path):
    """Starts two processes of the worker that do what they are told."""
    (tmp_path / "worker.py").write_text(WORKER)

    def start(*words: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", LAUNCH, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )

    return start


def wait_until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def working(folder: Path) -> list[int]:
    """Ids of the workers that have begun."""
    return [int(text) for path in folder.glob("alive*") if (text := path.read_text())]


def lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


def test_all_end_well(launch):
    process = launch("well")
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert sorted(output.splitlines()) == [f"done {rank} ['well', '--launcher', 'pytorch']" for rank in (0, 1)]


@pytest.mark.parametrize(
    ("what", "status", "lines"),
    [
        ("mistake", 2, ["error: this is wrong: do that"]),
        ("killed", 1, ["process 1 of --gpus was ended by SIGKILL (out of memory?)"]),
    ],
)
def test_what_ends_one_process_is_told_in_one_line(launch, what, status, lines):
    process = launch(what)
    _, errors = process.communicate(timeout=100)
    assert (process.returncode, errors.splitlines()) == (status, lines)


def test_a_crash_is_one_traceback(launch):
    process = launch("crash")
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 1
    assert errors.startswith("Traceback")
    assert errors.count("ZeroDivisionError: in process") == 1


@pytest.mark.parametrize(
    ("number", "status", "told"),
    [
        (signal.SIGINT, 130, "stopped: type it again\n"),
        (signal.SIGTERM, 143, "stopped by SIGTERM\n"),
        (signal.SIGKILL, -signal.SIGKILL, ""),
    ],
)
def test_none_outlives_the_command(launch, tmp_path, number, status, told):
    process = launch("work")
    wait_until(lambda: len(working(tmp_path)) == 2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (status, told)
    wait_until(lambda: not any(lives(worker) for worker in working(tmp_path)))


# --- pretraining -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "is there already (epoch 3): add --resume"),
        (["data.batch_size=20"], "24 images do not fill one batch of 20 x 2"),
        (["schedule.warmup_epochs=3"], "warmup_epochs=3 is not shorter"),
        (["model.neighbourhood=5"], "smaller than model.neighbourhood=5"),
    ],
)
def test_what_one_process_would_refuse_is_refused_before_two_start(
    photos, undisturbed, command, run, tmp_path, options, told
):
    done = run([*command(photos, tmp_path if options else undisturbed, *options), "--gpus", "2"])
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert told in done.stderr


def test_a_mistake_that_one_process_meets_on_its_way_costs_one_line(photos, command, run, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    for name in ("03.png", "07.png", "11.png"):
        (folder / name).write_bytes((folder / name).read_bytes()[:300])  # their headers are whole
    done = run([*command(folder, tmp_path / "run", "data.batch_size=2"), "--gpus", "2"])
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "of 24 images cannot be read (at most 1 may)" in done.stderr


@pytest.mark.parametrize(("launcher", "command"), [("pytorch", "torchrun"), ("slurm", "srun")])
def test_a_launcher_that_did_not_start_the_process_is_named(launcher, command, monkeypatch):
    for _, variables in launching.LAUNCHERS.values():
        for name in variables:
            monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=f"{command} did not start this process"):
        launching.start_distributed(launcher)


def test_on_gpus_the_group_is_made_before_the_data_asks_for_its_rank(monkeypatch):
    started = []
    monkeypatch.setattr(launching.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(launching, "init_dist", started.append)
    monkeypatch.setattr(launching.torch.multiprocessing, "set_start_method", lambda *_, **__: None)
    for name in launching.LAUNCHERS["slurm"][1]:
        monkeypatch.setenv(name, "0")
    launching.start_distributed("slurm")
    assert started == ["slurm"]


@pytest.mark.parametrize("count", [0, -1])
def test_a_number_of_processes_is_at_least_one(count):
    with pytest.raises(UserError, match=f"--gpus {count}: must be 1 or more"):
        launching.check_gpus(count)


def test_more_gpus_than_there_are_are_refused(monkeypatch):
    monkeypatch.setattr(launching.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(launching.torch.cuda, "device_count", lambda: 4)
    launching.check_gpus(4)
    with pytest.raises(UserError, match="--gpus 8: this machine has 4"):
        launching.check_gpus(8)
