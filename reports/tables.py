"""The long table of records → comparison tables: rows = method × architecture, columns = metrics.

One table per task, dataset and protocol: rows of different protocols or data never meet in a ranking.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from selfpatch.reports import metrics
from selfpatch.reports.bootstrap import Difference, Pair
from selfpatch.reports.frames import GROUP, ROW, records_frame
from selfpatch.reports.record import Record
from selfpatch.reports.sheet import MINIATURE, Cell, Head, Sheet, sheet_of

DIGITS = 1  # decimals of a score, as papers print them
UNKNOWN = -1  # epochs of a checkpoint that does not say how long it was pretrained
NO_UNITS = "cannot tell without per-unit values"
MEASURES = [one for one in vars(metrics).values() if isinstance(one, metrics.Measure)]  # in the order of tables


class Row(NamedTuple):
    """One method, architecture, pretraining length and variant: an entry of a table's index."""

    method: str
    arch: str
    epochs: int
    variant: str

    @property
    def label(self) -> str:
        """Method with its variant, as the first column shows it."""
        return f"{self.method} ({self.variant})" if self.variant else self.method


@dataclass
class Table:
    """One comparison: ``mean``, ``std`` and ``n`` over the seeds of each row, frames of rows × columns.

    A column is a metric; of the overview, whose ``group`` is empty, it is (data and protocol, metric).
    """

    title: str  # what stands above it
    group: dict[str, str]  # what all its records share (:data:`GROUP`)
    mean: pd.DataFrame  # the scores
    std: pd.DataFrame  # their standard deviations over seeds; NaN for one
    n: pd.DataFrame  # how many seeds
    lower: set[Any]  # columns of which less is better
    headline: list[Any]  # columns that an overview shows; they are bootstrapped and plotted
    records: dict[Row, list[Record]]  # row -> those behind it; empty in the overview
    baseline: str | None  # the method that differences are taken to
    miniature: bool = False  # whether the data are
    notes: list[str] = field(default_factory=list)  # lines to stand below it
    suffix: str = ""  # tells apart tables of equal names
    # (row, column) -> its bootstrap against the row's reference
    differences: dict[tuple[Row, Any], Difference] = field(default_factory=dict)

    @property
    def rows(self) -> list[Row]:
        return [Row(*row) for row in self.mean.index]

    @property
    def columns(self) -> list[Any]:
        return list(self.mean.columns)

    @property
    def short(self) -> str:
        """Dataset and protocol alone, as the overview's column groups show them."""
        return f"{dataset_name(self.group)}, {self.group['protocol']}{self.suffix}"

    @property
    def shows_seeds(self) -> bool:
        """Whether a row is a mean over seeds; the overview says so cell by cell, for its columns may differ."""
        return bool(self.group) and bool((self.n > 1).any(axis=None))

    @property
    def shows_epochs(self) -> bool:
        """Whether rows differ in how long they were pretrained."""
        return len({row.epochs for row in self.rows if row.epochs > 0}) > 1

    def is_baseline(self, row: Row) -> bool:
        return row.method == self.baseline

    def reference(self, row: Row) -> Row | None:
        """The row that ``row`` is measured against: same architecture, same length if several; None if not one."""
        if self.baseline is None or self.is_baseline(row):
            return None
        candidates = [other for other in self.rows if self.is_baseline(other) and other.arch == row.arch]
        if len(candidates) > 1:
            candidates = [other for other in candidates if other.epochs == row.epochs]
        return candidates[0] if len(candidates) == 1 else None

    def delta(self, row: Row, column: Any) -> float:
        """A score's difference to the baseline; NaN where there is none."""
        reference = self.reference(row)
        return float("nan") if reference is None else self.mean.at[row, column] - self.mean.at[reference, column]

    def best(self, column: Any) -> float:
        """The best score of a column as shown; NaN where nothing is to be better than, or all are equal."""
        shown = self.mean[column].round(DIGITS).dropna()
        if shown.nunique() < 2:
            return float("nan")
        return float(shown.min() if column in self.lower else shown.max())

    def second(self, column: Any) -> float:
        """The second best score of a column as shown; NaN where there are fewer than three."""
        shown = sorted(self.mean[column].round(DIGITS).dropna().unique(), reverse=column not in self.lower)
        return float(shown[1]) if len(shown) > 2 else float("nan")

    def metric_name(self, column: Any) -> str:
        """A column in a sentence: its metric, with data and protocol where another column has that metric too."""
        if isinstance(column, str):
            return column
        return column[1] if sum(other[1] == column[1] for other in self.columns) == 1 else f"{column[1]}, {column[0]}"

    def verdicts(self) -> str:
        """Who is better than the baseline and what cannot be told, in one line."""
        if self.baseline is None:
            return "No baseline: nothing is called better."
        several = len({row.arch for row in self.rows}) > 1
        names = {row: f"{row.label} {row.arch}" if several else row.label for row in self.rows}
        compared = [
            (self.differences.get((row, column)), names[row], self.metric_name(column))
            for row in self.rows
            for column in self.headline
            if np.isfinite(self.delta(row, column))
        ]
        return verdict_line(self.baseline, compared)


