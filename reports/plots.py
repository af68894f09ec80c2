"""Plots of comparisons, sweeps and videos; drawn on figures of their own, without pyplot's global state.

Colours are Okabe and Ito's, which stay apart for colour-blind readers; markers and labels repeat what colour says.
"""

import io
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from selfpatch.pretrain.files import atomic_path
from selfpatch.reports.ablation import CELL, Ablation, short_names
from selfpatch.reports.tables import Row, Table, delta_text, score_text

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#8c8c8c"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DPI = 150
UNDATED = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}  # equal data, equal file
STYLE = {
    "font.size": 9,
    "figure.titlesize": 10,
    "figure.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "text.parse_math": False,  # a name with two dollar signs is a name
}


def bars(table: Table, column: str, colours: Mapping[str, str]) -> Figure:
    """A bar per row; where the table has differences, beside it each one with its 95 % interval.

    A row without a bootstrap gets its difference as a bare point.
    """
    rows = [row for row in table.rows if np.isfinite(table.mean.at[row, column])]
    deltas = {row: table.delta(row, column) for row in rows}
    has_deltas = bool(np.isfinite(list(deltas.values())).any())
    names = [_row_name(table, row) for row in rows]
    lines = max(name.count("\n") + 1 for name in names)
    size = (9.0 if has_deltas else 7.5, 1.3 + max(0.36, 0.17 * lines) * len(rows))
    with _drawing(table.title, *size, panels=1 + has_deltas) as (figure, (left, *right)):
        places = np.arange(len(rows))
        means, stds, counts = (frame.loc[rows, column] for frame in (table.mean, table.std, table.n))
        spreads = stds.fillna(0)
        shades = [colours[row.method] for row in rows]
        whiskers = {"xerr": spreads.where(spreads > 0), "error_kw": {"ecolor": "black", "capsize": 2}}
        left.barh(places, means, height=0.62, color=shades, **(whiskers if spreads.any() else {}))
        for place, (mean, std, n) in enumerate(zip(means, stds, counts, strict=True)):
            _label(
                left, score_text(mean, std, n, with_n=True), (mean + spreads.iloc[place], place), (4, 0), va="center"
            )
        left.set_yticks(places, names)
        left.set_ylim(len(rows) - 0.4, -0.6)  # the first row on top
        room = 1.5 if (counts > 1).any() else 1.2  # for the figures
        left.set_xlim(0, max([*means, 1e-9]) * room)
        left.set(xlabel=f"{column} (per cent)")
        left.grid(axis="y", visible=False)
        if right:
            _delta_panel(right[0], table, deltas, column, colours)
    return figure


def _delta_panel(
    axes: Axes, table: Table, deltas: Mapping[Row, float], column: str, colours: Mapping[str, str]
) -> None:
    units = set()
    for place, (row, delta) in enumerate(deltas.items()):
        if not np.isfinite(delta):
            continue
        difference = table.differences.get((row, column))
        if difference is not None:
            span = [difference.low, difference.high]
            axes.plot(span, [place, place], color=colours[row.method], linewidth=2, solid_capstyle="butt")
            seeds = " and seeds" if max(max(one.seeds) for one in table.differences.values()) > 1 else ""
            units.add(f"over {difference.units} {difference.unit}s{seeds}")
        axes.plot(delta, place, "o", color=colours[row.method], markersize=6)
        plate = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # the line at zero must not strike a label
        _label(axes, delta_text(delta), (delta, place), (0, 6), ha="center", bbox=plate)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.tick_params(axis="y", left=False)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.1)
    interval = f"\n95 % interval, paired bootstrap\n{' / '.join(sorted(units))}" if units else ""
    axes.set(xlabel=f"Δ {column} to {table.baseline} (points){interval}")
    axes.grid(axis="y", visible=False)


def _label(axes: Axes, text: str, place: tuple[float, float], offset: tuple[int, int], **style: Any) -> None:
    """A text beside a point of the data, ``offset`` in points of print."""
    axes.annotate(text, place, offset, textcoords="offset points", fontsize=8, **style)


def curve(ablation: Ablation, metric: str, axis: str) -> Figure:
    """``metric`` against the settings of ``axis``; a line for each combination of the other axes.

    Settings stand at equal distances in the order of the grid: they are choices (k = 1, 2, 4, 8), not a
    scale. Points of an axis that has no order (names) are not joined.
    """
    values = ablation.values[axis]
    others = [] if axis == CELL else [other for other in ablation.axes if other != axis]
    names = short_names(ablation.axes)
    ordered = all(_is_number(value) for value in values)
    longest = max(map(len, values))
    slanted = longest > 9  # characters that fit beside each other
    size = (max(6.0, 1.6 + 0.75 * len(values)), 3.4 + slanted * 0.04 * longest)
    with _drawing(ablation.title, *size) as (figure, (axes,)):
        lines = ablation.frame.groupby(others, sort=False) if others else [((), ablation.frame)]
        for index, (setting, part) in enumerate(lines):
            part = part[part[axis].isin(values)].dropna(subset=[metric])
            places = part[axis].map(values.index).sort_values(kind="stable")
            y, std = (part.loc[places.index, name] for name in (metric, f"{metric} std"))
            label = ", ".join(f"{names[other]} {value}" for other, value in zip(others, setting, strict=True))
            style = {"linestyle": "-" if ordered else "none", "capsize": 3, "label": label or None}
            axes.errorbar(
                places,
                y,
                yerr=std.fillna(0) if std.any() else None,
                **_shade(index, COLOURS[index % len(COLOURS)]),
                **style,
            )
            if not others:
                for place, score in zip(places, y, strict=True):
                    _label(axes, f"{score:.1f}", (place, score), (0, 6), ha="center")
        axes.set_xticks(range(len(values)), values)
        if slanted:
            axes.tick_params(axis="x", labelrotation=30, labelsize=8)
            for label in axes.get_xticklabels():
                label.set(horizontalalignment="right", rotation_mode="anchor")
        axes.set_xlim(-0.4, len(values) - 0.6)
        axes.margins(y=0.2)
        axes.set(xlabel=names[axis], ylabel=f"{metric} (per cent)")
        axes.grid(axis="x", visible=False)
    return figure


