"""One self-contained HTML page: tables, plots, protocols and where every figure comes from."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from selfpatch.reports.ablation import Ablation, shown_table
from selfpatch.reports.compare import Difference
from selfpatch.reports.load import Record, arch_name
from selfpatch.reports.tables import (
    Row,
    Table,
    delta_sign,
    delta_text,
    head_names,
    row_head,
    score_text,
)


@dataclass
class Section:
    """What the page shows of one comparison: its table, plots (name, PNG), bootstraps by row, and notes on them."""

    table: Table
    records: list[Record]
    plots: list[tuple[str, bytes]] = field(default_factory=list)
    differences: list[tuple[Row, Difference]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def protocol(self) -> dict[str, Any]:
        """Parameters of the protocol that all the section's records share."""
        return self.records[0]["protocol"].get("parameters") or {}

    def per_class(self) -> dict[str, pd.DataFrame]:
        """Per-class metrics: metric → a row per class, a column per record's method and architecture."""
        found: dict[str, dict[str, dict[str, float]]] = {}
        for record in self.records:
            seed = "" if record.get("seed") is None else f", seed {record['seed']}"
            column = f"{record['method']} {arch_name(record)}{seed} ({record['checkpoint_sha256'][:6]})"
            for name, value in record["metrics"].items():
                metric, slash, label = name.partition("/")
                if slash:
                    found.setdefault(metric, {}).setdefault(column, {})[label] = value
        return {metric: pd.DataFrame(columns) for metric, columns in found.items()}


def render_page(
    overview: Table,
    sections: Sequence[Section],
    ablations: Sequence[tuple[Ablation, list[tuple[str, bytes]]]],
    published: Mapping[str, pd.DataFrame],
    records: Sequence[Record],
    made: str,
) -> str:
    """The page as text; ``ablations`` are pairs of a table and its plots, ``made`` the date to show."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["png"] = lambda png: "data:image/png;base64," + base64.b64encode(png).decode()
    template = environment.from_string(Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        overview=overview,
        heading_groups=heading_groups(overview),
        sections=sections,
        ablations=[(ablation, *shown_table(ablation), plots) for ablation, plots in ablations],
        published=published,
        records=[{**record, "arch_name": arch_name(record)} for record in records],
        miniature=sum(bool(record.get("miniature")) for record in records),
        made=made,
        head_names=head_names,
        row_head=row_head,
        score_text=score_text,
        delta_text=delta_text,
        delta_sign=delta_sign,
        lines_of=lines_of,
    )


def heading_groups(table: Table) -> list[tuple[str, int]]:
    """The groups above a table's columns with how many columns each spans."""
    spans: list[tuple[str, int]] = []
    for group, _ in table.headings:
        if spans and spans[-1][0] == group:
            spans[-1] = (group, spans[-1][1] + 1)
        else:
            spans.append((group, 1))
    return spans


def lines_of(value: Any) -> list[str]:
    """A record's free-form entry (text, list or mapping, such as its certificate) as lines."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [f"{key}: {inner}" for key, inner in value.items()]
    if isinstance(value, (list, tuple)):
        return [line for item in value for line in lines_of(item)]
    return str(value).splitlines()