def verdict_line(baseline: str, differences: Sequence[tuple[Difference | None, str, str]]) -> str:
    """Who is better than the baseline and what cannot be told, from (difference, row, metric) of every comparison."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for difference, row, metric in differences:
        would_tell = needed(difference) if difference else ""
        found[difference.verdict if difference else NO_UNITS][row].append(
            f"{metric}: {would_tell}" if would_tell else metric
        )
    lines = [
        f"{verdict}: " + ", ".join(f"{row} ({'; '.join(metrics)})" for row, metrics in found[verdict].items())
        for verdict in ("better", "worse", "cannot tell", NO_UNITS)
        if verdict in found
    ]
    return f"Against {baseline}, {'; '.join(lines)}." if lines else f"Nothing is compared with {baseline}."


def needed(difference: Difference) -> str:
    """How many units, and seeds a side, would tell a difference of this size, where those drawn cannot; else nothing.

    The interval narrows as the square root of what is drawn grows, seeds and units alike.
    """
    if difference.verdict != "cannot tell" or round(difference.delta, 2) == 0:
        return ""
    factor = ((difference.high - difference.low) / 2 / difference.delta) ** 2
    if not np.isfinite(factor):
        return ""
    counts = [(difference.units, difference.unit), *[(max(difference.seeds), "seed")] * (max(difference.seeds) > 1)]
    numbers = (f"{max(n, math.ceil(n * factor))} {what}s" for n, what in counts)
    return f"about {' and '.join(numbers)} would tell"


def comparison_tables(records: Sequence[Record], baseline: str | None = "DINO") -> list[Table]:
    """One table per task, dataset, split and protocol, in the order of the measures, then of titles.

    Differences are to the row of method ``baseline`` with the same architecture (and, where there are several, the same
    pretraining length); a row without one is named in the table's notes. Per-class metrics ('IoU/wall') are left out.
    """
    frame, by_path = records_frame(records), {str(record.path): record for record in records}
    shown = frame[~frame["metric"].str.contains("/", regex=False)]
    shown = shown.assign(pretrain_epochs=shown["pretrain_epochs"].fillna(UNKNOWN).astype(int))
    parts = [(dict(zip(GROUP, key, strict=True)), part) for key, part in shown.groupby(GROUP, sort=True)]
    rank = {metrics.reference_of(measure, ""): place for place, measure in enumerate(MEASURES)}
    parts.sort(key=lambda pair: (rank.get(pair[1]["measure"].iloc[0], len(rank)), pair[1]["title"].iloc[0]))
    tables = [_table(group, part, by_path, baseline) for group, part in parts]
    for table in tables:  # same name, other content: say which
        if sum(other.title == table.title for other in tables) > 1:
            table.suffix = f" (data {table.group['fingerprint'][:8]}, parameters {table.group['parameters']})"
    for table in tables:
        table.title += table.suffix
    return tables


def _table(group: dict[str, str], part: pd.DataFrame, by_path: dict[str, Record], baseline: str | None) -> Table:
    columns = list(dict.fromkeys(part["metric"]))
    stats = part.groupby([*ROW, "metric"], sort=False)["value"].agg(["mean", "std", "count"]).unstack("metric")
    stats = stats.loc[sort_rows(stats.index, baseline)]
    headline = [name for name in columns if part.loc[part["metric"] == name, "headline"].any()]
    title = f"{part['title'].iloc[0]}: {dataset_name(group)}, protocol {group['protocol']}"
    behind = part.groupby(ROW, sort=False)["record"]
    records = {Row(*key): [by_path[path] for path in own.unique()] for key, own in behind}
    lower = set(part.loc[part["lower"], "metric"])
    frames = (stats[name].reindex(columns=columns) for name in ("mean", "std", "count"))
    table = Table(title, group, *frames, lower, headline or columns[:1], records, baseline)
    table.miniature = bool(part["miniature"].any())
    table.notes = _notes(table) + [MINIATURE] * table.miniature
    return table


def pairs(table: Table) -> list[Pair]:
    """The comparisons of each row's main metrics with its reference, by (row, column)."""
    references = {row: reference for row in table.rows if (reference := table.reference(row)) is not None}
    return [
        Pair((row, column), f"{row.label} {row.arch}", table.records[row], table.records[reference], column)
        for column in table.headline
        for row, reference in references.items()
    ]