def units(
    title: str,
    metric: str,
    scores: Mapping[str, Mapping[str, float]],
    reference: str,
    colours: Mapping[str, str],
) -> Figure:
    """A metric of every unit, such as J&F of each sequence, for each row (``{row: {unit: per cent}}``).

    Units are ordered by the gain of the row with the best mean over the row ``reference``.
    """
    others = [row for row in scores if row != reference]
    top = max(others, key=lambda row: sum(scores[row].values()))
    names = sorted(scores[reference], key=lambda name: scores[top][name] - scores[reference][name], reverse=True)
    with _drawing(title, 7.5, 1.5 + 0.2 * len(names)) as (figure, (axes,)):
        for place, name in enumerate(names):
            here = [values[name] for values in scores.values()]
            axes.plot([min(here), max(here)], [place, place], color="#c8c8c8", linewidth=1.5, zorder=1)
        for index, (row, values) in enumerate(scores.items()):
            style = {"linestyle": "none", "markersize": 5, "label": row}
            axes.plot([values[name] for name in names], range(len(names)), **_shade(index, colours[row]), **style)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.set(xlabel=f"{metric} (per cent) of each unit; ordered by\n" + _wrapped(f"{top} minus {reference}", 80))
    return figure


def scatter(
    title: str,
    metric: str,
    scores: Mapping[str, Mapping[str, float]],
    reference: str,
    colours: Mapping[str, str],
) -> Figure:
    """A metric of every unit against that of the row ``reference``; above the diagonal a row is better."""
    with _drawing(title, 6.0, 5.6) as (figure, (axes,)):
        axes.axline((0, 0), slope=1, color="black", linewidth=0.8)
        for index, row in enumerate(row for row in scores if row != reference):
            pairs = [(scores[reference][name], value) for name, value in scores[row].items()]
            style = {"linestyle": "none", "markersize": 5, "alpha": 0.85, "label": row}
            axes.plot(*zip(*pairs, strict=True), **_shade(index, colours[row]), **style)
        axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal", xlabel=_wrapped(f"{metric} of {reference}", 60))
        axes.set_ylabel(f"{metric} (per cent) of each unit")
    return figure


def efficiency(title: str, metric: str, lines: Mapping[str, Mapping[int, float]], colours: Mapping[str, str]) -> Figure:
    """A metric against the epochs of pretraining (``{row: {epochs: per cent}}``), a line a row."""
    with _drawing(title, 6.5, 3.8) as (figure, (axes,)):
        for index, (row, points) in enumerate(lines.items()):
            axes.plot(*zip(*points.items(), strict=True), **_shade(index, colours[row]), label=row)
        axes.margins(y=0.2)
        axes.set(xlabel="epochs of pretraining", ylabel=f"{metric} (per cent)")
    return figure


def method_colours(methods: Iterable[str]) -> dict[str, str]:
    """A colour for each method, the same in all plots of a report; the random initialisation is grey."""
    others = [method for method in dict.fromkeys(methods) if method != "Random"]
    return {"Random": GREY} | {method: COLOURS[index % len(COLOURS)] for index, method in enumerate(others)}


def render(figure: Figure, ending: str = "png") -> bytes:
    """The figure as a file of that ending: png, pdf or svg; equal data give equal bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "selfpatch"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # it is drawn as a box
        figure.savefig(buffer, format=ending, dpi=DPI, metadata=UNDATED[ending])
    return buffer.getvalue()


def save(figure: Figure, path: str | Path) -> None:
    """Write the figure, atomically, in the format of the path's ending."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(render(figure, Path(path).suffix[1:]))


@contextmanager
def _drawing(title: str, width: float, height: float, panels: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure in the style of all plots, so many axes side by side; its title, and a legend of what has labels."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
        yield figure, list(axes)
        title = _wrapped(title, int(width * 11.5))  # characters that fit an inch in this size
        figure.suptitle(title, x=0.01, horizontalalignment="left")
        if axes[0].get_legend_handles_labels()[1]:
            _legend(figure, axes[0])


def _shade(index: int, colour: str) -> dict[str, str]:
    """How the ``index``-th of several lines looks: its colour, and the marker that repeats what the colour says."""
    return {"marker": MARKERS[index % len(MARKERS)], "color": colour}


def _legend(figure: Figure, axes: Axes) -> None:
    """A legend below the axes, for which the figure grows."""
    labels = axes.get_legend_handles_labels()[1]
    widest = max(map(len, labels))
    columns = max(1, int(figure.get_figwidth() * 14 / (widest + 8)))  # entries of that many characters side by side
    figure.set_figheight(figure.get_figheight() + 0.17 * -(-len(labels) // columns))
    figure.legend(loc="outside lower center", ncols=columns, fontsize=8)


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width))


def _row_name(table: Table, row: Row) -> str:
    epochs = f", {row.epochs} ep" if table.shows_epochs and row.epochs > 0 else ""
    return f"{_wrapped(row.label, 36)}\n{row.arch}{epochs}"


def _is_number(text: str) -> bool:
    try:
        return np.isfinite(float(text))
    except ValueError:
        return False
