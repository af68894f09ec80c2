"""Which plots a report holds, each with the data that it shows."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.files import atomic_path, write_text
from selfpatch.reports import plots
from selfpatch.reports.ablation import CELL, Ablation
from selfpatch.reports.bootstrap import unit_scores
from selfpatch.reports.frames import ROW
from selfpatch.reports.metrics import resolve
from selfpatch.reports.tables import Row, Table

LONGEST = 100  # characters of a table's or plot's name in a file's
VECTOR = ("pdf", "svg")  # formats that can be asked for beside PNG


@dataclass(frozen=True)
class Plot:
    """A figure, what it is called beside others of its table, and the data that it shows."""

    name: str
    figure: Figure
    data: pd.DataFrame

    @cached_property
    def png(self) -> bytes:
        """The figure as a PNG."""
        return plots.render(self.figure)

    def save(self, path: Path, endings: Sequence[str] = ()) -> None:
        """Write ``path``.png, ``path``.csv with the data, and further formats."""
        for ending in ("png", *endings):
            with atomic_path(f"{path}.{ending}") as temporary:
                temporary.write_bytes(self.png if ending == "png" else plots.render(self.figure, ending))
        write_text(f"{path}.csv", self.data.to_csv(index=False))


def table_plots(table: Table, scored: Mapping[Row, Mapping[str, float]], colours: Mapping[str, str]) -> list[Plot]:
    """The plots of a comparison whose rows have these values of their units."""
    made = [Plot(column, plots.bars(table, column, colours), bar_data(table, column)) for column in table.headline]
    made += [plot for column in table.headline if (plot := efficiency_plot(table, column, colours))]
    several = table.shows_epochs
    lengths = {(row.arch, row.epochs) for row in table.rows if row.epochs > 0}
    for arch, epochs in sorted(lengths) or sorted({(row.arch, 0) for row in table.rows}):
        made += unit_plots(table, arch, epochs, scored, colours, f"{arch}{length_text(epochs) * several}")
    return made


def bar_data(table: Table, column: str) -> pd.DataFrame:
    """A row of each bar: mean, spread, seeds, difference and its interval."""
    lines = []
    for row in table.rows:
        one = table.differences.get((row, column))
        line = dict(zip(ROW, row, strict=True))
        line |= {
            name: frame.at[row, column] for name, frame in zip(("mean", "std", "n"), (table.mean, table.std, table.n))
        }
        line |= {"delta": table.delta(row, column)} | ({"low": one.low, "high": one.high} if one else {})
        lines.append(line)
    return pd.DataFrame(lines)


def efficiency_plot(table: Table, column: str, colours: Mapping[str, str]) -> Plot | None:
    """A metric against the epochs of pretraining, where a method was scored after several; else None."""
    lines: dict[Row, dict[int, float]] = {}
    for row in table.rows:
        if row.epochs > 0 and np.isfinite(table.mean.at[row, column]):
            lines.setdefault(row._replace(epochs=0), {})[row.epochs] = table.mean.at[row, column]
    lines = {row: dict(sorted(points.items())) for row, points in lines.items() if len(points) > 1}
    if not lines:
        return None
    archs = len({row.arch for row in table.rows}) > 1
    named = {f"{row.label} {row.arch}" if archs else row.label: row for row in lines}
    shown = {name: lines[row] for name, row in named.items()}
    shades = {name: colours[row.method] for name, row in named.items()}
    data = [
        {"row": name, "epochs": at, column: value} for name, points in shown.items() for at, value in points.items()
    ]
    figure = plots.efficiency(table.title, column, shown, shades)
    return Plot(f"{column} against epochs", figure, pd.DataFrame(data))


def scores_of_units(table: Table) -> tuple[dict[Row, dict[str, float]], list[str]]:
    """The main metric of each named unit for each row, of several seeds the first; and what cannot be had."""
    scored: dict[Row, dict[str, float]] = {}
    notes = []
    for row in table.rows:
        record = table.records[row][0]
        try:
            if record.units and record.measure and resolve(record.measure).named:
                scored[row] = unit_scores(record, table.headline[0])
        except UserError as error:
            notes.append(f"No plot of units for {row.label} {row.arch}: {error}.")
    return scored, notes


def unit_plots(
    table: Table,
    arch: str,
    epochs: int,
    scored: Mapping[Row, Mapping[str, float]],
    colours: Mapping[str, str],
    name: str,
) -> list[Plot]:
    """Units of one architecture and length in a list, and against the baseline's; none where rows do not share them."""
    rows = [row for row in scored if row.arch == arch and (row.epochs == epochs or row.epochs <= 0)]
    if len(rows) < 2 or len({frozenset(scored[row]) for row in rows}) > 1:
        return []
    labels = Counter(row.label for row in rows)  # rows of one label differ in their length
    names = {row: row.label + length_text(row.epochs) * (labels[row.label] > 1) for row in rows}
    baseline = next((row for row in rows if table.is_baseline(row)), None)
    title = f"{arch}{length_text(epochs) * (table.shows_epochs and epochs > 0)} on {table.group['dataset']}"
    scores = {names[row]: scored[row] for row in rows}
    shades = {names[row]: colours[row.method] for row in rows}
    data = pd.DataFrame(scores).rename_axis("unit").reset_index()
    metric = table.headline[0]
    made = [Plot(f"units {name}", plots.units(title, metric, scores, names[baseline or rows[0]], shades), data)]
    if baseline:
        made.append(Plot(f"scatter {name}", plots.scatter(title, metric, scores, names[baseline], shades), data))
    return made


def length_text(epochs: int) -> str:
    """How long a row was pretrained, as it follows a name."""
    return f", {epochs if epochs > 0 else 'unknown'} epochs"


def ablation_plots(one: Ablation) -> list[Plot]:
    """A curve per metric and axis with at least two values that were scored; of listed cells only over their names."""
    return [
        Plot(f"{metric} against {axis}", plots.curve(one, metric, axis), one.frame)
        for metric in one.metrics
        for axis in ([CELL] if CELL in one.axes else one.axes)
        if one.frame.dropna(subset=[metric])[axis].nunique() > 1
    ]


def slug(text: str) -> str:
    """``text`` as a file name: letters, digits and single dashes; what is long ends in a digest instead."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower().replace("@", "-v")).strip("-")
    return name if 0 < len(name) <= LONGEST else f"{name[:LONGEST]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
