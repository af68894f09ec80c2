"""The demo's command line: every mistake costs one line, before anything is set up."""

from __future__ import annotations

import subprocess
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
