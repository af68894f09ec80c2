"""A sweep's cells → ablation tables: the settings of each cell beside what it scored; cells that failed say so."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from selfpatch.reports.bootstrap import Difference, Pair
from selfpatch.reports.frames import GROUP, records_frame
from selfpatch.reports.record import Record
from selfpatch.reports.sheet import MINIATURE, Cell, Head, Sheet
from selfpatch.reports.tables import DIGITS, dataset_name, differences_sheet, score_text, verdict_line

CELL = "cell"  # the axis of a grid that lists its cells: their names
SEED_AXES = ("seed", "randomness.seed")  # repetitions: averaged, never a setting that is compared


@dataclass
class Ablation:
    """One sweep on one task, dataset and protocol.

    ``frame`` has a row per combination of ``axes`` with, for each of ``metrics``, the columns ``<metric>`` (mean over
    seeds), ``<metric> std`` and ``<metric> n``, and ``status`` (done, pending, or 'failed: why'). ``values`` gives each
    axis's values as text, in the order of the grid; of the metrics in ``lower`` less is better. ``records`` holds those
    of each row; ``references`` the rows to compare, (row, row compared with); ``differences`` their bootstraps, by both
    places and the metric.
    """

    title: str
    axes: list[str]
    values: dict[str, list[str]]
    metrics: list[str]
    frame: pd.DataFrame
    miniature: bool
    lower: frozenset[str] = frozenset()
    records: list[list[Record]] = field(default_factory=list)
    references: list[tuple[int, int]] = field(default_factory=list)
    differences: dict[tuple[int, int, str], Difference] = field(default_factory=dict)

    def row_name(self, place: int) -> str:
        """The name of a listed cell, or the settings of a row: 'k=4, aggregate=on'."""
        if CELL in self.axes:
            return self.frame[CELL].iloc[place]
        names = short_names(self.axes)
        return ", ".join(f"{names[axis]}={self.frame[axis].iloc[place]}" for axis in self.axes)


def ablation_tables(sweep: dict[str, Any]) -> list[Ablation]:
    """One table per task, dataset and protocol that the cells of ``sweep`` (of ``load_sweep``) were scored on.

    A sweep in which no cell has a record yet gives one table of statuses.
    """
    axes = [axis for axis in sweep["axes"] if axis not in SEED_AXES]
    values = {axis: [text_of(value) for value in sweep["axes"][axis]] for axis in axes}
    settings = [[text_of(cell["settings"].get(axis, "default")) for axis in axes] for cell in sweep["cells"]]
    cells = pd.DataFrame(settings).assign(status=[_status(cell) for cell in sweep["cells"]])
    by = list(range(len(axes))) or (lambda _: 0)  # columns by number: an axis may have any name
    status = cells.groupby(by, sort=False)["status"].agg(lambda lines: "; ".join(dict.fromkeys(lines)))
    scored = [(place, cell["records"]) for place, cell in enumerate(sweep["cells"]) if cell["records"]]
    parts = [records_frame(records).assign(cell=place) for place, records in scored]
    by_path = {str(record.path): record for _, records in scored for record in records}
    if not parts:
        frame = status.reset_index().rename(columns=dict(enumerate(axes)))
        return [Ablation(f"Sweep {sweep['name']}", axes, values, [], frame, miniature=False)]
    scores = pd.concat(parts).join(cells, on="cell")
    scores = scores[~scores["metric"].str.contains("/", regex=False)]
    tables = []
    for key, part in scores.groupby(GROUP, sort=False):
        group = dict(zip(GROUP, key, strict=True))
        title = f"Sweep {sweep['name']}: {part['title'].iloc[0]}, {dataset_name(group)}, protocol {group['protocol']}"
        metrics = list(dict.fromkeys(part.loc[part["headline"], "metric"])) or [part["metric"].iloc[0]]
        frame = status.to_frame()
        for metric in metrics:
            stats = part[part["metric"] == metric].groupby(by, sort=False)["value"].agg(["mean", "std", "count"])
            frame = frame.join(stats.set_axis([metric, f"{metric} std", f"{metric} n"], axis=1))
        own = part.groupby(by, sort=False)["record"].agg(set).reindex(frame.index)
        records = [[by_path[path] for path in sorted(paths)] if isinstance(paths, set) else [] for paths in own]
        frame = frame.reset_index().rename(columns=dict(enumerate(axes)))
        lower, miniature = frozenset(part.loc[part["lower"], "metric"]), bool(part["miniature"].any())
        references = _references(sweep, frame)
        tables.append(Ablation(title, axes, values, metrics, frame, miniature, lower, records, references))
    return tables


def _references(sweep: dict[str, Any], frame: pd.DataFrame) -> list[tuple[int, int]]:
    """Which rows are compared with which: as the cells say, or all with the first."""
    against = {cell["settings"].get(CELL): cell["against"] for cell in sweep["cells"]}
    if not any(against.values()):
        return [(place, 0) for place in range(1, len(frame))]
    names = list(frame[CELL])
    return [(place, names.index(other)) for place, name in enumerate(names) for other in against[name]]


def pairs(ablation: Ablation) -> list[Pair]:
    """The comparisons of rows with those they are compared with, by both places and the metric."""
    return [
        Pair((place, other, metric), ablation.row_name(place), ablation.records[place], ablation.records[other], metric)
        for metric in ablation.metrics
        for place, other in ablation.references
    ]


def text_of(value: Any) -> str:
    """A setting's value as a table shows it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, str) and value.endswith(".py"):  # an axis of configs: the file's name says which
        return value.rsplit("/", 1)[-1].removesuffix(".py")
    return str(value)


