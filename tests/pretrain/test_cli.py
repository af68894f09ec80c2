"""What every command does the same way where nobody reads its output to the end."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMAND = """
from selfpatch.pretrain.cli import run_command
run_command(lambda argv: print("x" * int(argv[0]), flush=True))
"""
OTHER_PIPE = """
import os
from selfpatch.pretrain.cli import run_command

def main(argv):
    reader, writer = os.pipe()
    os.close(reader)
    os.write(writer, b"x")

run_command(main)
"""


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_reader_that_goes_early_costs_no_word(size):
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(size)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()  # as head does
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(60) == 141


def test_another_broken_pipe_is_an_error():
    done = subprocess.run([sys.executable, "-c", OTHER_PIPE], capture_output=True, text=True)
    assert done.returncode == 1
    assert "BrokenPipeError" in done.stderr
