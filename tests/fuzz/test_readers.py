"""A few hundred mutated files; the long run is documented in ``readers.py``."""

import subprocess
import sys
from pathlib import Path


def test_readers_give_a_result_or_one_line_whatever_a_file_holds():
    command = [sys.executable, str(Path(__file__).with_name("readers.py")), "--cases", "300"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-5000:]
    assert len(done.stdout.splitlines()) == 6
