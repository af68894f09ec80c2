"""Records (one JSON file per checkpoint, task and protocol) → one long table: a row per record and metric."""

from __future__ import annotations

import ast
import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd

from selfpatch.pretrain.cli import UserError

Record = dict[str, Any]

REQUIRED = {
    "task": str,
    "dataset": str,
    "dataset_fingerprint": str,
    "protocol": dict,
    "method": str,
    "arch": (dict, str),
    "checkpoint_sha256": str,
    "metrics": dict,
}

# What makes two rows comparable at all; rows that differ in any of these never share a table.
GROUP = ["task", "dataset", "fingerprint", "split", "protocol", "parameters"]
# What makes two records the same row: only the seed may differ between them.
ROW = ["method", "arch", "pretrain_epochs", "variant"]

# Config entries that say where and how a run went, not what was trained.
NOT_A_SETTING = {
    "seed",
    "randomness",
    "work_dir",
    "experiment_name",
    "resume",
    "load_from",
    "launcher",
    "log_level",
}
SHOWN_SETTINGS = 3  # a variant that differs in more entries than this is named by its checkpoint instead

PUBLISHED_TASKS = {
    "instance segmentation": "coco",
    "semantic segmentation": "ade20k",
    "video object segmentation": "davis",
}


def read_record(path: str | Path) -> Record:
    """Read one record and add its own ``path``; raises UserError, naming the file, for anything that is not
    one.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the record {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not a record (not valid JSON: {error}); {_REMEDY}") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} is not a record (a {type(record).__name__}, not an object); {_REMEDY}")
    for key, kind in REQUIRED.items():
        if not isinstance(record.get(key), kind):
            raise UserError(f"{path} is not a record ('{key}' is missing or of the wrong kind); {_REMEDY}")
    if not isinstance(record["protocol"].get("name"), str):
        raise UserError(f"{path} is not a record (its protocol has no name); {_REMEDY}")
    for name, value in record["metrics"].items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise UserError(f"{path} is not a record (metric '{name}' is not a number: {value!r}); {_REMEDY}")
    return {**record, "path": str(path)}


_REMEDY = "delete it and run its evaluation again, or give --records a folder that holds records only"


def load_records(directory: str | Path) -> list[Record]:
    """All records of a folder in the order of their names; raises UserError when there is none or one is
    broken.
    """
    directory = Path(directory)
    # A dotted name is a temporary file of an evaluation that is being written at this moment.
    paths = sorted(path for path in directory.glob("*.json") if not path.name.startswith("."))
    if not paths:
        what = "holds no record" if directory.is_dir() else "does not exist"
        raise UserError(
            f"{directory} {what}: `tools/eval_davis.sh CHECKPOINT` (or eval_coco.sh, eval_ade20k.sh) makes "
            "one, or name another folder with --records"
        )
    return [read_record(path) for path in paths]


def arch_name(record: Record) -> str:
    """The display name of a record's architecture, such as ``vit-s16``."""
    arch = record["arch"]
    return arch if isinstance(arch, str) else str(arch.get("name") or arch.get("family") or "unknown")


def records_frame(records: list[Record]) -> pd.DataFrame:
    """One row per record and metric; ``value`` in the metric's own unit (per cent), ``seconds`` of the
    evaluation.

    ``variant`` tells apart checkpoints of one method, architecture and length that differ in more than the
    seed; it is empty where there is nothing to tell apart.
    """
    variants = name_variants(records)
    rows = []
    for record in records:
        fixed = {
            "task": record["task"],
            "dataset": record["dataset"],
            "fingerprint": record["dataset_fingerprint"],
            "split": record.get("split") or "",
            "protocol": record["protocol"]["name"],
            "parameters": parameters_key(record),
            "method": record["method"],
            "arch": arch_name(record),
            "pretrain_epochs": record.get("pretrain_epochs"),
            "variant": variants[record["path"]],
            "seed": record.get("seed"),
            "checkpoint": record.get("checkpoint") or "",
            "sha": record["checkpoint_sha256"],
            "miniature": bool(record.get("miniature", False)),
            "seconds": record.get("seconds"),
            "record": record["path"],
        }
        rows += [{**fixed, "metric": name, "value": value} for name, value in record["metrics"].items()]
    columns = [*GROUP, *ROW, "seed", "checkpoint", "sha", "miniature", "metric", "value", "seconds", "record"]
    frame = pd.DataFrame(rows, columns=columns)
    for column in ("pretrain_epochs", "seed"):
        frame[column] = pd.to_numeric(frame[column]).astype("Int64")
    for column in ("value", "seconds"):
        frame[column] = pd.to_numeric(frame[column]).astype(float)
    return frame


