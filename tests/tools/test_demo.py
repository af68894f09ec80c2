"""The demo's command line: every mistake costs one line, before anything is set up."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / "tools" / "demo.sh"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--epochs abc", "--epochs abc: give a whole number"),
        ("--epochs 08", "--epochs 08: give a whole number"),
        ("--epochs 0", "--epochs 0: give a whole number"),
        ("--coco .", "--coco needs --data"),
        ("--ade20k .", "--ade20k needs --data"),
        ("--davis .", "--davis needs --data"),
        ("--data .", "--data needs --davis"),
        ("--data", "--data needs a value"),
        ("--data nowhere --davis .", "no such folder: nowhere"),
        ("--dta .", "unknown option --dta"),
    ],
)
def test_a_mistake_costs_one_line(words, told):
    done = subprocess.run(["bash", DEMO, *words.split()], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {told}")
    assert len(done.stderr.splitlines()) == 1


def where(tmp_path: Path, *words: str) -> str:
    """Where a demo would put everything: its own text with what comes after the options replaced."""
    text, _, _ = DEMO.read_text().partition('source "$HERE')
    (tmp_path / "demo.sh").write_text(text + 'echo "$OUT"\n')
    done = subprocess.run(["bash", tmp_path / "demo.sh", *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_own_images_have_a_place_of_their_own(tmp_path):
    (tmp_path / "my photos").mkdir()
    assert where(tmp_path) == "work_dirs/demo"
    assert where(tmp_path, "--data", "my photos/", "--davis", ".") == "work_dirs/demo-my photos"
    assert where(tmp_path, "--data", "my photos", "--davis", ".", "--out", "x") == "x"


def side_by_side(tmp_path: Path, work: str) -> subprocess.Popen:
    """The demo's way to treat its methods, two at a time, with ``work`` as what is done for each (``$1``)."""
    _, begin, rest = DEMO.read_text().partition("METHODS=(")
    text, _, _ = rest.partition("pretrain() {")
    lines = ["set -euo pipefail", 'step() { echo "== $1"; }', begin + text, f"work() {{ {work}; }}"]
    script = tmp_path / "side_by_side.sh"
    script.write_text("\n".join([*lines, "side_by_side work title", "echo end\n"]))
    return subprocess.Popen(["bash", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_methods_at_a_time(tmp_path):
    clock = f'date +%s.%N >"{tmp_path}/$1'
    done = side_by_side(tmp_path, f'{clock}-a"; sleep 0.5; echo did $1; {clock}-b"')
    said, _ = done.communicate(timeout=60)
    assert done.returncode == 0
    methods = ["random", "dino", "selfpatch", "moby"]
    assert sorted(said.splitlines()) == sorted(["== title", "end", *(f"{method}: did {method}" for method in methods)])
    times = {method: [float((tmp_path / f"{method}-{end}").read_text()) for end in "ab"] for method in methods}
    for began, _ in times.values():
        assert sum(begin <= began < end for begin, end in times.values()) <= 2
    assert times["dino"][0] < times["random"][1]


def test_a_method_that_fails_ends_the_demo_and_what_runs_beside_it(tmp_path):
    long = f'echo $BASHPID >"{tmp_path}/pid"; sleep 60'
    failing = 'sleep 0.3; echo "error: no" >&2; return 3'
    done = side_by_side(tmp_path, f"if [ $1 = dino ]; then {failing}; fi; {long}")
    said, _ = done.communicate(timeout=30)
    assert (done.returncode, said) == (3, "== title\ndino: error: no\n")
    assert_ended(tmp_path / "pid")


def test_ctrl_c_ends_both(tmp_path):
    done = side_by_side(tmp_path, f'echo $BASHPID >"{tmp_path}/$1"; sleep 60')
    pids = [tmp_path / "random", tmp_path / "dino"]
    wait_until(lambda: all(pid.exists() and pid.read_text() for pid in pids))
    done.send_signal(signal.SIGINT)
    said, _ = done.communicate(timeout=30)
    assert (done.returncode, said) == (130, "== title\nstopped: the same command goes on\n")
    for pid in pids:
        assert_ended(pid)


def wait_until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.05)


def assert_ended(pid: Path) -> None:
    wait_until(lambda: not Path(f"/proc/{pid.read_text().strip()}").exists())
