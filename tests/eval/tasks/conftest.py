"""Fixtures of the tasks that score labelled folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from labelled_textures import write_checkpoint, write_classes

from selfpatch.eval import run
from selfpatch.reports.record import Record


@pytest.fixture
def textures(tmp_path) -> Path:
    return write_classes(tmp_path / "textures", each=10)


@pytest.fixture
def evaluate(tmp_path, textures, monkeypatch):
    """Runs a task on the textures with a small checkpoint and returns its record."""
    monkeypatch.chdir(tmp_path)

    def go(task: str, *argv: str, checkpoint: Path | None = None, data: Path = textures) -> dict:
        checkpoint = checkpoint or write_checkpoint(tmp_path / "vit.pth")
        before = set(tmp_path.glob("work_dirs/records/*.json"))
        run.main([task, str(checkpoint), "--data", str(data), "--resize", "36", "--crop", "32", *argv])
        (path,) = set(tmp_path.glob("work_dirs/records/*.json")) - before
        return Record.read(path).model_dump() | {"path": path}

    return go
