"""Comparison tables as plain frames, for CSV files and notebooks."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from selfpatch.reports.frames import ROW
from selfpatch.reports.tables import UNKNOWN, Table

SEEDS = ("seeds", "baseline_seeds")


def comparison_csv(tables: Sequence[Table]) -> pd.DataFrame:
    """All comparison tables under one header: a line per row of a table, three columns per metric.

    ``<metric>`` is the mean, ``<metric> std`` over the seeds (empty for one), ``<metric> delta`` to the baseline.
    """
    lines = []
    for table in tables:
        for row in table.rows:
            line = table.group | dict(zip(ROW, row, strict=True))
            line |= {"n": int(table.n.loc[row].max()), "miniature": table.miniature}
            for name in table.columns:
                line |= {name: table.mean.at[row, name], f"{name} std": table.std.at[row, name]}
                line |= {f"{name} delta": table.delta(row, name)}
            lines.append(line)
    return _without_empty(pd.DataFrame(lines))


def bootstrap_frame(tables: Sequence[Table]) -> pd.DataFrame:
    """Every bootstrapped difference as a row, with its verdict."""
    lines = [
        table.group | dict(zip(ROW, row, strict=True)) | one.as_dict() | dict(zip(SEEDS, one.seeds, strict=True))
        for table in tables
        for (row, _), one in table.differences.items()
    ]
    names = {"a": "value", "b": "baseline", "above": "above_zero"}
    frame = pd.DataFrame(lines).rename(columns=names)
    return _without_empty(frame) if lines else frame


def _without_empty(frame: pd.DataFrame) -> pd.DataFrame:
    spare = [name for name in frame if name.endswith((" std", " delta")) and frame[name].isna().all()]
    epochs = frame["pretrain_epochs"].astype("Int64").mask(frame["pretrain_epochs"] == UNKNOWN)
    return frame.drop(columns=spare).assign(pretrain_epochs=epochs)
