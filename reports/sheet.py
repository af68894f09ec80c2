"""A table as it is shown, and its three renderings: Markdown, terminal, and (by the page's template) HTML."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd
from rich import box
from rich.align import Align
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text
from tabulate import tabulate

MINIATURE = "Miniature data: these are no benchmark figures and compare with nothing outside this table."
COLOURS = {"gain": "not bold green", "loss": "not bold red", "even": "not bold"}
NEWLINE = "\n"


class Cell(NamedTuple):
    """What stands in one place: a text, whether it is the best of its column, and its difference to the baseline.

    ``sign`` says whether the difference is a 'gain', a 'loss' or 'even'; ``second`` marks the second best. On the
    page, ``link`` is the place that the text leads to.
    """

    text: str
    best: bool = False
    delta: str = ""
    sign: str = "even"
    second: bool = False
    link: str = ""


class Head(NamedTuple):
    """What stands above a column; columns of one ``group`` belong together, and numbers stand to the right."""

    name: str
    group: str = ""
    number: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table of texts: ``lead`` is its first line, ``notes`` stand below it; ``group`` belongs to heads without."""

    title: str
    heads: list[Head]
    rows: list[list[Cell]]
    lead: str = ""
    notes: list[str] = field(default_factory=list)
    group: str = ""

    def spans(self) -> list[tuple[str, int]]:
        """The groups above the columns with how many columns each spans; empty without groups."""
        spans: list[tuple[str, int]] = []
        for head in self.heads:
            if spans and spans[-1][0] == head.group:
                spans[-1] = (head.group, spans[-1][1] + 1)
            else:
                spans.append((head.group, 1))
        return spans if any(head.group for head in self.heads) else []


def sheet_of(title: str, frame: pd.DataFrame, lead: str = "", notes: Sequence[str] = ()) -> Sheet:
    """A frame as it stands, without its index; a dash where it holds nothing."""
    rows = [[Cell("–" if pd.isna(value) else str(value)) for value in line] for line in frame.itertuples(index=False)]
    return Sheet(title, [Head(str(name)) for name in frame.columns], rows, lead, list(notes))


def to_markdown(sheet: Sheet) -> str:
    """GitHub Markdown with title, lead and notes; best values are bold, differences in brackets."""
    numbers = {group: str(i) for i, group in enumerate(dict.fromkeys(h.group for h in sheet.heads if h.group), 1)}
    heads = [escape(head.name) for head in sheet.heads]
    names = [f"{name} [{numbers[head.group]}]" if head.group else name for name, head in zip(heads, sheet.heads)]
    body = []
    for row in sheet.rows:
        texts = [escape(cell.text) for cell in row]
        texts = [f"**{text}**" if cell.best else text for text, cell in zip(texts, row, strict=True)]
        body.append([f"{text} ({cell.delta})" if cell.delta else text for text, cell in zip(texts, row, strict=True)])
    align = ["right" if head.number else "left" for head in sheet.heads]
    grid = tabulate(body, names, tablefmt="pipe", colalign=align if body else None, disable_numparse=True)
    notes = [*(f"[{n}] {escape(group)}" for group, n in numbers.items()), *map(escape, sheet.notes)]
    below = "\n".join(f"- {line}" for line in notes)
    parts = [f"### {escape(sheet.title)}", escape(sheet.lead), grid, below]
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """``text`` in one line, so that Markdown shows it as it is."""
    return re.sub(r"([\\`*<>\[\]|~$]|(?<!\w)_|_(?!\w)|&(?=#?\w+;))", r"\\\1", " ".join(text.split()))


def to_rich(sheet: Sheet) -> Group:
    """A table for a terminal: the best has a star, differences stand below scores, and no text is taken for markup."""
    grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in sheet.heads:
        name = f"{head.group.replace(', ', NEWLINE)}\n{head.name}" if head.group else head.name
        if head.number:
            title = Align.right(Text(f"{name} ", justify="right"), vertical="bottom")
            grid.add_column(title, justify="right", overflow="fold", vertical="top")
        else:
            grid.add_column(Text(name), overflow="fold", vertical="top")
    for row in sheet.rows:
        texts = []
        for head, cell in zip(sheet.heads, row, strict=True):
            mark = ("*" if cell.best else " ") if head.number else ""
            text = Text(cell.text + mark, style="bold" if cell.best else "")
            if cell.delta:
                text.append(f"\n{cell.delta} ", style=COLOURS[cell.sign])
            texts.append(text)
        grid.add_row(*texts)
    cells = [cell for row in sheet.rows for cell in row]
    notes = ["* best of its column"] * any(cell.best for cell in cells)
    notes += ["below a score: difference to the baseline row"] * any(cell.delta for cell in cells) + sheet.notes
    above = [Text(sheet.title, style="bold"), *([Text(sheet.lead)] if sheet.lead else [])]
    return Group(*above, grid, Text("\n".join(notes) + "\n", style="dim"))
