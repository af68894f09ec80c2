"""The full-size rehearsals run, at a hundredth of a hundredth of their size."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[1] / "rehearsal.py"


@pytest.mark.parametrize(("what", "said"), [("imagenet", "is ready"), ("coco", "is ready"), ("scores", "mask AP")])
def test_a_small_rehearsal_runs(tmp_path, what, said):
    command = [sys.executable, str(TOOL), what, "--share", "0.0002"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout
    assert "s on a processor" in done.stdout
    assert not list(tmp_path.iterdir())