def remarks(table: Table) -> list[str]:
    """What the records of a table note of their data and figures: each line once, with the rows that it is about."""
    about: dict[str, dict[str, None]] = defaultdict(dict)  # line -> labels, in order
    for row in table.rows:
        for record in table.records[row]:
            for line in [*record.findings, *record.notes]:
                about[line][row.label] = None
    labels = {row.label for row in table.rows}
    return [line if labels <= rows.keys() else f"{', '.join(rows)}: {line}" for line, rows in about.items()]


def overview_table(tables: Sequence[Table], baseline: str | None = "DINO") -> Table:
    """The benchmarks side by side: one row per method × architecture, a column group per task and protocol."""
    keys = [table.short for table in tables]
    mean, std, n = (
        pd.concat([getattr(table, name)[table.headline] for table in tables], axis=1, keys=keys)
        for name in ("mean", "std", "n")
    )
    order = sort_rows(mean.index, baseline)
    lower = {(table.short, name) for table in tables for name in table.lower}
    miniature = [table.short for table in tables if table.miniature]
    frames = (frame.loc[order] for frame in (mean, std, n))
    overview = Table("Overview", {}, *frames, lower, list(mean.columns), {}, baseline)
    overview.miniature = bool(miniature)
    overview.differences = {
        (row, (table.short, column)): one for table in tables for (row, column), one in table.differences.items()
    }
    overview.notes = _notes(overview)
    if miniature:
        which = "" if len(miniature) == len(tables) else f" ({'; '.join(miniature)})"
        overview.notes.append(MINIATURE.replace("data:", f"data{which}:"))
    return overview


def sort_rows(index: pd.MultiIndex, baseline: str | None) -> list[tuple]:
    """By architecture; within one the random initialisation first, then the baseline, then the others by name."""
    rank = {"Random": 0, baseline: 1}
    rows = [Row(*row) for row in index]
    return sorted(rows, key=lambda r: (r.arch, rank.get(r.method, 2), r.method, max(r.epochs, 0), r.variant))


def _notes(table: Table) -> list[str]:
    missing = {row.arch for row in table.rows if table.reference(row) is None and not table.is_baseline(row)}
    notes = []
    if missing and table.baseline is not None:
        archs = ", ".join(sorted(missing))
        notes.append(f"No single baseline row {table.baseline} to take differences to for {archs}.")
    if (table.n > 1).any(axis=None):
        notes.append("± is the standard deviation over the seeds of a row.")
    return notes


def dataset_name(group: dict[str, str]) -> str:
    """The data set with its split, where its name does not say it already ('davis2017-val')."""
    return group["dataset"] if group["split"] in group["dataset"] else f"{group['dataset']} {group['split']}"


def score_text(mean: float, std: float, n: float, with_n: bool = False) -> str:
    """A score such as ``64.1`` or ``64.1 ± 0.3``, on demand with its number of seeds (``n=3``)."""
    if not np.isfinite(mean):
        return "–"
    spread = "" if not n > 1 else f" ± {std:.{DIGITS}f}" + f" (n={n:.0f})" * with_n
    return f"{mean:.{DIGITS}f}{spread}"


