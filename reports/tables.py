"""The long table of records → comparison tables: rows = method × architecture, columns = metrics.

One table per task, dataset and protocol: rows of different protocols or data never meet in a ranking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.align import Align
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text
from tabulate import tabulate

from selfpatch.reports.load import GROUP, ROW

TASKS = {
    "coco": "COCO instance segmentation",
    "ade20k": "ADE20K semantic segmentation",
    "davis": "DAVIS video object segmentation",
    "knn": "k-NN classification",
    "linear": "Linear classification",
}
# Columns of the overview: what a paper's main table shows of each task.
HEADLINE = {"coco": ["bbox AP", "mask AP"], "ade20k": ["mIoU"], "davis": ["J&F"], "knn": ["top-1"], "linear": ["top-1"]}
MINIATURE = "Miniature data: these are no benchmark figures and compare with nothing outside this table."
TERMINAL_COLOURS = {"gain": "not bold green", "loss": "not bold red", "even": "not bold"}
NEWLINE = "\n"
DIGITS = 1  # decimals of a score, as papers print them


@dataclass(frozen=True)
class Cell:
    """Mean over ``n`` seeds, their standard deviation (n > 1), the difference to the baseline row, best of
    its column.
    """

    mean: float
    std: float | None = None
    n: int = 1
    delta: float | None = None
    best: bool = False


@dataclass
class Row:
    """One method, architecture and pretraining length; ``cells`` by column, ``records`` the paths behind
    them.
    """

    method: str
    arch: str
    epochs: int | None
    variant: str
    cells: dict[Any, Cell]
    records: list[str] = field(default_factory=list)
    is_baseline: bool = False

    @property
    def seeds(self) -> int:
        """How many records the row averages."""
        return max(cell.n for cell in self.cells.values())

    @property
    def label(self) -> str:
        """Method with its variant, as the first column shows it."""
        return f"{self.method} ({self.variant})" if self.variant else self.method


@dataclass
class Table:
    """One comparison; ``columns`` are keys of the rows' cells, ``headings`` what stands above them (group,
    metric).
    """

    title: str
    group: dict[str, str]
    columns: list[Any]
    headings: list[tuple[str, str]]
    rows: list[Row]
    miniature: bool
    notes: list[str] = field(default_factory=list)
    suffix: str = ""  # tells apart tables of equal names

    @property
    def short(self) -> str:
        """Dataset and protocol alone, as the overview's column groups show them."""
        return f"{dataset_name(self.group)}, {self.group['protocol']}{self.suffix}"

    @property
    def shows_seeds(self) -> bool:
        """Whether a row is a mean over seeds; the overview says so cell by cell instead, for its columns may differ."""
        return bool(self.group) and any(row.seeds > 1 for row in self.rows)

    @property
    def shows_epochs(self) -> bool:
        """Whether rows differ in how long they were pretrained."""
        return len({row.epochs for row in self.rows if row.epochs}) > 1


def comparison_tables(frame: pd.DataFrame, baseline: str | None = "DINO") -> list[Table]:
    """One table per task, dataset, split and protocol, in the order COCO, ADE20K, DAVIS, others.

    Differences are to the row of method ``baseline`` with the same architecture (and, where there are
    several, the same pretraining length); a row without one is named in the table's notes. Per-class metrics
    ('IoU/wall') are left out.
    """
    shown = frame[~frame["metric"].str.contains("/", regex=False)]
    order = list(TASKS)
    keys = sorted(
        shown[GROUP].drop_duplicates().itertuples(index=False, name=None),
        key=lambda key: (order.index(key[0]) if key[0] in order else len(order), key),
    )
    tables = []
    for key in keys:
        group = dict(zip(GROUP, key, strict=True))
        part = shown[(shown[GROUP] == pd.Series(group)).all(axis=1)]
        columns = list(dict.fromkeys(part["metric"]))
        data = dataset_name(group)
        title = f"{TASKS.get(group['task'], group['task'])}: {data}, protocol {group['protocol']}"
        table = Table(title, group, columns, [("", name) for name in columns], [], bool(part["miniature"].any()))
        table.rows = sort_rows(_rows(part, "metric"), baseline)
        finish_table(table, baseline)
        tables.append(table)
    for table in tables:  # same name, other content: say which
        if sum(other.title == table.title for other in tables) > 1:
            table.suffix = f" (data {table.group['fingerprint'][:8]}, parameters {table.group['parameters']})"
    for table in tables:
        table.title += table.suffix
    return tables


