"""What tests leave at work is named, and does not keep pytest from ending."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEAVES = """
import subprocess, sys, threading
from multiprocessing import get_context
from time import sleep

def test_leaves():
    subprocess.run([sys.executable, "-c", "import subprocess; subprocess.Popen(['sleep', '150'])"], check=True)
    get_context("fork").Process(target=sleep, args=(151,), name="a fork").start()
    threading.Thread(target=sleep, args=(152,), name="a thread").start()
"""


def test_what_is_left_at_work_is_named_and_ended(tmp_path):
    conftest = (ROOT / "tests/conftest.py").read_text()
    (tmp_path / "conftest.py").write_text(conftest + "\n\nSECONDS_TO_NOTICE = SECONDS_TO_END = 0.5\n")
    (tmp_path / "test_leaves.py").write_text(LEAVES)
    words = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", tmp_path]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "1 passed, 1 error" in done.stdout
    assert all(f"'{name}'" in done.stdout for name in ("sleep 150 ", "a fork", "a thread"))
    assert "Timeout" in done.stderr  # Python waited for the thread
