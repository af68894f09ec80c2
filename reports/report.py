"""The report command: records → tables on the terminal, and Markdown, CSV, plots and an HTML page in a folder."""

from __future__ import annotations

import argparse
import datetime
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table as RichTable
from rich.text import Text
from tabulate import tabulate

from selfpatch.pretrain.cli import UserError, command_parser, run_command
from selfpatch.pretrain.files import raise_unless_writable, write_text
from selfpatch.reports import ablation, plots
from selfpatch.reports.compare import Difference, add_arguments, compare, sequence_scores
from selfpatch.reports.compare import Progress as Callback
from selfpatch.reports.html import Section, render_page
from selfpatch.reports.load import (
    Record,
    load_published,
    load_records,
    load_sweep,
    newest_records,
    records_frame,
    scored_records,
)
from selfpatch.reports.tables import (
    HEADLINE,
    Table,
    baseline_row,
    comparison_csv,
    comparison_tables,
    overview_table,
    published_tables,
    to_markdown,
    to_rich,
)

DESCRIPTION = """Turn the records of evaluations into comparison tables, plots and one HTML page.

Rows of different protocols or data are never ranked together. Where a baseline row of the same architecture exists,
each row gets its difference to it, with a 95 % interval from a paired bootstrap where the records hold per-unit values.

example: tools/report.sh
example: tools/report.sh --records work_dirs/records --baseline DINO --out work_dirs/report
example: tools/report.sh --sweep work_dirs/sweeps/neighbours/sweep.json"""

PUBLISHED_NOTE = "Quoted from the sources named, not measured here; never ranked with the rows above."


def main(argv: Sequence[str]) -> None:
    """Print the tables and write report.md, report.csv, comparison.csv, bootstrap.csv, plots/ and report.html."""
    args = parse(argv)
    records, notes = newest_records(load_records(args.records))
    records, without = scored_records(records)
    for note in [*notes, *without]:
        print(note, file=sys.stderr)
    sweeps = [load_sweep(path) for path in args.sweep]
    frame = records_frame(records)
    tables = comparison_tables(frame, args.baseline)
    if args.baseline and args.baseline not in set(frame["method"]):
        known = ", ".join(sorted(set(frame["method"])))
        print(
            f"no record of the baseline {args.baseline}: tables show no differences (methods here: {known})",
            file=sys.stderr,
        )
        tables = comparison_tables(frame, None)
        args.baseline = None
    overview = overview_table(tables, args.baseline)
    by_path = {record["path"]: record for record in records}
    colours = plots.method_colours(row.method for row in overview.rows)
    with progress_bar() as progress:
        sections = [make_section(table, by_path, colours, args, progress) for table in tables]
    ablations = [(one, ablation_plots(one)) for sweep in sweeps for one in ablation.ablation_tables(sweep)]
    published = published_tables(load_published(), [table.group["task"] for table in tables])
    out = Path(args.out)
    named = name_plots(sections, ablations)
    for name, png in named.items():
        plots.save(png, out / "plots" / name)
    write_text(out / "report.csv", frame.to_csv(index=False))
    write_text(out / "comparison.csv", comparison_csv(tables).to_csv(index=False))
    write_text(out / "bootstrap.csv", bootstrap_frame(sections).to_csv(index=False))
    write_text(out / "report.md", markdown(overview, sections, ablations, published, list(named)))
    written = ["report.md", "report.csv", "comparison.csv", "bootstrap.csv", f"plots/ ({len(named)})"]
    if args.html:
        made = datetime.datetime.now().isoformat(sep=" ", timespec="minutes")
        write_text(out / "report.html", render_page(overview, sections, ablations, published, records, made))
        written.insert(0, "report.html")
    print_report(overview, sections, [one for one, _ in ablations], published)
    print(f"written to {out}: {', '.join(written)}")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; raises UserError for values that make no sense."""
    parser = command_parser(DESCRIPTION)
    parser.add_argument("--records", default="work_dirs/records", help="folder of records")
    parser.add_argument("--baseline", default="DINO", help="method that differences are taken to; 'none' for none")
    parser.add_argument("--out", default="work_dirs/report", help="folder to write to")
    parser.add_argument(
        "--sweep", action="append", default=[], help="a sweep.json for ablation tables; may be repeated"
    )
    parser.add_argument("--html", action=argparse.BooleanOptionalAction, default=True, help="write report.html")
    add_arguments(parser)
    args = parser.parse_args(argv)
    if args.resamples is not None and args.resamples < 1:
        raise UserError(f"--resamples must be at least 1, not {args.resamples}")
    raise_unless_writable(args.out, "--out")
    if args.baseline.lower() == "none":
        args.baseline = None
    return args


def make_section(
    table: Table, by_path: dict[str, Record], colours: dict[str, str], args: argparse.Namespace, progress: Progress
) -> Section:
    """The bootstraps and plots of one table; what cannot be bootstrapped is said in the section's notes."""
    section = Section(table, [by_path[path] for row in table.rows for path in row.records])
    for metric in headline(table):
        found: dict[int, Difference] = {}
        for index, row in enumerate(table.rows):
            reference = (
                None if args.baseline is None or row.is_baseline else baseline_row(table.rows, row, args.baseline)
            )
            if reference is None:
                continue
            sides = [[by_path[path] for path in one.records] for one in (row, reference)]
            if not all(record.get("units") for side in sides for record in side):
                continue
            try:
                with bar(progress, f"bootstrap {metric}, {row.label}") as step:
                    found[index] = compare(*sides, metric, args.resamples, args.bootstrap_seed, progress=step)
            except UserError as error:
                section.notes.append(f"No bootstrap of {metric} for {row.label} {row.arch}: {error}.")
        section.differences += [(table.rows[index], one) for index, one in found.items()]
        section.plots.append((metric, plots.png_bytes(plots.bars(table, metric, metric, found, colours))))
    if table.group["task"] == "davis":
        section.plots += sequence_plots(table, by_path, colours, section.notes)
    return section


