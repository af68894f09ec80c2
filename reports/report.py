"""The report command: records → tables on the terminal, and files in a folder: tables, plots and an HTML page."""

import argparse
import dataclasses
import datetime
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from selfpatch.pretrain.cli import command_parser, run_command
from selfpatch.pretrain.files import raise_unless_writable, write_text
from selfpatch.pretrain.progress import Meter
from selfpatch.reports import ablation, pictures, plots
from selfpatch.reports.bootstrap import Progress as Callback
from selfpatch.reports.bootstrap import add_arguments, check_arguments, compare_pairs
from selfpatch.reports.exports import bootstrap_frame, check_parquet, comparison_csv, write_frames
from selfpatch.reports.figures import VECTOR, Plot, ablation_plots, scores_of_units, slug, table_plots
from selfpatch.reports.frames import (
    load_published,
    load_records,
    load_sweep,
    newest_records,
    records_frame,
    scored_records,
)
from selfpatch.reports.html import Section, embed, keep, render_page
from selfpatch.reports.latex import document
from selfpatch.reports.record import Record
from selfpatch.reports.sheet import Sheet, to_markdown, to_rich
from selfpatch.reports.tables import (
    Table,
    bootstrap_sheet,
    comparison_tables,
    overview_table,
    pairs,
    published_sheets,
    remarks,
    to_sheet,
)

DESCRIPTION = """Turn the records of evaluations into comparison tables, plots and one HTML page.

Rows of different protocols or data are never ranked together. Where a baseline row of the same architecture exists,
each row gets its difference to it, with a 95 % interval from a paired bootstrap where the records hold per-unit values.

example: tools/report.sh
example: tools/report.sh --records work_dirs/records --baseline DINO --out work_dirs/report
example: tools/report.sh --sweep work_dirs/sweeps/neighbours/sweep.json"""

PUBLISHED_NOTE = "Quoted from the sources named, not measured here; never ranked with the rows above."


@dataclass
class Report:
    """All that is printed and written: tables as they are shown, with their plots."""

    overview: Sheet | None  # None where there is one benchmark alone
    sections: list[tuple[Section, Sheet, Sheet | None]]  # with its bootstraps, if any
    ablations: list[tuple[ablation.Ablation, Sheet, Sheet | None, list[Plot]]]  # as the sections
    published: list[Sheet]

    def sheets(self) -> list[Sheet]:
        """The measured tables in the order of the report."""
        shown = [self.overview] if self.overview else []
        for _, sheet, bootstraps, *_ in [*self.sections, *self.ablations]:
            shown += [sheet, bootstraps] if bootstraps else [sheet]
        return shown

    def plots(self) -> dict[str, Plot]:
        """File name, without ending → plot."""
        titled = [(section.table.title, section.plots) for section, *_ in self.sections]
        titled += [(sheet.title, own) for _, sheet, _, own in self.ablations]
        return {f"{slug(title)}-{slug(plot.name)}": plot for title, own in titled for plot in own}

    def notes(self) -> list[str]:
        """What could not be compared or drawn."""
        return [note for section, *_ in self.sections for note in section.notes]