def delta_text(delta: float) -> str:
    """A difference with its sign, or nothing."""
    return f"{round(delta, DIGITS) + 0.0:+.{DIGITS}f}" if np.isfinite(delta) else ""  # + 0.0: no minus before a zero


def to_sheet(table: Table) -> Sheet:
    """The table as it is shown: method, architecture and, where rows differ in them, epochs and seeds; then scores."""
    names = ["method", "arch", *["epochs"] * table.shows_epochs, *["seeds"] * table.shows_seeds]
    metrics = [(column, "") if isinstance(column, str) else (column[1], column[0]) for column in table.columns]
    heads = [Head(name) for name in names] + [Head(*names, number=True) for names in metrics]
    best, second = ({column: find(column) for column in table.columns} for find in (table.best, table.second))
    rows = []
    for row in table.rows:
        texts = [row.label, row.arch]
        texts += [str(row.epochs) if row.epochs > 0 else "–"] * table.shows_epochs
        texts += [f"{table.n.loc[row].max():.0f}"] * table.shows_seeds
        cells = [Cell(text) for text in texts]
        for column in table.columns:
            mean, std, n = (frame.at[row, column] for frame in (table.mean, table.std, table.n))
            delta = table.delta(row, column)
            shown = round(delta, DIGITS) if np.isfinite(delta) else 0
            sign = "even" if shown == 0 else "gain" if (shown < 0) == (column in table.lower) else "loss"
            marks = [bool(round(mean, DIGITS) == marked[column]) for marked in (best, second)]
            text = score_text(mean, std, n, not table.group)
            cells.append(Cell(text, marks[0], delta_text(delta), sign, marks[1]))
        rows.append(cells)
    return Sheet(table.title, heads, rows, table.verdicts(), table.notes, table.short if table.group else "")


def bootstrap_sheet(table: Table) -> Sheet:
    """Every bootstrapped difference of a table with its verdict."""
    lines = [((row.label, row.arch), one) for (row, _), one in table.differences.items()]
    told = Counter(one.verdict for one in table.differences.values())
    lead = f"Differences to {table.baseline}: " + ", ".join(f"{count} {verdict}" for verdict, count in told.items())
    return differences_sheet(table.short, ("method", "arch"), lines, f"{lead}.", table.short)


def differences_sheet(
    of: str,
    names: Sequence[str],
    lines: Sequence[tuple[Sequence[str], Difference]],
    lead: str = "",
    group: str = "",
) -> Sheet:
    """Bootstrapped differences of a table, with verdicts; ``names`` stand above the texts that begin each line."""
    numbers = ("difference", "95 % interval", "above zero")
    heads = [Head(name, number=name in numbers) for name in (*names, "metric", *numbers, "verdict", "drawn")]
    rows = []
    for texts, one in lines:
        interval = f"{one.low:+.2f} … {one.high:+.2f}"
        figures = (one.metric, f"{one.delta:+.2f}", interval, f"{100 * one.above:.1f} %", one.verdict, one.drawn)
        rows.append([Cell(text) for text in (*texts, *figures)])
    return Sheet(f"Is the difference more than chance? {of}", heads, rows, lead, group=group)


def published_sheets(published: pd.DataFrame, titles: Sequence[str]) -> list[Sheet]:
    """Published figures of the tasks of these titles as they stand, with their source; no marks, no differences."""
    sheets = []
    for (task, dataset, protocol), part in published.groupby(["task", "dataset", "protocol"], sort=False):
        title = next((title for title in titles if task in title), None)
        if title is None:
            continue
        index = ["method", "arch", "data", "epochs", "source"]
        part = part.rename(columns={"pretrain_data": "data", "pretrain_epochs": "epochs"})
        part = part.astype({"epochs": object}).fillna({"data": "–", "epochs": "–"})
        wide = part.pivot_table(index=index, columns="metric", values="value", sort=False).reset_index()
        wide = part[index].drop_duplicates().merge(wide, on=index)  # in the order of the source, which pivoting loses
        wide = wide[[name for name in wide if name != "source"] + ["source"]]
        sheets.append(sheet_of(f"{title}: {dataset}, {protocol}", wide))
    return sheets