def overview_table(tables: Sequence[Table], baseline: str | None = "DINO") -> Table:
    """The three benchmarks side by side: one row per method × architecture, a column group per task and
    protocol.
    """
    columns, headings, rows = [], [], {}
    for index, table in enumerate(tables):
        for name in HEADLINE.get(table.group["task"], table.columns[:1]):
            if name in table.columns:
                columns.append((index, name))
                headings.append((table.short, name))
        for row in table.rows:
            key = (row.method, row.arch, row.epochs, row.variant)
            merged = rows.setdefault(key, Row(*key, cells={}))
            merged.records += row.records
            merged.cells.update({(index, name): Cell(cell.mean, cell.std, cell.n) for name, cell in row.cells.items()})
    overview = Table("Overview", {}, columns, headings, [], any(table.miniature for table in tables))
    overview.rows = sort_rows(list(rows.values()), baseline)
    finish_table(overview, baseline)
    small = [table.short for table in tables if table.miniature]
    if small:
        which = "" if len(small) == len(tables) else f" ({'; '.join(small)})"
        overview.notes.append(MINIATURE.replace("data:", f"data{which}:"))
    return overview


def _rows(part: pd.DataFrame, column: str) -> list[Row]:
    rows: dict[tuple, Row] = {}
    for key, cell in part.groupby([*ROW, column], dropna=False, sort=False):
        method, arch, epochs, variant, name = key
        identity = (method, arch, None if pd.isna(epochs) else int(epochs), variant)
        row = rows.setdefault(identity, Row(*identity, cells={}))
        values = cell["value"].dropna()
        std = float(values.std(ddof=1)) if len(values) > 1 else None
        row.cells[name] = Cell(float(values.mean()) if len(values) else float("nan"), std, len(values))
        row.records += [path for path in cell["record"] if path not in row.records]
    return list(rows.values())


def sort_rows(rows: list[Row], baseline: str | None) -> list[Row]:
    """By architecture; within one the random initialisation first, then the baseline, then the others by
    name.
    """
    rank = {"Random": 0, baseline: 1}
    return sorted(rows, key=lambda row: (row.arch, rank.get(row.method, 2), row.method, row.epochs or 0, row.variant))


def finish_table(table: Table, baseline: str | None) -> None:
    """Fill in differences to the baseline row, marks of the best values, and the notes below the table."""
    missing = set()
    for row in table.rows:
        row.is_baseline = row.method == baseline
        reference = None if baseline is None or row.is_baseline else baseline_row(table.rows, row, baseline)
        if baseline is not None and not row.is_baseline and reference is None:
            missing.add(row.arch)
        for name, cell in row.cells.items():
            delta = cell.mean - reference.cells[name].mean if reference and name in reference.cells else None
            row.cells[name] = Cell(cell.mean, cell.std, cell.n, delta, False)
    for name, (_, metric) in zip(table.columns, table.headings, strict=True):
        cells = [row.cells[name] for row in table.rows if name in row.cells and np.isfinite(row.cells[name].mean)]
        if len(cells) < 2:
            continue  # nothing to be better than
        shown = {round(cell.mean, DIGITS) for cell in cells}
        best = (min if lower_is_better(metric) else max)(shown)
        for row in table.rows:
            if len(shown) > 1 and name in row.cells and round(row.cells[name].mean, DIGITS) == best:
                cell = row.cells[name]
                row.cells[name] = Cell(cell.mean, cell.std, cell.n, cell.delta, True)
    if missing:
        table.notes.append(
            f"No single baseline row {baseline} to take differences to for {', '.join(sorted(missing))}."
        )
    if any(cell.n > 1 for row in table.rows for cell in row.cells.values()):
        table.notes.append("± is the standard deviation over the seeds of a row.")
    if table.miniature and table.group:
        table.notes.append(MINIATURE)