def main(argv: Sequence[str]) -> None:
    """Print the tables and write them in every format, plots with their data, and the page."""
    args = parse(argv)
    records, notes = newest_records(load_records(args.records))
    records, without = scored_records(records)
    for note in [*notes, *without]:
        print(note, file=sys.stderr)
    sweeps = [load_sweep(path) for path in args.sweep]
    frame = records_frame(records)
    known = sorted({record.method for record in records})
    if args.baseline and args.baseline not in known:
        why = f"tables show no differences (methods here: {', '.join(known)})"
        print(f"no record of the baseline {args.baseline}: {why}", file=sys.stderr)
        args.baseline = None
    tables = comparison_tables(records, args.baseline)
    report = make_report(tables, records, sweeps, args)
    out, drawn = Path(args.out), report.plots()
    for name, plot in drawn.items():
        plot.save(out / "plots" / name, [ending for ending in VECTOR if ending in args.also])
    frames = {"report": frame, "comparison": comparison_csv(tables), "bootstrap": bootstrap_frame(tables)}
    if sweeps:
        frames["ablation"] = ablation.bootstrap_frame([one for one, *_ in report.ablations])
    written = ["report.md", "report.tex", *write_frames(frames, out, "parquet" in args.also), f"plots/ ({len(drawn)})"]
    write_text(out / "report.md", markdown(report, [f"{name}.png" for name in drawn]))
    write_text(out / "report.tex", document(report.sheets()))
    if args.html:
        made = datetime.datetime.now().isoformat(sep=" ", timespec="minutes")
        shades = plots.method_colours(row.method for table in tables for row in table.rows)
        colours = {row.label: shades[row.method] for table in tables for row in table.rows}
        place = partial(keep, out / "assets") if args.assets else embed
        page = render_page(
            report.overview, report.sections, report.ablations, report.published, records, made, colours, place
        )
        write_text(out / "report.html", page)
        written.insert(0, "report.html")
    print_report(report)
    print(f"written to {out}: {', '.join(written)}")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; raises UserError for values that make no sense."""
    parser = command_parser(DESCRIPTION)
    add = parser.add_argument
    add("--records", default="work_dirs/records", help="folder of records")
    add("--baseline", default="DINO", help="method that differences are taken to; 'none' for none")
    add("--out", default="work_dirs/report", help="folder to write to")
    add("--sweep", action="append", default=[], help="a sweep.json for ablation tables; may be repeated")
    add("--html", action=argparse.BooleanOptionalAction, default=True, help="write report.html")
    add("--assets", action="store_true", help="put the page's pictures into a folder beside it")
    add("--also", action="append", default=[], choices=("parquet", *VECTOR), help="a further format; may be repeated")
    add_arguments(parser)
    args = parser.parse_args(argv)
    if "parquet" in args.also:
        check_parquet()
    check_arguments(args)
    raise_unless_writable(args.out, "--out")
    if args.baseline.lower() == "none":
        args.baseline = None
    return args


def make_report(tables: list[Table], records: list[Record], sweeps: list[dict], args: argparse.Namespace) -> Report:
    """Bootstraps, plots and sheets of all tables; what cannot be bootstrapped is said in a section's notes."""
    colours = plots.method_colours(row.method for table in tables for row in table.rows)
    sections, ablations = [], []
    bootstrap = partial(compare_pairs, resamples=args.resamples, seed=args.bootstrap_seed, step=bar)
    for table in tables:
        section = Section(table, [record for row in table.rows for record in table.records[row]])
        table.differences, section.notes = bootstrap(pairs(table))
        table.notes += remarks(table)
        scored, unread = scores_of_units(table)
        section.plots = table_plots(table, scored, colours)
        section.album = pictures.album_of(table, scored)
        links = {one.name: f"#{slug(f'{table.short} {one.name}')}" for one in section.album.pictures}
        section.units = pictures.unit_sheet(table, section.album, links)
        section.notes += [*unread, *section.album.notes]
        sections.append((section, to_sheet(table), bootstrap_sheet(table) if table.differences else None))
    if sections and not args.assets:
        albums = [section.album for section, *_ in sections]
        sections[-1][0].notes += pictures.leave_out_clips(albums, pictures.LARGEST_PAGE)
    for one in (one for sweep in sweeps for one in ablation.ablation_tables(sweep)):
        one.differences, _ = bootstrap(ablation.pairs(one))
        ablations.append((one, ablation.to_sheet(one), ablation.bootstrap_sheet(one), ablation_plots(one)))
    return Report(
        to_sheet(overview_table(tables, args.baseline)) if len(tables) > 1 else None,
        sections,
        ablations,
        published_sheets(load_published(), list(dict.fromkeys(record.title for record in records))),
    )


def print_report(report: Report) -> None:
    """Print every table; into a pipe with room for the widest."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 240)
    for sheet in report.sheets():
        console.print(to_rich(sheet))
    for note in report.notes():
        console.print(note, markup=False)
    for sheet in report.published:
        console.print(to_rich(dataclasses.replace(sheet, title=f"Published: {sheet.title}")))
    if report.published:
        console.print(PUBLISHED_NOTE, markup=False)


def markdown(report: Report, images: list[str]) -> str:
    """The whole report as GitHub Markdown; plots are linked."""
    parts = ["# Comparison of self-supervised backbones\n", *map(to_markdown, report.sheets())]
    parts += [f"{note}\n" for note in report.notes()]
    parts += [f"![{name}](plots/{name})\n" for name in images]
    parts += [f"## Published figures\n\n{PUBLISHED_NOTE}\n"] * bool(report.published)
    return "\n".join([*parts, *map(to_markdown, report.published)])


@contextmanager
def bar(name: str) -> Iterator[Callback]:
    """The progress of one bootstrap, on standard error, as the callback that it takes."""
    with Meter(name, 0, "draws", file=sys.stderr, summary=False) as meter:
        yield meter.update


if __name__ == "__main__":
    run_command(main)
