"""Synthetic records in the layout that the evaluators write; their numbers are made up."""

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest


@pytest.fixture
def write_record(tmp_path):
    """A function that writes one record into ``tmp_path/records`` and returns its path."""

    def write(method="DINO", task="davis", metrics=None, seed=0, units=None, **changes):
        sha = hashlib.sha256(f"{method}{seed}{changes.get('config')}{changes.get('arch')}".encode()).hexdigest()
        record = {
            "task": task,
            "dataset": {"davis": "davis2017-val", "coco": "coco-val2017", "ade20k": "ade20k-val"}.get(task, task),
            "dataset_fingerprint": "f" * 64,
            "split": "val",
            "protocol": {
                "name": {"davis": "davis2017-dino@1"}.get(task, f"{task}-fast@1"),
                "parameters": {"topk": 5},
            },
            "method": method,
            "arch": {"family": "vit", "dim": 192, "depth": 12, "heads": 3, "patch": 16, "name": "vit-ti16"},
            "pretrain_epochs": 200,
            "seed": seed,
            "checkpoint": f"work_dirs/{method}/checkpoint.pth",
            "checkpoint_sha256": sha,
            "weights_sha256": sha[::-1],
            "certificate": ["150 of 150 tensors set", "features equal to 1e-6"],
            "config": {},
            "versions": {"torch": "2.13.0", "numpy": "2.2.6"},
            "device": "cpu",
            "started": "2026-01-01T12:00:00",
            "seconds": 60.0,
            "miniature": False,
            "metrics": metrics or {"J&F": 50.0, "J": 49.0, "F": 51.0},
            "notes": [],
            **changes,
        }
        folder = tmp_path / "records"
        folder.mkdir(exist_ok=True)
        protocol = record["protocol"]["name"].replace("/", "_")
        path = folder / f"{task}-{record['checkpoint_sha256'][:12]}-{protocol}.json"
        if units is not None:
            record["units"] = path.with_suffix(".npz").name
            np.savez_compressed(folder / record["units"], **units)
        path.write_text(json.dumps(record))
        return path

    return write


@pytest.fixture
def davis():
    """Made-up DAVIS units, and the figures that a record of them holds."""
    return SimpleNamespace(units=davis_units, metrics=davis_metrics, object_means=object_means)


def davis_units(shift=0.0, seed=0, sequences=5):
    """Long arrays; sequence i has i % 3 + 1 objects and 4 + i frames."""
    rng = np.random.default_rng(seed)
    rows = [(f"s{i}", o, f) for i in range(sequences) for o in range(1, i % 3 + 2) for f in range(1, 5 + i)]
    sequence, number, frame = map(np.array, zip(*rows, strict=True))
    J, F = (np.clip(rng.uniform(0.2, 0.8, len(rows)) + shift, 0, 1) for _ in range(2))
    return {"sequence": sequence, "object": number, "frame": frame, "J": J, "F": F}


def object_means(units, values):
    keys = sorted(set(zip(units["sequence"].tolist(), units["object"].tolist(), strict=True)))
    return {key: values[(units["sequence"] == key[0]) & (units["object"] == key[1])].mean() for key in keys}


def davis_metrics(units):
    J, F = (100 * np.mean(list(object_means(units, units[name]).values())) for name in "JF")
    return {"J&F": (J + F) / 2, "J": J, "F": F}
