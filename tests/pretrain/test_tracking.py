"""Curves reach the tracker that was asked for, on this machine."""

import importlib.util
import subprocess
import sys

import mmengine.visualization  # noqa: F401 - registers the backends
import pytest
from mmengine.registry import VISBACKENDS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from selfpatch.pretrain import tracking
from selfpatch.pretrain.cli import UserError


@pytest.mark.parametrize("tracker", tracking.TRACKERS)
def test_every_tracker_is_a_backend_of_mmengine_that_writes_into_the_work_dir(tracker, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: True)
    monkeypatch.delenv("CLEARML_OFFLINE_MODE", raising=False)
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    first, *others = tracking.backends(tracker, tmp_path / "run")
    assert first == {"type": "TensorboardVisBackend"}
    assert len(others) == (tracker != "tensorboard")
    for config in others:
        backend = VISBACKENDS.build({"save_dir": str(tmp_path), **config})  # nothing is opened before the first curve
        assert type(backend).__name__ == config["type"]


def test_a_tracker_that_is_not_installed_costs_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--log-to aim needs its package: pip install aim"):
        tracking.backends("aim", tmp_path)


@pytest.mark.skipif(not importlib.util.find_spec("mlflow"), reason="no MLflow here")
def test_mlflows_file_store_holds_the_curves_of_a_pretraining(photos, command, run, tmp_path):
    done = run(command(photos, tmp_path / "run", "--log-to", "mlflow"))
    assert done.returncode == 0, done.stderr
    (curve,) = (tmp_path / "run/mlruns").rglob("metrics/loss")
    values = [float(line.split()[1]) for line in curve.read_text().splitlines()]
    (events,) = (tmp_path / "run").rglob("events.out.*")
    board = EventAccumulator(str(events)).Reload()
    assert values == pytest.approx([event.value for event in board.Scalars("loss")], rel=1e-6)
    assert all(0 < value < 100 for value in values)


@pytest.mark.skipif(not importlib.util.find_spec("mlflow"), reason="no MLflow here")
def test_mlflow_neither_reports_its_use_nor_leaves_a_thread(tmp_path):
    code = f"""
import threading
from pathlib import Path
from mmengine.registry import VISBACKENDS
import mmengine.visualization
from selfpatch.pretrain import tracking
backend = VISBACKENDS.build(tracking.backends("mlflow", Path({str(tmp_path / "run")!r}))[1])
backend.add_scalar("loss", 1.0, 1)
from mlflow.telemetry.client import get_telemetry_client
assert get_telemetry_client() is None
assert [one for one in threading.enumerate() if not one.daemon] == [threading.main_thread()]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
