"""A result as a file: what was measured, on what, by which protocol, with which weights. Written once, never edited."""

from __future__ import annotations

import json
import math
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.files import atomic_path, write_text

SCHEMA: dict[str, type | tuple[type, ...]] = {
    "task": str,  # davis | coco | ade20k | knn | linear
    "dataset": str,  # "davis2017-val", or the folder's name for other data
    "dataset_fingerprint": str,  # SHA-256
    "split": str,
    "protocol": dict,  # {"name": "davis2017-dino@1", "parameters": {...}}
    "method": str,  # display name: "DINO+SelfPatch"
    "arch": dict,  # of the backbone, and its short name: "vit-s16"
    "pretrain_epochs": (int, type(None)),
    "seed": (int, type(None)),  # of the pretraining
    "checkpoint": str,
    "checkpoint_sha256": str,
    "weights_sha256": str,  # of the backbone's tensors alone
    "certificate": list,  # two lines: what was loaded, and that it computes what the file's tensors say
    "config": (dict, type(None)),  # of the pretraining
    "versions": dict,
    "device": str,
    "started": str,  # ISO 8601, UTC
    "seconds": (int, float),
    "miniature": bool,  # a set made small: its figures are no benchmark figures
    "metrics": dict,  # {name: float}, in per cent
    "units": (str, type(None)),  # the name of an .npz beside the record: what a paired bootstrap needs
    "notes": list,  # lines a reader of the figures should know
}


@dataclass(frozen=True)
class Protocol:
    """A named, versioned set of parameters; a departure from the published one has another name."""

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As it stands in a record, after a trip through JSON, so that two can be compared."""
        return jsonable({"name": self.name, "parameters": self.parameters})


@dataclass(frozen=True)
class Dataset:
    """What was evaluated on; two sets are the same if their fingerprints are."""

    name: str
    split: str
    sha256: str
    miniature: bool = False


@dataclass(frozen=True)
class Evaluation:
    """What a task returns.

    Args:
        metrics: name -> per cent, under the field's names (``J&F``, ``mask AP50``, ``mIoU``, ``IoU/wall``).
        units: arrays per object and frame, or per image, from which the metrics can be computed again.
        notes: what a reader of the figures should know, such as objects that were lost.
        earlier_seconds: that stopped runs spent on what this one went on from.
    """

    metrics: dict[str, float]
    units: dict[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    earlier_seconds: float = 0.0


def validate(record: Mapping[str, Any]) -> None:
    """Raise unless a record has every field of :data:`SCHEMA`, of the right type, and finite figures.

    Raises:
        ValueError: names the first fault.
    """
    if record.keys() != SCHEMA.keys():
        lacking, extra = sorted(SCHEMA.keys() - record.keys()), sorted(record.keys() - SCHEMA.keys())
        raise ValueError(f"a record lacks {lacking} and has {extra} too many")
    for key, kind in SCHEMA.items():
        if not isinstance(record[key], kind) or (kind is not bool and isinstance(record[key], bool)):
            raise ValueError(f"{key} of a record is {record[key]!r}")
    if record["protocol"].keys() != {"name", "parameters"}:
        raise ValueError(f"a protocol has a name and parameters, not {sorted(record['protocol'])}")
    for name, value in record["metrics"].items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"metric {name} is {value!r}")


def find_record(
    records: Path,
    *,
    task: str,
    checkpoint_sha256: str,
    weights_sha256: str,
    heads: int | list[int],
    protocol: Protocol,
    dataset: Dataset,
) -> Path | None:
    """The record of exactly this evaluation, if there is one.

    Checkpoint, weights (another network of the same file is another result), heads (the same weights compute something
    else with another number of them), protocol with all its parameters, split and dataset fingerprint must be equal; a
    file's name proves nothing. Unreadable records are passed over; of several equal ones the newest is taken.
    """
    wanted = {
        "task": task,
        "checkpoint_sha256": checkpoint_sha256,
        "weights_sha256": weights_sha256,
        "protocol": protocol.as_json(),
        "dataset_fingerprint": dataset.sha256,
        "split": dataset.split,
    }
    found = []
    for path in sorted(Path(records).glob(f"{task}-{checkpoint_sha256[:12]}-*.json")):
        try:
            record = read_record(path)
        except UserError:
            continue
        units = record["units"]
        equal = record["arch"].get("heads") == heads and all(record[key] == value for key, value in wanted.items())
        if equal and (units is None or (path.parent / units).is_file()):
            found.append((record["started"], path))
    return max(found)[1] if found else None


def read_record(path: Path) -> dict[str, Any]:
    """A record from its file.

    Raises:
        UserError: the file is no record.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        validate(record)
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is no record of this project: {error}") from None
    return record


def write_record(records: Path, record: Mapping[str, Any], units: Mapping[str, np.ndarray]) -> Path:
    """Write a new record and its units; the units first, so that a record never names what is not there.

    The name is ``<task>-<checkpoint>-<protocol>``; where that is taken (other data, another network of the file), the
    dataset's and the weights' fingerprints, and at last a number, are added. No existing file is touched.
    """
    stem = f"{record['task']}-{record['checkpoint_sha256'][:12]}-{file_name(record['protocol']['name'])}"
    more = f"{stem}-{record['dataset_fingerprint'][:6]}-{record['weights_sha256'][:6]}"
    candidates = (stem, more, *(f"{more}-{number}" for number in range(2, 1000)))
    stem = next(name for name in candidates if not (Path(records) / f"{name}.json").exists())
    path = Path(records) / f"{stem}.json"

    record = {**record, "units": f"{stem}.npz" if units else None}
    validate(record)
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"  # before anything is written: it may not be JSON
    if units:
        with atomic_path(path.with_suffix(".npz")) as temporary:
            np.savez_compressed(temporary, **units)
    write_text(path, text)
    return path


def jsonable(value: Any) -> Any:
    """``value`` as JSON can hold it: infinite numbers and unknown objects as text, tuples as lists."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    plain = isinstance(value, (str, int, type(None))) or (isinstance(value, float) and math.isfinite(value))
    return value if plain else str(value)


def file_name(protocol: str) -> str:
    """A protocol's name as part of a file name: ``davis2017-dino@1`` stays, ``a/b c`` becomes ``a_b_c``."""
    return re.sub(r"[^A-Za-z0-9@.=+_-]+", "_", protocol)


def versions() -> dict[str, str]:
    """The versions of everything that has a hand in a figure, and the project's commit where it is a checkout."""
    packages = {
        "torch": "torch",
        "numpy": "numpy",
        "scipy": "scipy",
        "opencv": "opencv-python-headless",
        "pillow": "pillow",
        "mmengine": "onedl-mmengine",
        "mmcv": "onedl-mmcv",
        "mmdet": "onedl-mmdetection",
        "mmseg": "onedl-mmsegmentation",
        "pycocotools": "pycocotools",
        "faster-coco-eval": "faster-coco-eval",
        "selfpatch": "selfpatch",
    }
    found = {"python": platform.python_version()}
    for name, distribution in packages.items():
        try:
            found[name] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    if commit := _commit():
        found["selfpatch commit"] = commit
    return found


def _commit() -> str | None:
    """The commit of this checkout, with ``+`` if its Python files differ from it."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "*.py"], cwd=root, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip()[:12] + ("+" if changed.returncode else "")
