"""Without mmcv, mmdet and mmseg (the first stage of the set-up): what must work, and what tells that they lack."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ABSENT = """
import importlib, runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("mmcv", "mmdet", "mmseg", "faster_coco_eval"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""
MODULES = (
    "pretrain.train pretrain.swin eval.run eval.tasks.davis eval.tasks.knn eval.tasks.linear eval.checkpoints.load "
    "eval.checkpoints.export eval.checkpoints.convert eval.tasks.coco eval.tasks.ade20k "
    "eval.measures.jf eval.studies.sweep eval.datasets.prepare eval.all reports.report"
)


def run(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", ABSENT + code], capture_output=True, text=True, env=environment, timeout=100
    )


@pytest.fixture
def environment() -> dict[str, str]:

    return {name: value for name, value in os.environ.items() if name != "SELFPATCH_SETUP"}


def test_all_that_trains_no_detector_needs_no_operators(environment):
    done = run(f"for name in {MODULES.split()!r}: importlib.import_module('selfpatch.' + name)", environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["dense.detection", "dense.coco_metric", "dense.segmentation"])
def test_what_needs_them_says_so_in_one_line(environment, module):
    code = (
        "from selfpatch.eval.dense.require import import_dense\n"
        "from selfpatch.pretrain.cli import run_command\n"
        f"run_command(lambda _: import_dense('selfpatch.eval.{module}'))"
    )
    done = run(code, environment)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: this needs ")
    assert "tools/setup.sh --dense" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_in_a_checkout_they_are_installed_at_that_moment(environment, tmp_path):
    setup = tmp_path / "setup.sh"
    setup.write_text('#!/bin/sh\necho "$@"\nexit 3\n')
    setup.chmod(0o755)
    code = "from selfpatch.eval.dense.require import import_dense; import_dense('mmdet')"
    done = run(code, {**environment, "SELFPATCH_SETUP": str(setup)})
    assert (done.returncode, done.stdout) == (3, "--quiet --dense\n"), done.stderr