def baseline_row(rows: Sequence[Row], row: Row, baseline: str) -> Row | None:
    """The row that ``row`` is measured against: same architecture, same length if several; None if that is
    not one.
    """
    candidates = [other for other in rows if other.method == baseline and other.arch == row.arch]
    if len(candidates) > 1:
        candidates = [other for other in candidates if other.epochs == row.epochs]
    return candidates[0] if len(candidates) == 1 else None


def dataset_name(group: dict[str, str]) -> str:
    """The data set with its split, where its name does not say it already ('davis2017-val')."""
    return group["dataset"] if group["split"] in group["dataset"] else f"{group['dataset']} {group['split']}"


def lower_is_better(metric: str) -> bool:
    """Decay is what is lost from the first to the last quarter of a video; every other metric is a gain."""
    return "decay" in metric.lower() or "error" in metric.lower()


def score_text(cell: Cell | None, with_n: bool = False) -> str:
    """A cell's score alone, such as ``64.1`` or ``64.1 ± 0.3``, on demand with its number of seeds (``n=3``)."""
    if cell is None or not np.isfinite(cell.mean):
        return "–"
    spread = "" if cell.std is None else f" ± {cell.std:.{DIGITS}f}" + f" (n={cell.n})" * with_n
    return f"{cell.mean:.{DIGITS}f}{spread}"


def delta_text(cell: Cell | None) -> str:
    """A cell's difference to the baseline with its sign, or nothing."""
    if cell is None or cell.delta is None or not np.isfinite(cell.delta):
        return ""
    return f"{round(cell.delta, DIGITS) + 0.0:+.{DIGITS}f}"  # + 0.0: no minus before a zero


def delta_sign(cell: Cell, metric: str) -> str:
    """Whether a cell's difference, as shown, is a 'gain', a 'loss' or neither."""
    shown = round(cell.delta or 0.0, DIGITS)
    if shown == 0:
        return "even"
    return "gain" if (shown < 0) == lower_is_better(metric) else "loss"


def row_head(table: Table, row: Row) -> list[str]:
    """The columns left of the metrics: method, architecture and, where rows differ in it, the epochs."""
    epochs = [str(row.epochs or "–")] if table.shows_epochs else []
    return [row.label, row.arch, *epochs, *([str(row.seeds)] if table.shows_seeds else [])]


def head_names(table: Table) -> list[str]:
    """Headings of the columns left of the metrics."""
    return ["method", "arch", *(["epochs"] if table.shows_epochs else []), *(["seeds"] if table.shows_seeds else [])]


def to_markdown(table: Table) -> str:
    """The table with its title and notes as GitHub Markdown; best values are bold, differences in
    brackets.
    """
    numbers = {group: str(i) for i, group in enumerate(dict.fromkeys(group for group, _ in table.headings), 1) if group}
    names = [f"{name} [{numbers[group]}]" if group else name for group, name in table.headings]
    body = []
    for row in table.rows:
        cells = []
        for name in table.columns:
            cell = row.cells.get(name)
            text = score_text(cell, not table.group)
            text = f"**{text}**" if cell and cell.best else text
            cells.append(f"{text} ({delta_text(cell)})" if delta_text(cell) else text)
        body.append([*(text.replace("|", "\\|") for text in row_head(table, row)), *cells])
    align = ("left",) * len(head_names(table)) + ("right",) * len(names)
    grid = tabulate(body, [*head_names(table), *names], tablefmt="pipe", colalign=align, disable_numparse=True)
    legend = [f"[{number}] {group}" for group, number in numbers.items()]
    below = "\n".join(f"- {line}" for line in [*legend, *table.notes])
    return f"### {table.title}\n\n{grid}\n" + (f"\n{below}\n" if below else "")