def parameters_key(record: Record) -> str:
    """A short fingerprint of a protocol's parameters: a protocol whose name stayed while they moved is
    another one.
    """
    text = json.dumps(record["protocol"].get("parameters") or {}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def newest_records(records: list[Record]) -> tuple[list[Record], list[str]]:
    """Of evaluations that were repeated with nothing changed the newest alone, and a line for each one left out.

    The network, task, data and protocol are equal: a repetition is no second seed, and must not be averaged as one.
    """
    latest: dict[tuple, Record] = {}
    for record in sorted(records, key=lambda record: str(record.get("started") or "")):
        same = (record["task"], record["dataset_fingerprint"], record.get("split"), record["protocol"]["name"])
        latest[(*same, parameters_key(record), *network_key(record))] = record
    kept = {record["path"] for record in latest.values()}
    older = [record["path"] for record in records if record["path"] not in kept]
    notes = [f"left out {path}: a newer record of the same evaluation is here" for path in older]
    return [record for record in records if record["path"] in kept], notes


def scored_records(records: list[Record]) -> tuple[list[Record], list[str]]:
    """The records that hold a figure for a comparison, and a line for each one that holds none but those of classes.

    Raises UserError where no record is left.
    """
    kept = [record for record in records if any("/" not in name for name in record["metrics"])]
    lacking = [record["path"] for record in records if record not in kept]
    if not kept:
        raise UserError(f"{lacking[0]} holds no overall metric to compare, nor does any other record: evaluate again")
    return kept, [f"left out {path}: it holds no overall metric to compare" for path in lacking]


def network_key(record: Record) -> tuple[str, str, str]:
    """What identifies a network: its file, which of the file's (teacher or student), and the number of its heads.

    Heads are no property of the weights: the same ones compute something else with another number.
    """
    return record["checkpoint_sha256"], record.get("weights_sha256") or "", str(heads_of(record))


def heads_of(record: Record) -> Any:
    """The number of attention heads that the network was evaluated with; None where a record does not say."""
    return record["arch"].get("heads") if isinstance(record["arch"], dict) else None


def name_variants(records: list[Record]) -> dict[str, str]:
    """Record path → name of its variant among the networks of the same method, architecture and epochs.

    Networks of equal settings and distinct seeds are repetitions: they share a variant, and so one row with a spread.
    Whatever else differs is named by the settings that differ, or by the checkpoint where they do not tell.
    """
    families: dict[tuple, dict[tuple, Record]] = defaultdict(dict)  # row → network → its first record
    for record in records:
        families[_family(record)].setdefault(network_key(record), record)
    names: dict[tuple, str] = {}
    for family, networks in families.items():
        settings = {
            network: {**settings_of(record.get("config")), "model.backbone.heads": heads_of(record)}
            for network, record in networks.items()
        }
        repeated = _repeated_seeds(networks, settings)
        differing = sorted(
            name
            for name in {name for values in settings.values() for name in values}
            if len({repr(values.get(name)) for values in settings.values()}) > 1
        )
        for network in networks:
            named = [f"{name.rsplit('.', 1)[-1]}={settings[network].get(name)}" for name in differing]
            telling = 0 < len(named) <= SHOWN_SETTINGS and all(len(text) < 40 for text in named)
            parts = [", ".join(named)] if telling else []
            if network in repeated or (differing and not telling):
                checkpoint, weights, heads = network
                shared = sum(other[0] == checkpoint for other in networks) > 1
                parts.append(f"weights {weights[:8]}" if shared else f"checkpoint {checkpoint[:8]}")
                if sum(other[:2] == network[:2] for other in networks) > 1:
                    parts.append(f"heads {heads}")
            names[family, network] = ", ".join(parts)
    return {record["path"]: names[_family(record), network_key(record)] for record in records}


def _family(record: Record) -> tuple:
    return record["method"], arch_name(record), record.get("pretrain_epochs")


def _repeated_seeds(networks: dict[tuple, Record], settings: dict[tuple, dict[str, Any]]) -> set[tuple]:
    """Networks that share settings *and* seed with another: not repetitions of one experiment, whatever they are."""
    same: dict[tuple[str, Any], list[tuple]] = defaultdict(list)
    for network, record in networks.items():
        same[repr(sorted(settings[network].items())), record.get("seed")].append(network)
    return {network for group in same.values() if len(group) > 1 for network in group}


def settings_of(config: dict | str | None) -> dict[str, Any]:
    """A pretraining config, given as a dictionary or as mmengine's text, as flat ``{"model.k": 4}``
    settings.
    """
    if isinstance(config, str):
        config = _parse_config(config)
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                if prefix or name not in NOT_A_SETTING:
                    walk(f"{prefix}.{name}" if prefix else str(name), inner)
        else:
            flat[prefix] = value

    walk("", config or {})
    return flat


def _parse_config(text: str) -> dict[str, Any]:
    """Read the assignments of a text config without running it; an expression that is no literal stays
    text.
    """
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return {"config": hashlib.sha256(text.encode()).hexdigest()[:8]}
    return {
        node.targets[0].id: _literal(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {keyword.arg: _literal(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {str(_literal(key)) if key else "**": _literal(value) for key, value in pairs}
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def units_path(record: Record) -> Path:
    """Where the per-unit values of a record lie; raises UserError when it has none or the file is gone."""
    if not record.get("units"):
        raise UserError(f"{record['path']} holds no per-unit values: run its evaluation again to get them")
    path = Path(record["path"]).parent / record["units"]
    if not path.is_file():
        raise UserError(f"{path} (the per-unit values of {record['path']}) is missing: run its evaluation again")
    return path


def load_published(path: str | Path | None = None) -> pd.DataFrame:
    """The figures that others published, one per row with its source; ``task`` under the names that records
    use.
    """
    frame = pd.read_csv(path or Path(__file__).with_name("published.csv"))
    frame["task"] = frame["task"].map(lambda task: PUBLISHED_TASKS.get(task, task))
    frame["pretrain_epochs"] = frame["pretrain_epochs"].astype("Int64")
    return frame


def load_sweep(path: str | Path) -> dict[str, Any]:
    """Read a ``sweep.json``: ``{name, axes {key: [values]}, cells [{name, settings, status, error, records
    [paths]}]}``.

    Each cell's ``records`` come back read: a list of records. Paths may be absolute, or relative to the sweep
    file or to the current folder. Raises UserError for a file that is no sweep and for a record that is gone.
    """
    path = Path(path)
    try:
        sweep = json.loads(path.read_text(encoding="utf-8"))
        cells = [
            {
                "error": None,
                **cell,
                "settings": dict(cell["settings"]),
                "records": list(cell.get("records") or []),
            }
            for cell in sweep["cells"]
        ]
        axes = {str(key): list(values) for key, values in sweep["axes"].items()}
        statuses = {cell["status"] for cell in cells}
    except OSError as error:
        raise UserError(f"cannot read the sweep {path}: {error.strerror}; `tools/sweep.sh GRID` writes it") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a sweep ({type(error).__name__}: {error}); `tools/sweep.sh GRID` writes one"
        ) from error
    if not statuses <= {"done", "failed", "pending"}:
        raise UserError(f"{path}: a cell's status is done, failed or pending, not {sorted(statuses)}")
    for cell in cells:
        found = [next((p for p in (path.parent / name, Path(name)) if p.is_file()), None) for name in cell["records"]]
        for name, record in zip(cell["records"], found, strict=True):
            if record is None:
                raise UserError(
                    f"{path}: the record {name} of cell '{cell['name']}' is gone; run `tools/sweep.sh` again"
                )
        cell["records"] = [read_record(record) for record in found]
    return {"name": sweep.get("name") or path.stem, "axes": axes, "cells": cells, "path": str(path)}
