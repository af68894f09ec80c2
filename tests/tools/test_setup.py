"""The set-up with a stand-in for Python: one at a time, nothing left at work, and what is half made is made anew."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

SETUP = Path(__file__).resolve().parents[2] / "tools" / "setup.sh"
# Answers as Python, pip and mmcv's compilers; a file `works` says that mmcv can be imported, `slow` that it builds
# for a minute.
PYTHON = r"""#!/usr/bin/env bash
here="$(dirname "${BASH_SOURCE[0]}")"
case "$*" in
    *version_info*) exit 0 ;;
    *base_prefix*) cat "$here/identity" 2>/dev/null || echo "one python" ;;
    "-m venv "*)
        mkdir -p "${@: -1}/bin"
        cp "${BASH_SOURCE[0]}" "${@: -1}/bin/python"
        touch "${@: -1}/bin/pip"
        echo venv >>"$LOG" ;;
    *ensurepip*) exit 1 ;;
    *pip*--version) [ -e "$here/pip" ] ;;
    *"install -v"*) if [ -e "$ROOT/slow" ]; then sleep 60 & echo $! >"$ROOT/compiler"; wait; fi; touch "$ROOT/works" ;;
    *pip*) echo pip >>"$LOG" ;;
    "-c import mmcv.ops") [ -e "$ROOT/works" ] ;;
    *torch.cuda*) exit 1 ;;
    *) exit 0 ;;
esac
"""


@pytest.fixture
def tree(tmp_path) -> Path:
    """A tree with the set-up and nothing else that is real."""
    root = tmp_path / "tree"
    (root / "tools").mkdir(parents=True)
    shutil.copy(SETUP, root / "tools" / "setup.sh")
    (root / "pyproject.toml").write_text("")
    (root / "constraints.txt").write_text("torch==1\nonedl-mmcv==1\nopencv-python-headless==1\n")
    (root / "python").write_text(PYTHON)
    (root / "python").chmod(0o755)
    return root


def start(tree: Path, *words: str, python: str | None = None) -> subprocess.Popen:
    environment = {**os.environ, "ROOT": str(tree), "LOG": str(tree / "log")}
    environment["SELFPATCH_PYTHON"] = python or str(tree / "python")
    return subprocess.Popen(
        ["bash", tree / "tools/setup.sh", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored if the tests run in the background
    )


def end(process: subprocess.Popen) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def wait_for(path: Path) -> str:
    limit = time.monotonic() + 60
    while not (path.is_file() and path.read_text()):
        assert time.monotonic() < limit
        time.sleep(0.05)
    return path.read_text()


def test_a_second_run_does_nothing(tree):
    assert end(start(tree))[0] == 0
    done = (tree / "log").read_text()
    status, output, _ = end(start(tree))
    assert (status, (tree / "log").read_text()) == (0, done)
    assert "ready" in output
    assert end(start(tree, "--quiet")) == (0, "", "")


def test_operators_are_compiled_by_the_second_stage_alone(tree):
    assert end(start(tree))[0] == 0
    assert not (tree / "works").exists()
    status, output, _ = end(start(tree, "--dense", "--quiet"))
    assert (status, (tree / "works").exists()) == (0, True)
    assert "compiling mmcv's operators" in output
    assert (tree / "log").read_text().count("venv") == 1
    assert end(start(tree, "--dense", "--quiet")) == (0, "", "")


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt"])
def test_each_stage_is_done_anew_when_what_it_depends_on_changes(tree, file):
    assert end(start(tree, "--dense"))[0] == 0
    with open(tree / file, "a") as content:
        content.write("# changed\n")
    for words in ([], ["--dense"]):
        done = (tree / "log").read_text()
        assert end(start(tree, *words))[0] == 0
        assert (tree / "log").read_text() > done


def test_an_environment_without_pip_is_made_anew(tree):
    assert end(start(tree))[0] == 0
    (tree / ".venv/bin/pip").unlink()
    (tree / ".venv/.selfpatch-ready").unlink()
    assert end(start(tree))[0] == 0
    assert (tree / "log").read_text().count("venv") == 2


def test_another_python_than_the_environments_is_refused(tree):
    assert end(start(tree))[0] == 0
    other = shutil.copytree(tree, tree.parent / "other") / "python"
    (other.parent / "identity").write_text("another python")
    status, _, errors = end(start(tree, python=str(other)))
    assert status == 2
    made = f"{tree}/.venv was made with another Python than SELFPATCH_PYTHON={other}"
    assert errors == f"error: {made}: remove {tree}/.venv, or unset it\n"


@pytest.mark.parametrize("python", ["/nowhere/python", "/bin/false"])
def test_a_python_that_will_not_do_is_named(tree, python):
    status, _, errors = end(start(tree, python=python))
    assert (status, errors) == (2, f"error: SELFPATCH_PYTHON={python} is not Python 3.10-3.12 with venv\n")


def test_help_and_unknown_words(tree):
    status, output, _ = end(start(tree, "--help"))
    assert status == 0
    assert "SELFPATCH_PYTHON=" in output
    assert end(start(tree, "--quite")) == (2, "", "error: unknown option --quite (tools/setup.sh --help)\n")
    assert not (tree / ".venv").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_set_up_leaves_no_build_behind(tree, number, status):
    (tree / "slow").touch()
    process = start(tree, "--dense")
    compiler = Path(f"/proc/{wait_for(tree / 'compiler').strip()}")
    process.send_signal(number)
    assert end(process)[0] == status
    limit = time.monotonic() + 10
    while compiler.exists() and ") Z" not in (compiler / "stat").read_text():
        assert time.monotonic() < limit
        time.sleep(0.05)
    (tree / "slow").unlink()
    assert end(start(tree, "--dense"))[0] == 0  # and the same command goes on


@pytest.mark.skipif(not shutil.which("flock"), reason="no flock here")
def test_a_second_set_up_waits_for_the_first(tree):
    (tree / "slow").touch()
    first = start(tree, "--dense")
    compiler = int(wait_for(tree / "compiler"))
    second = start(tree, "--dense")
    assert "another set-up is at work" in second.stdout.readline()
    os.kill(compiler, signal.SIGTERM)  # it is done
    assert end(first)[0] == 0
    assert end(second)[0] == 0
    assert (tree / "log").read_text().count("venv") == 1
