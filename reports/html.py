"""One self-contained HTML page: tables, plots, protocols and where every figure comes from."""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from selfpatch.pretrain.files import atomic_path
from selfpatch.reports.ablation import Ablation
from selfpatch.reports.figures import Plot, slug
from selfpatch.reports.pictures import Album
from selfpatch.reports.record import Record
from selfpatch.reports.sheet import Sheet
from selfpatch.reports.tables import Table


@dataclass
class Section:
    """What the page shows of one comparison: its table, the records behind it, plots, and notes on them."""

    table: Table
    records: list[Record]
    plots: list[Plot] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    units: Sheet | None = None
    album: Album | None = None

    @property
    def protocol(self) -> dict[str, Any]:
        """Parameters of the protocol that all the section's records share."""
        return self.records[0].protocol.parameters

    def per_class(self) -> dict[str, pd.DataFrame]:
        """Per-class metrics: metric → a row per class, a column per record's method and architecture."""
        found: dict[str, dict[str, dict[str, float]]] = {}
        for record in self.records:
            seed = "" if record.seed is None else f", seed {record.seed}"
            column = f"{record.method} {record.arch_name}{seed} ({record.checkpoint_sha256[:6]})"
            for name, value in record.metrics.items():
                metric, slash, label = name.partition("/")
                if slash:
                    found.setdefault(metric, {}).setdefault(column, {})[label] = value
        return {metric: pd.DataFrame(columns) for metric, columns in found.items()}


def render_page(
    overview: Sheet | None,
    sections: Sequence[tuple[Section, Sheet, Sheet | None]],
    ablations: Sequence[tuple[Ablation, Sheet, Sheet | None, list[Plot]]],
    published: Sequence[Sheet],
    records: Sequence[Record],
    made: str,
    colours: Mapping[str, str],
    place: Callable[[str, bytes], str],
) -> str:
    """The page as text.

    Args:
        overview: the benchmarks side by side; None where there is one alone.
        sections: each with its table and its bootstraps, as they are shown.
        ablations: each with its table, its bootstraps, and its plots.
        published: tables of others' figures.
        records: what it was all made from.
        made: the date to show.
        colours: of each method, by its name in a table's first column.
        place: puts a picture of this name somewhere and gives its address: :func:`embed` or :func:`keep`.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        overview=overview,
        sections=sections,
        ablations=ablations,
        published=published,
        records=records,
        miniature=sum(record.miniature for record in records),
        made=made,
        lines_of=lines_of,
        colours=colours,
        place=place,
        slug=slug,
        cards={section.table.short: f"card-{i}" for i, (section, *_) in enumerate(sections)},
    )


def embed(name: str, picture: bytes) -> str:
    """The address of a picture that lies in the page itself."""
    return f"data:image/{name.rpartition('.')[2]};base64,{base64.b64encode(picture).decode()}"


def keep(folder: Path, name: str, picture: bytes) -> str:
    """The address of a picture that is written into a folder beside the page."""
    with atomic_path(folder / name) as temporary:
        temporary.write_bytes(picture)
    return f"{folder.name}/{name}"


def lines_of(value: Any) -> list[str]:
    """A record's free-form entry (text, list or mapping, such as its certificate) as lines."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [f"{key}: {inner}" for key, inner in value.items()]
    if isinstance(value, (list, tuple)):
        return [line for item in value for line in lines_of(item)]
    return str(value).splitlines()
