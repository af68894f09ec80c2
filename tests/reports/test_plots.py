"""Plots hold what the tables say; nothing of them stays behind in matplotlib."""

import itertools

import matplotlib
import pandas as pd
import pytest

from selfpatch.reports.ablation import Ablation
from selfpatch.reports.bootstrap import Difference
from selfpatch.reports.frames import ROW
from selfpatch.reports.plots import GREY, bars, curve, method_colours, render, units
from selfpatch.reports.tables import Row, Table

INTERVAL = Difference("J&F", 63.0, 60.0, 3.0, 1.5, 4.5, 0.99, 100, "sequence", 30)


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def table_of(title, scores, n=1, baseline="DINO"):
    """A table of one metric: method -> J&F."""
    index = pd.MultiIndex.from_tuples([Row(method, "vit-s16", 200, "") for method in scores], names=ROW)
    mean = pd.DataFrame({"J&F": list(scores.values())}, index=index)
    std = mean * (0.0 if n > 1 else float("nan"))
    return Table(title, {"task": "davis"}, mean, std, mean * 0 + n, set(), ["J&F"], {}, baseline)


@pytest.fixture
def table():
    return table_of("DAVIS: a set, protocol p@1", {"Random": 20.0, "DINO": 60.0, "DINO+SelfPatch": 63.0})


def test_bars_show_scores_differences_and_intervals(table):
    table.differences[table.rows[2], "J&F"] = INTERVAL
    figure = bars(table, "J&F", method_colours(scores_of(table)))
    assert len(figure.axes) == 2
    assert {"20.0", "60.0", "63.0", "+3.0", "-40.0"} <= set(texts(figure))
    assert any(list(line.get_xdata()) == [1.5, 4.5] for line in figure.axes[1].lines)
    assert "30 sequences" in figure.axes[1].get_xlabel()


def scores_of(table):
    return [row.method for row in table.rows]


def test_without_a_baseline_there_is_no_second_panel(table):
    table.baseline = None
    assert len(bars(table, "J&F", method_colours(scores_of(table))).axes) == 1


@pytest.mark.parametrize(("values", "joined"), [(["1", "2", "8"], "-"), (["3x3", "5x5", "all"], "None")])
def test_a_curve_joins_numbers_and_not_names(values, joined):
    frame = pd.DataFrame({"k": values, "J&F": [1.0, 2.0, 3.0], "J&F std": [None] * 3, "J&F n": 1, "status": "done"})
    figure = curve(Ablation("Sweep a: b", ["k"], {"k": values}, ["J&F"], frame, False), "J&F", "k")
    (line,) = (line for line in figure.axes[0].lines if len(line.get_xdata()) == 3)
    assert line.get_linestyle() == joined
    assert list(line.get_ydata()) == [1.0, 2.0, 3.0]
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == values


def test_a_curve_has_a_line_for_each_setting_of_the_other_axes():
    rows = [(k, w, float(k) + float(w)) for w in ("0.1", "0.5") for k in ("8", "1")]
    frame = pd.DataFrame(rows, columns=["model.k", "weight", "J&F"]).assign(
        **{"J&F std": 0.1, "J&F n": 2, "status": "done"}
    )
    values = {"model.k": ["1", "8"], "weight": ["0.1", "0.5"]}
    figure = curve(Ablation("Sweep a: b", ["model.k", "weight"], values, ["J&F"], frame, False), "J&F", "model.k")
    lines = [line for line in figure.axes[0].lines if list(line.get_xdata()) == [0, 1] and line.get_linestyle() == "-"]
    assert [list(line.get_ydata()) for line in lines] == [[1.1, 8.1], [1.5, 8.5]]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["weight 0.1", "weight 0.5"]


def test_sequences_are_ordered_by_the_best_rows_gain():
    scores = {"DINO": {"a": 50.0, "b": 50.0, "c": 50.0}, "X": {"a": 51.0, "b": 60.0, "c": 40.0}}
    figure = units("t", "J&F", scores, "DINO", {"DINO": "black", "X": "blue"})
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["b", "a", "c"]


LONG = [
    "DINO",
    "DINO+SelfPatch (aggregation=attention, k=1, neighbourhood=3)",
    "MoBY+SelfPatch (positives only) (checkpoint 0123abcd)",
    "a_name_of_sixty_letters_without_any_place_where_it_could_break",
]


def assert_readable(figure):
    """No text is cut off by the figure's edge, and no two labels of an axis lie on each other."""
    figure.canvas.draw()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()  # of what is drawn
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) > -0.02, box
    for axes in figure.axes:
        assert axes.get_window_extent().height > 40
        assert axes.get_window_extent().width > 100
        rows = sorted((label.get_window_extent() for label in axes.get_yticklabels()), key=lambda box: box.y0)
        assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(rows))


def test_long_names_are_readable_in_bars():
    scores = {name: 50.0 + i for i, name in enumerate(LONG)}
    made = table_of(f"DAVIS: a set, protocol p@1{'+radius=4' * 9}", scores, n=3)
    made.differences[made.rows[2], "J&F"] = INTERVAL
    assert_readable(bars(made, "J&F", method_colours(LONG)))


@pytest.mark.parametrize("count", [2, 30])
def test_long_names_are_readable_by_sequence(count):
    scores = {name: {f"sequence-{n}": 10.0 * i for n in range(count)} for i, name in enumerate(LONG)}
    assert_readable(units("vit-s16 on a set", "J&F", scores, "DINO", method_colours(LONG)))


@pytest.mark.parametrize("others", [[], ["weight"]])
def test_long_names_are_readable_along_a_curve(others):
    lines = [(name, w, 50.0) for name in LONG for w in (["0.1", "0.5"] if others else ["0.1"])]
    frame = pd.DataFrame(lines, columns=["config", "weight", "J&F"])
    frame = frame.assign(**{"J&F std": None, "J&F n": 1, "status": "done"})
    values = {"config": LONG, "weight": ["0.1", "0.5"]}
    figure = curve(Ablation("Sweep a: b", ["config", *others], values, ["J&F"], frame, False), "J&F", "config")
    assert_readable(figure)
    labels = figure.axes[0].get_xticklabels()
    assert {(label.get_rotation(), label.get_horizontalalignment()) for label in labels} == {(30.0, "right")}


def test_a_method_keeps_its_colour_and_random_is_grey():
    colours = method_colours(["Random", "DINO", "MoBY", "DINO"])
    assert colours["Random"] == GREY
    assert len(set(colours.values())) == 3


def test_drawing_leaves_no_global_state(table):
    before = dict(matplotlib.rcParams)
    png = render(bars(table, "J&F", method_colours(scores_of(table))))
    assert png.startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == before
    from matplotlib._pylab_helpers import Gcf

    assert not Gcf.figs  # nothing that pyplot would keep alive