def to_rich(table: Table) -> Group:
    """The table for a terminal: title, scores (the best marked by a star) above their differences, notes."""
    grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in head_names(table):
        grid.add_column(name, overflow="fold", vertical="top")
    for group, name in table.headings:
        heading = f"{group.replace(', ', NEWLINE)}\n{name}" if group else name
        head = Align.right(Text(f"{heading} ", justify="right"), vertical="bottom")
        grid.add_column(head, justify="right", overflow="fold", vertical="top")
    for row in table.rows:
        cells = []
        for name, (_, metric) in zip(table.columns, table.headings, strict=True):
            cell = row.cells.get(name)
            best = cell is not None and cell.best
            text = Text(score_text(cell, not table.group) + ("*" if best else " "), style="bold" if best else "")
            if delta := delta_text(cell):
                text.append(f"\n{delta} ", style=TERMINAL_COLOURS[delta_sign(cell, metric)])
            cells.append(text)
        grid.add_row(*map(Text, row_head(table, row)), *cells)
    marked = any(cell.best for row in table.rows for cell in row.cells.values())
    differs = any(delta_text(cell) for row in table.rows for cell in row.cells.values())
    notes = (
        ["* best of its column"] * marked + ["below a score: difference to the baseline row"] * differs + table.notes
    )
    return Group(Text(table.title, style="bold"), grid, Text("\n".join(notes) + "\n", style="dim"))


def comparison_csv(tables: Sequence[Table]) -> pd.DataFrame:
    """All comparison tables under one header: a line per row of a table, three columns per metric.

    ``<metric>`` is the mean, ``<metric> std`` over the seeds (empty for one), ``<metric> delta`` to the
    baseline.
    """
    lines = []
    for table in tables:
        for row in table.rows:
            line = table.group | {
                "method": row.method,
                "arch": row.arch,
                "pretrain_epochs": row.epochs,
                "variant": row.variant,
            }
            line |= {"n": row.seeds, "miniature": table.miniature}
            for name in table.columns:
                if cell := row.cells.get(name):
                    line |= {name: cell.mean, f"{name} std": cell.std, f"{name} delta": cell.delta}
            lines.append(line)
    frame = pd.DataFrame(lines)
    spare = [name for name in frame if name.endswith((" std", " delta")) and frame[name].isna().all()]
    return frame.drop(columns=spare).astype({"pretrain_epochs": "Int64"})


def published_tables(published: pd.DataFrame, tasks: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Published figures of ``tasks`` as they stand: title → rows × metrics with their source; no marks, no
    differences.
    """
    result = {}
    for (task, dataset, protocol), part in published.groupby(["task", "dataset", "protocol"], sort=False):
        if task in tasks:
            index = ["method", "arch", "pretrain_data", "pretrain_epochs", "source"]
            metrics = list(dict.fromkeys(part["metric"]))
            wide = part.pivot(index=index, columns="metric", values="value")[metrics]
            order = pd.MultiIndex.from_frame(
                part[index].drop_duplicates()
            )  # as published, not sorted by a figure or name
            wide = wide.reindex(order).reset_index()
            wide["pretrain_epochs"] = [("–" if pd.isna(epochs) else str(epochs)) for epochs in wide["pretrain_epochs"]]
            wide.columns.name = None
            names = [*index[:-1], *metrics, "source"]
            result[f"{TASKS.get(task, task)}: {dataset}, {protocol}"] = wide[names].rename(
                columns={"pretrain_data": "data", "pretrain_epochs": "epochs"}
            )
    return result
