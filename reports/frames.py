"""Records (one JSON file per checkpoint, task and protocol) → one long table: a row per record and metric."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ValidationError

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.files import read_json
from selfpatch.reports.record import Record, first_fault

# What makes two rows comparable at all; rows that differ in any of these never share a table.
GROUP = ["task", "dataset", "fingerprint", "split", "protocol", "parameters"]
# What makes two records the same row: only the seed may differ between them.
ROW = ["method", "arch", "pretrain_epochs", "variant"]

# Config entries that say where and how a run went, not what was trained.
NOT_A_SETTING = {"seed", "randomness", "work_dir", "experiment_name", "resume", "load_from", "launcher", "log_level"}
SHOWN_SETTINGS = 3  # a variant that differs in more entries than this is named by its checkpoint instead


def load_records(directory: str | Path) -> list[Record]:
    """All records of a folder in the order of their names; raises UserError when there is none or one is broken."""
    directory = Path(directory)
    # A dotted name is a temporary file of an evaluation that is being written at this moment.
    paths = sorted(path for path in directory.glob("*.json") if not path.name.startswith("."))
    if not paths:
        what = "holds no record" if directory.is_dir() else "does not exist"
        raise UserError(
            f"{directory} {what}: `tools/eval_davis.sh CHECKPOINT` (or eval_coco.sh, eval_ade20k.sh) makes "
            "one, or name another folder with --records"
        )
    return [Record.read(path) for path in paths]


def records_frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row per record and metric; ``value`` in the metric's own unit (per cent), ``seconds`` of the evaluation.

    ``variant`` tells apart checkpoints of one method, architecture and length that differ in more than the seed; it is
    empty where there is nothing to tell apart. ``headline`` says whether an overview shows the metric, ``lower``
    whether less of it is better.
    """
    variants = name_variants(records)
    rows = []
    for record in records:
        fixed = {
            "task": record.task,
            "dataset": record.dataset,
            "fingerprint": record.dataset_fingerprint,
            "split": record.split,
            "protocol": record.protocol.name,
            "parameters": parameters_key(record),
            "title": record.title,
            "measure": record.measure or "",
            "method": record.method,
            "arch": record.arch_name,
            "pretrain_epochs": record.pretrain_epochs,
            "variant": variants[record.path],
            "seed": record.seed,
            "checkpoint": record.checkpoint,
            "sha": record.checkpoint_sha256,
            "miniature": record.miniature,
            "seconds": record.seconds,
            "record": str(record.path),
        }
        for name, value in record.metrics.items():
            kind = {"metric": name, "headline": name in record.headline, "lower": name in record.lower}
            rows.append({**fixed, **kind, "value": value})
    return pd.DataFrame(rows).astype({"pretrain_epochs": "Int64", "seed": "Int64", "value": float, "seconds": float})