def short_names(axes: list[str]) -> dict[str, str]:
    """The last part of each axis ('model.k' → 'k') where that tells the axes apart, else the whole."""
    last = [axis.rsplit(".", 1)[-1] for axis in axes]
    return {axis: (name if last.count(name) == 1 else axis) for axis, name in zip(axes, last, strict=True)}


def _status(cell: dict[str, Any]) -> str:
    if cell["status"] != "failed":
        return cell["status"]
    reason = (str(cell["error"] or "no reason recorded").strip().splitlines() or [""])[-1]
    return f"failed: {reason}"


def to_sheet(ablation: Ablation) -> Sheet:
    """The ablation as it is shown: settings, scores with the best of each column marked, and statuses if any is odd."""
    frame, shows_status = ablation.frame, not ablation.metrics or (ablation.frame["status"] != "done").any()
    heads = [Head(name) for name in short_names(ablation.axes).values()]
    heads += [Head(name, number=True) for name in ablation.metrics] + [Head("status")] * shows_status
    columns = [[Cell(text) for text in frame[axis]] for axis in ablation.axes]
    for metric in ablation.metrics:
        shown = frame[metric].round(DIGITS)
        best = np.nan if shown.nunique() < 2 else shown.min() if metric in ablation.lower else shown.max()
        scores = zip(frame[metric], frame[f"{metric} std"], frame[f"{metric} n"], strict=True)
        texts = [score_text(*score, with_n=True) for score in scores]
        columns.append([Cell(text, bool(value == best)) for text, value in zip(texts, shown, strict=True)])
    columns += [[Cell(text) for text in frame["status"]]] * shows_status
    rows = [list(row) for row in zip(*columns, strict=True)]
    lead = " ".join(
        verdict_line(ablation.row_name(other), compared)
        for other in dict.fromkeys(other for _, other in ablation.references)
        if (compared := _compared(ablation, other))
    )
    return Sheet(ablation.title, heads, rows, lead, [MINIATURE] * ablation.miniature)


def _compared(ablation: Ablation, other: int) -> list[tuple[Difference | None, str, str]]:
    """(difference, row, metric) of all that is compared with the row at ``other``."""
    return [
        (ablation.differences.get((place, other, metric)), ablation.row_name(place), metric)
        for place, reference in ablation.references
        for metric in ablation.metrics
        if reference == other and np.isfinite(ablation.frame[metric].iloc[place])
    ]


def bootstrap_sheet(ablation: Ablation) -> Sheet | None:
    """Every bootstrapped difference between rows with its verdict; None where there is none."""
    lines = [
        ((ablation.row_name(place), ablation.row_name(other)), one)
        for (place, other, _), one in ablation.differences.items()
    ]
    return differences_sheet(ablation.title, ("row", "against"), lines) if lines else None


def bootstrap_frame(ablations: Sequence[Ablation]) -> pd.DataFrame:
    """Every bootstrapped difference between rows of sweeps, one a row."""
    lines = [
        {"table": ablation.title, "row": ablation.row_name(place), "against": ablation.row_name(other), **one.as_dict()}
        for ablation in ablations
        for (place, other, _), one in ablation.differences.items()
    ]
    return pd.DataFrame(lines)
