"""Comparison tables as plain frames, for notebooks and as files: CSV, JSON, Parquet."""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
from pandas.io.formats.style import Styler

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.files import atomic_path, write_text
from selfpatch.reports.frames import ROW
from selfpatch.reports.tables import UNKNOWN, Table

SEEDS = ("seeds", "baseline_seeds")
VERDICTS = {"better": "font-weight: bold; color: #00704f", "worse": "font-weight: bold; color: #b3400a"}


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


def styled(compared: pd.DataFrame) -> Styler:
    """A bootstrapped comparison for a notebook: differences with their signs, and each verdict in its colour."""
    shown = ["dataset", "protocol", "method", "arch", "metric", "value", "delta", "low", "high", "verdict"]
    formats = dict.fromkeys(("delta", "low", "high"), "{:+.2f}") | {"value": "{:.1f}"}
    style = compared[shown].style.format(formats, na_rep="–", escape="html").hide(axis="index")
    return style.map(lambda verdict: VERDICTS.get(verdict, ""), subset=["verdict"])


def write_frames(frames: Mapping[str, pd.DataFrame], folder: Path, parquet: bool = False) -> list[str]:
    """Write each frame as ``<name>.csv``, on demand also as ``<name>.parquet``, and all of them into ``report.json``.

    Returns:
        the names of the files.
    """
    for name, frame in frames.items():
        write_text(folder / f"{name}.csv", frame.to_csv(index=False))
        if parquet:
            with atomic_path(folder / f"{name}.parquet") as temporary:
                frame.to_parquet(temporary, index=False)
    lines = {name: json.loads(frame.to_json(orient="records", double_precision=15)) for name, frame in frames.items()}
    write_text(folder / "report.json", json.dumps(lines, indent=1, ensure_ascii=False) + "\n")
    endings = ("csv", *["parquet"] * parquet)
    return [*(f"{name}.{ending}" for ending in endings for name in frames), "report.json"]


def check_parquet() -> None:
    """Raise :class:`UserError` unless Parquet files can be written here."""
    if find_spec("pyarrow") is None:
        raise UserError("--also parquet needs pyarrow: pip install pyarrow")


def _without_empty(frame: pd.DataFrame) -> pd.DataFrame:
    spare = [name for name in frame if name.endswith((" std", " delta")) and frame[name].isna().all()]
    epochs = frame["pretrain_epochs"].astype("Int64").mask(frame["pretrain_epochs"] == UNKNOWN)
    return frame.drop(columns=spare).assign(pretrain_epochs=epochs)
