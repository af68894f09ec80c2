"""Where the curves of a training go: TensorBoard's files, or a tracker's, by mmengine's own backends.

Whatever the tracker, everything stays on this machine: in the folder of the run, for whoever owns it to upload.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from selfpatch.pretrain.cli import UserError

Tracker = Literal["tensorboard", "mlflow", "wandb", "aim", "clearml"]
TRACKERS: tuple[str, ...] = get_args(Tracker)
QUIET = ("DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY")


def backends(tracker: str, work_dir: Path) -> list[dict[str, Any]]:
    """The configs of mmengine's ``vis_backends`` that log a run of ``work_dir``: TensorBoard's, and the tracker's.

    Raises:
        UserError: the tracker's package is not installed.
    """
    check(tracker)
    for name in QUIET:  # trackers that would report their use to their makers
        os.environ.setdefault(name, "true")
    found = [{"type": "TensorboardVisBackend"}]
    curves: dict[str, Any] = {"artifact_suffix": ()}  # alone: no copy of the run's files, its store among them
    folder, name = Path(work_dir).resolve(), Path(work_dir).name
    if tracker == "mlflow":
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions ask for it
        store = {"save_dir": str(folder / "mlruns"), "exp_name": name, **curves}
        found.append({"type": "MLflowVisBackend", **store})
    elif tracker == "wandb":
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        options = {"mode": "offline", "project": "selfpatch", "name": name, "dir": str(folder)}
        found.append({"type": "WandbVisBackend", "init_kwargs": options})
    elif tracker == "aim":
        found.append({"type": "AimVisBackend", "init_kwargs": {"repo": str(folder), "experiment": name}})
    elif tracker == "clearml":
        os.environ.setdefault("CLEARML_OFFLINE_MODE", "1")
        options = {"project_name": "selfpatch", "task_name": name}
        found.append({"type": "ClearMLVisBackend", "init_kwargs": options, **curves})
    return found


def check(tracker: str) -> None:
    """Raise :class:`UserError` unless the package of a tracker is installed."""
    if find_spec(tracker) is None:
        raise UserError(f"--log-to {tracker} needs its package: pip install {tracker}")