def parameters_key(record: Record) -> str:
    """A short fingerprint of a protocol's parameters: a protocol whose name stayed while they moved is another one."""
    text = json.dumps(record.protocol.parameters, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def newest_records(records: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """Of evaluations that were repeated with nothing changed the newest alone, and a line for each one left out.

    The network, task, data and protocol are equal: a repetition is no second seed, and must not be averaged as one.
    """
    latest: dict[tuple, Record] = {}
    for record in sorted(records, key=lambda record: record.started):
        same = (record.task, record.dataset_fingerprint, record.split, record.protocol.name, parameters_key(record))
        latest[(*same, *record.network)] = record
    kept = {record.path for record in latest.values()}
    older = [record.path for record in records if record.path not in kept]
    notes = [f"left out {path}: a newer record of the same evaluation is here" for path in older]
    return [record for record in records if record.path in kept], notes


def scored_records(records: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """The records that hold a figure for a comparison, and a line for each one that holds none but those of classes.

    Raises UserError where no record is left.
    """
    kept = [record for record in records if record.overall]
    lacking = [record.path for record in records if not record.overall]
    if not kept:
        raise UserError(f"{lacking[0]} holds no overall metric to compare, nor does any other record: evaluate again")
    return kept, [f"left out {path}: it holds no overall metric to compare" for path in lacking]


def name_variants(records: Sequence[Record]) -> dict[Path | None, str]:
    """Record path → name of its variant among the networks of the same method, architecture and epochs.

    Networks of equal settings and distinct seeds are repetitions: they share a variant, and so one row with a spread.
    Whatever else differs is named by the settings that differ, or by the checkpoint where they do not tell.
    """
    families: dict[tuple, dict[tuple, Record]] = defaultdict(dict)  # row → network → its first record
    for record in records:
        families[_family(record)].setdefault(record.network, record)
    names: dict[tuple, str] = {}
    for family, networks in families.items():
        settings = {
            network: {**settings_of(record.config), "model.backbone.heads": record.arch.get("heads")}
            for network, record in networks.items()
        }
        # Equal settings and an equal seed: no repetitions of one experiment, whatever they are
        made = {n: (repr(sorted(settings[n].items())), record.seed) for n, record in networks.items()}
        times = Counter(made.values())
        names_of_settings = sorted({name for values in settings.values() for name in values})
        differing = [n for n in names_of_settings if len({repr(values.get(n)) for values in settings.values()}) > 1]
        for network in networks:
            named = [f"{name.rsplit('.', 1)[-1]}={settings[network].get(name)}" for name in differing]
            telling = 0 < len(named) <= SHOWN_SETTINGS and all(len(text) < 40 for text in named)
            parts = [", ".join(named)] if telling else []
            if times[made[network]] > 1 or (differing and not telling):
                checkpoint, weights, heads = network
                shared = sum(other[0] == checkpoint for other in networks) > 1
                parts.append(f"weights {weights[:8]}" if shared else f"checkpoint {checkpoint[:8]}")
                if sum(other[:2] == network[:2] for other in networks) > 1:
                    parts.append(f"heads {heads}")
            names[family, network] = ", ".join(parts)
    return {record.path: names[_family(record), record.network] for record in records}


def _family(record: Record) -> tuple:
    return record.method, record.arch_name, record.pretrain_epochs


def settings_of(config: dict[str, Any] | None, prefix: str = "") -> dict[str, Any]:
    """A pretraining config as flat ``{"model.k": 4}`` settings, their names after ``prefix``."""
    flat: dict[str, Any] = {}
    for name, value in (config or {}).items():
        if isinstance(value, dict):
            flat |= settings_of(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return {name: value for name, value in flat.items() if name.partition(".")[0] not in NOT_A_SETTING}


def load_published() -> pd.DataFrame:
    """The figures that others published, one per row with its source."""
    frame = pd.read_csv(Path(__file__).with_name("published.csv"))
    return frame.astype({"pretrain_epochs": "Int64"})


class SweepCell(BaseModel):
    """A cell as ``tools/sweep.sh`` leaves it."""

    name: str
    settings: dict[str, Any]
    status: Literal["done", "failed", "pending"]
    error: str | None = None
    records: list[str] = []
    against: list[str] = []


class Sweep(BaseModel):
    """A ``sweep.json``."""

    name: str | None = None
    axes: dict[str, list[Any]]
    cells: list[SweepCell]


def load_sweep(path: str | Path) -> dict[str, Any]:
    """Read a ``sweep.json`` (:class:`Sweep`) as a dictionary with its ``path``.

    Each cell's ``records`` are paths, absolute or relative to the sweep file or to the current folder; they come back
    read. Raises UserError for a file that is no sweep and for a record that is gone.
    """
    path, content = Path(path), read_json(path)
    try:
        sweep = Sweep.model_validate(content).model_dump()
    except ValidationError as error:
        raise UserError(f"{path} is not a sweep ({first_fault(error)}); `tools/sweep.sh GRID` writes one") from error
    for cell in sweep["cells"]:
        found = [next((p for p in (path.parent / name, Path(name)) if p.is_file()), None) for name in cell["records"]]
        if None in found:
            gone = cell["records"][found.index(None)]
            raise UserError(f"{path}: the record {gone} of cell '{cell['name']}' is gone; run `tools/sweep.sh` again")
        cell["records"] = [Record.read(record) for record in found]
    return {**sweep, "name": sweep["name"] or path.stem, "path": str(path)}