def headline(table: Table) -> list[str]:
    """The metrics of a table that are plotted and bootstrapped."""
    return [name for name in HEADLINE.get(table.group["task"], table.columns[:1]) if name in table.columns]


def sequence_plots(
    table: Table, by_path: dict[str, Record], colours: dict[str, str], notes: list[str]
) -> list[tuple[str, bytes]]:
    """One plot per architecture and pretraining length with two rows or more that scored the same sequences.

    A row whose values of each sequence cannot be had is left out, and ``notes`` gets a line that says so.
    """
    scored: dict[int, dict[str, float]] = {}  # a row's place → J&F of each sequence
    for place, row in enumerate(table.rows):
        record = by_path[row.records[0]]  # of several seeds the first
        try:
            if record.get("units"):
                scored[place] = sequence_scores(record)
        except UserError as error:
            notes.append(f"No plot of sequences for {row.label} {row.arch}: {error}.")
    result = []
    trained = sorted({(row.arch, row.epochs) for row in table.rows if row.epochs}, key=str)
    for arch, epochs in trained or sorted({(row.arch, None) for row in table.rows}):
        places = [place for place in scored if table.rows[place].arch == arch]
        rows = {place: table.rows[place] for place in places if table.rows[place].epochs in (epochs, 0, None)}
        if len(rows) > 1 and len({frozenset(scored[place]) for place in rows}) == 1:
            labels = Counter(row.label for row in rows.values())  # rows of one label differ in their length
            lengths = {place: f", {row.epochs or 'unknown'} epochs" for place, row in rows.items()}
            names = {place: row.label + lengths[place] * (labels[row.label] > 1) for place, row in rows.items()}
            baseline = next((place for place, row in rows.items() if row.is_baseline), next(iter(rows)))
            length = f", {epochs} epochs" if table.shows_epochs and epochs else ""
            title = f"{arch}{length} on {table.group['dataset']}"
            scores = {names[place]: scored[place] for place in rows}
            shades = {names[place]: colours[row.method] for place, row in rows.items()}
            png = plots.png_bytes(plots.sequences(title, scores, names[baseline], shades))
            result.append((f"sequences {arch}{length}", png))
    return result


def ablation_plots(one: ablation.Ablation) -> list[tuple[str, bytes]]:
    """A curve per metric and axis with at least two values that were scored."""
    return [
        (f"{metric} against {axis}", plots.png_bytes(plots.curve(one, metric, axis)))
        for metric in one.metrics
        for axis in one.axes
        if one.frame.dropna(subset=[metric])[axis].nunique() > 1
    ]


def name_plots(sections: Sequence[Section], ablations: Sequence[tuple]) -> dict[str, bytes]:
    """File name → PNG for every plot of the report."""
    titled = [(section.table.title, section.plots) for section in sections]
    titled += [(one.title, pngs) for one, pngs in ablations]
    return {f"{slug(title)}-{slug(name)}.png": png for title, pngs in titled for name, png in pngs}


