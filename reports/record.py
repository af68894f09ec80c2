"""A result as a file: what was measured, on what, by which protocol, with which weights. Written once, never edited."""

import json
import math
import platform
import re
import subprocess
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.files import atomic_path, read_json, write_text

# What records say of their task since tasks describe themselves; for those that were written before.
BEFORE = {
    "coco": ("COCO instance segmentation", ["bbox AP", "mask AP"], "DETECTION"),
    "ade20k": ("ADE20K semantic segmentation", ["mIoU"], "SEGMENTATION"),
    "davis": ("DAVIS video object segmentation", ["J&F"], "VIDEO"),
    "knn": ("k-NN classification", ["top-1"], "CLASSIFICATION"),
    "linear": ("Linear classification", ["top-1"], "CLASSIFICATION"),
}
REMEDY = "delete it and run its evaluation again, or give --records a folder that holds records only"


@dataclass(frozen=True)
class Protocol:
    """A named, versioned set of parameters; a departure from the published one has another name."""

    name: str
    parameters: dict[str, Any]
    __pydantic_config__ = ConfigDict(extra="forbid")  # not strict: a dictionary of its fields will do

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
    findings: tuple[str, ...] = ()  # what was odd in its files


@dataclass(frozen=True)
class Evaluation:
    """What a task returns."""

    # name -> per cent, under the field's names (``J&F``, ``mask AP50``, ``mIoU``, ``IoU/wall``)
    metrics: dict[str, float]
    # arrays per object and frame, or per image, from which the metrics can be computed again
    units: dict[str, np.ndarray] = field(default_factory=dict)
    # what a reader of the figures should know, such as objects that were lost
    notes: list[str] = field(default_factory=list)
    earlier_seconds: float = 0.0  # that stopped runs spent on what this one went on from
    # folders of what pictures behind the figures are made from ("images", "truth", "masks")
    kept: dict[str, str] = field(default_factory=dict)
    # files that the record keeps for such pictures, by name: what was predicted of each image, in small
    predictions: dict[str, bytes] = field(default_factory=dict)


