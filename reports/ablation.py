"""A sweep's cells → ablation tables: the settings of each cell beside what it scored; cells that failed say
so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
from tabulate import tabulate

from selfpatch.reports.load import GROUP, Record, records_frame
from selfpatch.reports.tables import DIGITS, HEADLINE, MINIATURE, TASKS, lower_is_better

SEED_AXES = ("seed", "randomness.seed")  # repetitions: averaged, never a setting that is compared


@dataclass
class Ablation:
    """One sweep on one task, dataset and protocol.

    ``frame`` has a row per combination of ``axes`` with, for each of ``metrics``, the columns ``<metric>``
    (mean over seeds), ``<metric> std`` and ``<metric> n``, and ``status`` (done, pending, or 'failed: why').
    ``values`` gives each axis's values as text, in the order of the grid.
    """

    title: str
    axes: list[str]
    values: dict[str, list[str]]
    metrics: list[str]
    frame: pd.DataFrame
    miniature: bool


def ablation_tables(sweep: dict[str, Any]) -> list[Ablation]:
    """One table per task, dataset and protocol that the cells of ``sweep`` (of ``load_sweep``) were scored
    on.

    A sweep in which no cell has a record yet gives one table of statuses.
    """
    axes = [axis for axis in sweep["axes"] if axis not in SEED_AXES]
    values = {axis: [text_of(value) for value in sweep["axes"][axis]] for axis in axes}
    groups: dict[tuple, list[Record]] = {}
    for cell in sweep["cells"]:
        frame = records_frame(cell["records"])
        for key, part in frame.groupby(GROUP, sort=False):
            groups.setdefault(key, []).extend(r for r in cell["records"] if r["path"] in set(part["record"]))
    if not groups:
        return [Ablation(f"Sweep {sweep['name']}", axes, values, [], _rows(sweep, axes, [], set()), False)]
    result = []
    for key, records in groups.items():
        task, dataset, protocol = key[0], key[1], key[4]
        recorded = list(dict.fromkeys(name for record in records for name in record["metrics"] if "/" not in name))
        metrics = [name for name in HEADLINE.get(task, recorded[:1]) if name in recorded] or recorded[:1]
        title = f"Sweep {sweep['name']}: {TASKS.get(task, task)}, {dataset}, protocol {protocol}"
        rows = _rows(sweep, axes, metrics, {record["path"] for record in records})
        result.append(Ablation(title, axes, values, metrics, rows, any(record.get("miniature") for record in records)))
    return result


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


def _rows(sweep: dict[str, Any], axes: list[str], metrics: list[str], paths: set[str]) -> pd.DataFrame:
    cells: dict[tuple, list[dict]] = {}  # setting of every axis → its cells, several where a seed is an axis
    for cell in sweep["cells"]:
        setting = tuple(text_of(cell["settings"].get(axis, "default")) for axis in axes)
        cells.setdefault(setting, []).append(cell)
    lines = []
    for setting, repeated in cells.items():
        line: dict[str, Any] = dict(zip(axes, setting, strict=True))
        for metric in metrics:
            scores = pd.Series(
                [r["metrics"].get(metric) for cell in repeated for r in cell["records"] if r["path"] in paths],
                dtype=float,
            ).dropna()
            line |= {metric: scores.mean(), f"{metric} std": scores.std(ddof=1), f"{metric} n": len(scores)}
        line["status"] = "; ".join(dict.fromkeys(_status(cell) for cell in repeated))
        lines.append(line)
    return pd.DataFrame(lines)


def _status(cell: dict[str, Any]) -> str:
    if cell["status"] != "failed":
        return cell["status"]
    reason = (str(cell["error"] or "no reason recorded").strip().splitlines() or [""])[-1]
    return f"failed: {reason}"


def shown_table(ablation: Ablation) -> tuple[list[str], list[list[str]], list[list[bool]]]:
    """Headings, texts and 'best of its column' marks of an ablation, the same for terminal, Markdown and
    HTML.
    """
    names = short_names(ablation.axes)
    shows_status = not ablation.metrics or (ablation.frame["status"] != "done").any()
    heads = [*names.values(), *ablation.metrics, *(["status"] if shows_status else [])]
    best = {}
    for metric in ablation.metrics:
        shown = ablation.frame[metric].round(DIGITS)
        if shown.nunique() > 1:
            best[metric] = shown.min() if lower_is_better(metric) else shown.max()
    texts, marks = [], []
    for _, line in ablation.frame.iterrows():
        text, mark = [line[axis] for axis in ablation.axes], [False] * len(ablation.axes)
        for metric in ablation.metrics:
            score, std, n = line[metric], line[f"{metric} std"], line[f"{metric} n"]
            spread = f" ± {std:.{DIGITS}f} (n={n})" if n > 1 else ""
            text.append("–" if pd.isna(score) else f"{score:.{DIGITS}f}{spread}")
            mark.append(bool(round(score, DIGITS) == best.get(metric)) if not pd.isna(score) else False)
        texts.append([*text, *([line["status"]] if shows_status else [])])
        marks.append([*mark, *([False] if shows_status else [])])
    return heads, texts, marks


def to_markdown(ablation: Ablation) -> str:
    """The ablation as GitHub Markdown with its title; best values are bold."""
    heads, texts, marks = shown_table(ablation)
    body = [
        [(f"**{text}**" if mark else text).replace("|", "\\|") for text, mark in zip(line, best, strict=True)]
        for line, best in zip(texts, marks, strict=True)
    ]
    grid = tabulate(body, heads, tablefmt="pipe", disable_numparse=True)
    return f"### {ablation.title}\n\n{grid}\n" + (f"\n- {MINIATURE}\n" if ablation.miniature else "")