def slug(text: str) -> str:
    """``text`` as a file name: letters, digits and single dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower().replace("@", "-v")).strip("-")


def print_report(
    overview: Table,
    sections: Sequence[Section],
    ablations: Sequence[ablation.Ablation],
    published: dict[str, pd.DataFrame],
) -> None:
    """Print every table; into a pipe with room for the widest."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 240)
    for table in [*([overview] if len(sections) > 1 else []), *(section.table for section in sections)]:
        console.print(to_rich(table))
    lines = bootstrap_lines(sections)
    if lines:
        console.print("[bold]Is the difference more than chance?[/bold] (paired bootstrap)")
        for line in lines:
            console.print(f"  {line}", markup=False)
        console.print()
    for note in (note for section in sections for note in section.notes):
        console.print(note, markup=False)
    for one in ablations:
        heads, texts, marks = ablation.shown_table(one)
        console.print(frame_table(one.title, heads, texts, marks), "")
    for title, frame in published.items():
        console.print(frame_table(f"Published: {title}", list(frame.columns), published_texts(frame), None), "")
    if published:
        console.print(PUBLISHED_NOTE, markup=False)


def frame_table(title: str, heads: list[str], texts: list[list[str]], marks: list[list[bool]] | None) -> RichTable:
    """A plain table for the terminal; marked texts are bold. No text is taken for markup, whatever brackets it has."""
    grid = RichTable(title=Text(title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for head in heads:
        grid.add_column(Text(head))
    for index, line in enumerate(texts):
        marked = marks[index] if marks else [False] * len(line)
        grid.add_row(*(Text(text, style="bold" * mark) for text, mark in zip(line, marked, strict=True)))
    return grid


def published_texts(frame: pd.DataFrame) -> list[list[str]]:
    """Published rows as text, with a dash where nothing was published."""
    return [["–" if pd.isna(value) else str(value) for value in line] for line in frame.itertuples(index=False)]


def bootstrap_lines(sections: Sequence[Section]) -> list[str]:
    """One sentence per bootstrapped difference."""
    return [
        f"{section.table.group['dataset']}, {section.table.group['protocol']}: {row.label} {row.arch} "
        f"{one.metric} {one.delta:+.2f} ({one.low:+.2f} … {one.high:+.2f}), above zero in {100 * one.above:.1f} % "
        f"of {one.resamples} draws of {one.units} {one.unit}s"
        for section in sections
        for row, one in section.differences
    ]


def bootstrap_frame(sections: Sequence[Section]) -> pd.DataFrame:
    """Every bootstrapped difference as a row of ``bootstrap.csv``."""
    lines = [
        section.table.group
        | {"method": row.method, "arch": row.arch, "pretrain_epochs": row.epochs, "variant": row.variant}
        | {
            "metric": one.metric,
            "value": one.a,
            "baseline": one.b,
            "delta": one.delta,
            "low": one.low,
            "high": one.high,
        }
        | {"above_zero": one.above, "resamples": one.resamples, "unit": one.unit, "units": one.units}
        for section in sections
        for row, one in section.differences
    ]
    return pd.DataFrame(lines)


def markdown(
    overview: Table,
    sections: Sequence[Section],
    ablations: Sequence[tuple],
    published: dict[str, pd.DataFrame],
    images: list[str],
) -> str:
    """The whole report as GitHub Markdown; plots are linked."""
    parts = ["# Comparison of self-supervised backbones\n"]
    parts += [to_markdown(overview)] if len(sections) > 1 else []
    parts += [to_markdown(section.table) for section in sections]
    if lines := bootstrap_lines(sections):
        parts.append("### Is the difference more than chance?\n\n" + "\n".join(f"- {line}" for line in lines) + "\n")
    parts += [f"{note}\n" for section in sections for note in section.notes]
    parts += [ablation.to_markdown(one) for one, _ in ablations]
    parts += [f"![{name}](plots/{name})\n" for name in images]
    if published:
        parts.append(f"## Published figures\n\n{PUBLISHED_NOTE}\n")
    for title, frame in published.items():
        grid = tabulate(published_texts(frame), list(frame.columns), tablefmt="pipe", disable_numparse=True)
        parts.append(f"### {title}\n\n{grid}\n")
    return "\n".join(parts)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on a terminal; in a pipe :func:`bar` prints lines instead."""
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        yield progress


@contextmanager
def bar(progress: Progress, name: str) -> Iterator[Callback]:
    """One task of ``progress`` as the callback that the bootstrap takes; in a pipe a line every ten seconds."""
    task, printed = progress.add_task(escape(name), total=None), time.monotonic()

    def step(done: int, total: int) -> None:
        nonlocal printed
        progress.update(task, completed=done, total=total)
        if progress.disable and time.monotonic() - printed > 10:
            print(f"{name}: {done} of {total}", file=sys.stderr)
            printed = time.monotonic()

    yield step
    progress.remove_task(task)


if __name__ == "__main__":
    run_command(main)