class Record(BaseModel):
    """One checkpoint on one task, data set and protocol: what the evaluation writes and the reports read.

    Raises pydantic's ValidationError, a ValueError, for a field that is missing, unknown or of another type, and for a
    figure that is not finite.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    task: str  # the name of its module: "davis"
    title: str  # "DAVIS video object segmentation"
    headline: list[str]  # the metrics that an overview shows
    measure: str | None  # what ``units`` hold: "selfpatch.reports.metrics:VIDEO"
    lower: list[str]  # the metrics of which less is better
    dataset: str  # "davis2017-val", or the folder's name for other data
    dataset_fingerprint: str  # SHA-256
    split: str
    protocol: Protocol
    method: str  # display name: "DINO+SelfPatch"
    arch: dict[str, Any]  # of the backbone, and its short name: "vit-s16"
    pretrain_epochs: int | None
    seed: int | None  # of the pretraining
    checkpoint: str
    checkpoint_sha256: str
    weights_sha256: str  # of the backbone's tensors alone
    certificate: list[str]  # what was loaded, and that it computes what the file's tensors say
    config: dict[str, Any] | None  # of the pretraining
    versions: dict[str, str]
    device: str
    started: str  # ISO 8601, UTC
    seconds: float
    miniature: bool  # a set made small: its figures are no benchmark figures
    metrics: dict[str, float]  # in per cent
    units: str | None = None  # the name of an .npz beside the record: what a paired bootstrap needs
    notes: list[str]  # what a reader of the figures should know
    findings: list[str] = []  # what was odd in the data
    kept: dict[str, str] = {}  # of what pictures are made from folders, and "predictions": a .zip beside the record
    path: Path | None = Field(None, exclude=True)  # where it was read from

    @model_validator(mode="before")
    @classmethod
    def _describe_its_task(cls, values: Any) -> Any:
        """Fill in what records did not say before tasks described themselves."""
        if not isinstance(values, dict) or {"title", "headline", "measure", "lower"} & values.keys():
            return values
        task, metrics = str(values.get("task")), values.get("metrics")
        overall = [name for name in metrics if "/" not in name] if isinstance(metrics, dict) else []
        title, headline, measure = BEFORE.get(task, (task, overall[:1], None))
        return values | {
            "title": title,
            "headline": headline,
            "measure": measure and f"selfpatch.reports.metrics:{measure}",
            "lower": [name for name in overall if name.endswith("decay")],
        }

    @property
    def arch_name(self) -> str:
        """The architecture's display name: ``vit-s16``."""
        return str(self.arch.get("name") or self.arch.get("family") or "unknown")

    @property
    def network(self) -> tuple[str, str, str]:
        """What identifies a network: its file, which of the file's (teacher or student), and its number of heads.

        Heads are no property of the weights: the same ones compute something else with another number.
        """
        return self.checkpoint_sha256, self.weights_sha256, str(self.arch.get("heads"))

    @property
    def overall(self) -> dict[str, float]:
        """The metrics that are not of a class ('IoU/wall')."""
        return {name: value for name, value in self.metrics.items() if "/" not in name}

    @property
    def units_path(self) -> Path:
        """Where the per-unit values lie; raises UserError where there are none."""
        if not self.units or self.path is None:
            raise UserError(f"{self.path} holds no per-unit values: run its evaluation again to get them")
        path = self.path.parent / self.units
        if not path.is_file():
            raise UserError(f"{path} (the per-unit values of {self.path}) is missing: run its evaluation again")
        return path

    @classmethod
    def read(cls, path: str | Path) -> "Record":
        """A record from its file; UserError: the file cannot be read or is no record; in one line that names it."""
        path, content = Path(path), read_json(path)
        try:
            if isinstance(content, dict) and "path" in content:
                raise ValueError("'path': unknown field")
            return cls.model_validate(content).model_copy(update={"path": path})
        except ValidationError as error:
            reason = first_fault(error)
        except (ValueError, RecursionError) as error:
            reason = str(error)
        raise UserError(f"{path} is not a record ({reason}); {REMEDY}")

    def write(
        self, folder: Path, units: Mapping[str, np.ndarray], predictions: Mapping[str, bytes] | None = None
    ) -> "Record":
        """Write a new record, its units and predictions; itself at last, so that it never names what is not there.

        The name is ``<task>-<checkpoint>-<protocol>``; where that is taken (other data, another network of the file),
        the dataset's and the weights' fingerprints, and at last a number, are added. No existing file is touched.

        Returns:
            the record as it stands in its file, with its ``path``.
        """
        stem = f"{self.task}-{self.checkpoint_sha256[:12]}-{file_name(self.protocol.name)}"
        more = f"{stem}-{self.dataset_fingerprint[:6]}-{self.weights_sha256[:6]}"
        candidates = (stem, more, *(f"{more}-{number}" for number in range(2, 1000)))
        stem = next(name for name in candidates if not (Path(folder) / f"{name}.json").exists())
        path = Path(folder) / f"{stem}.json"
        kept = self.kept | ({"predictions": f"{stem}.zip"} if predictions else {})
        record = self.model_copy(update={"units": f"{stem}.npz" if units else None, "kept": kept})
        # as text before anything is written: it may not be JSON
        text = json.dumps(record.model_dump(), indent=1, allow_nan=False) + "\n"
        if units:
            with atomic_path(path.with_suffix(".npz")) as temporary:
                np.savez_compressed(temporary, **units)
        if predictions:
            with atomic_path(path.with_suffix(".zip")) as temporary, zipfile.ZipFile(temporary, "w") as archive:
                for name, content in predictions.items():
                    archive.writestr(name, content)
        write_text(path, text)
        return Record.read(path)

    @classmethod
    def find(
        cls,
        folder: Path,
        *,
        task: str,
        checkpoint_sha256: str,
        weights_sha256: str,
        heads: int | list[int],
        protocol: Protocol,
        dataset: Dataset,
    ) -> "Record | None":
        """The record of exactly this evaluation, if there is one.

        Checkpoint, weights (another network of the same file is another result), heads (the same weights compute
        something else with another number of them), protocol with all its parameters, split and dataset fingerprint
        must be equal; a file's name proves nothing. Unreadable records are passed over; of several equal ones the
        newest is taken.
        """
        wanted = (task, checkpoint_sha256, weights_sha256, heads, protocol.as_json(), dataset.sha256, dataset.split)
        found = []
        for path in sorted(Path(folder).glob(f"{task}-{checkpoint_sha256[:12]}-*.json")):
            try:
                one = cls.read(path)
            except UserError:
                continue
            same = (one.task, one.checkpoint_sha256, one.weights_sha256, one.arch.get("heads"), one.protocol.as_json())
            whole = one.units is None or (path.parent / one.units).is_file()
            if whole and (*same, one.dataset_fingerprint, one.split) == wanted:
                found.append(one)
        return max(found, key=lambda one: (one.started, one.path), default=None)


def first_fault(error: ValidationError) -> str:
    """What pydantic found first, in small letters: ``'metrics.J': input should be a valid number, not 'fifty'``."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    given = f", not {first['input']!r}" if isinstance(first["input"], (str, int, float)) else ""
    return (f"'{where}': " if where else "") + first["msg"].lower() + given


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
