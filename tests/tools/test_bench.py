"""The benchmark's table: which sides run, and each aim beside what came out."""

import importlib
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    monkeypatch.setenv("SELFPATCH_PUBLISHED", "")
    module = importlib.import_module("bench")
    seconds = {"plain": 3.0, "published": 2.0, "ours": 0.5, "packed": 0.1, "ours there": 1.0, "packed there": 0.11}
    found = {name: {"seconds": value, "memory": 100.0, "result": []} for name, value in seconds.items()}
    monkeypatch.setattr(module, "measure", lambda case, side: found[side.name])
    return module


def test_an_aim_stands_beside_what_came_out(bench, monkeypatch, tmp_path, capsys):
    for name in ("main_selfpatch.py", "selfpatch_vision_transformer.py"):
        (tmp_path / name).touch()
    bench.compare("augment", 1, None)
    *_, plain, ours = capsys.readouterr().out.splitlines()
    assert plain.split()[0] == "plain"  # no checkout, no published side
    assert ours.split() == ["ours", "500.00", "100", "6.00x", "3x", "published"]  # its aim is told all the same
    monkeypatch.setenv("SELFPATCH_PUBLISHED", str(tmp_path))
    bench.compare("augment", 1, None)
    (ours,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ours")]
    assert ours.split() == ["ours", "500.00", "100", "6.00x", "3x", "published", "4.00x"]


def test_another_version_of_the_project_is_measured_beside_this_one(bench, tmp_path, capsys):
    sides = bench.sides_of("jf", tmp_path)
    assert [(side.name, side.tools) for side in sides] == [("packed there", tmp_path / "tools"), ("packed", TOOLS)]
    bench.compare("jf", 1, tmp_path)
    assert capsys.readouterr().out.splitlines()[-1].endswith("1.10x   1x packed there       1.10x     ")
