"""A sweep becomes a table of settings beside scores; failures are reported and seeds averaged."""

import json
from pathlib import Path

import pytest

from selfpatch.reports.ablation import ablation_tables, bootstrap_frame, bootstrap_sheet, pairs, to_sheet
from selfpatch.reports.bootstrap import compare_pairs
from selfpatch.reports.frames import load_sweep
from selfpatch.reports.sheet import to_markdown


def shown_table(ablation):
    """Headings, texts and 'best of its column' marks."""
    sheet = to_sheet(ablation)
    texts, best = ([[cell[i] for cell in row] for row in sheet.rows] for i in (0, 1))
    return [head.name for head in sheet.heads], texts, best


@pytest.fixture
def sweep(write_record, tmp_path):
    """Writes a sweep over ``axes`` with a DAVIS record for each of ``cells``: (settings, score or status)."""

    def make(axes, cells, **changes):
        lines = []
        for number, (settings, result) in enumerate(cells):
            scored = isinstance(result, float)
            records = []
            if scored:
                sha = f"{number:064x}"[::-1]
                records = [str(write_record(metrics={"J&F": result, "J": 1.0}, checkpoint_sha256=sha, **changes))]
            status, _, error = ("done", "", "") if scored else result.partition(":")
            lines.append(
                {"name": str(number), "settings": settings, "status": status, "error": error or None}
                | {"records": records}
            )
        path = tmp_path / "sweep.json"
        path.write_text(json.dumps({"name": "grid", "axes": axes, "cells": lines}))
        return load_sweep(path)

    return make


def test_a_row_per_setting_in_the_order_of_the_grid(sweep):
    (table,) = ablation_tables(sweep({"model.k": [4, 1]}, [({"model.k": 4}, 61.0), ({"model.k": 1}, 60.0)]))
    assert shown_table(table)[:2] == (["k", "J&F"], [["4", "61.0"], ["1", "60.0"]])
    assert "| **61.0** |" in to_markdown(to_sheet(table))


def test_failed_and_pending_cells_say_so_and_the_others_stand(sweep):
    cells = [
        ({"k": 1}, 60.0),
        ({"k": 4}, "failed:Traceback\n  ...\nValueError: loss is not finite"),
        ({"k": 8}, "pending"),
    ]
    (table,) = ablation_tables(sweep({"k": [1, 4, 8]}, cells))
    heads, texts, _ = shown_table(table)
    assert heads == ["k", "J&F", "status"]
    assert texts == [
        ["1", "60.0", "done"],
        ["4", "–", "failed: ValueError: loss is not finite"],
        ["8", "–", "pending"],
    ]


def test_a_seed_axis_is_averaged(sweep):
    cells = [({"k": k, "seed": seed}, 60.0 + k + seed) for k in (1, 4) for seed in (0, 2)]
    (table,) = ablation_tables(sweep({"k": [1, 4], "seed": [0, 2]}, cells))
    assert table.axes == ["k"]
    assert shown_table(table)[1] == [["1", "62.0 ± 1.4 (n=2)"], ["4", "65.0 ± 1.4 (n=2)"]]


def test_two_axes_with_one_last_name_keep_their_whole_names(sweep):
    cells = [({"teacher.temp": a, "student.temp": b}, 60.0) for a in (0.1, 0.2) for b in (0.1, 0.2)]
    (table,) = ablation_tables(sweep({"teacher.temp": [0.1, 0.2], "student.temp": [0.1, 0.2]}, cells))
    assert shown_table(table)[0] == ["teacher.temp", "student.temp", "J&F"]
    assert not any(map(any, shown_table(table)[2]))  # equal scores: none is best


def test_configs_and_switches_are_shown_by_name(sweep):
    axes = {"config": ["configs/pretrain/dino.py"], "aggregate": [True, False]}
    cells = [({"config": "configs/pretrain/dino.py", "aggregate": value}, 60.0) for value in (True, False)]
    (table,) = ablation_tables(sweep(axes, cells))
    assert [line[:2] for line in shown_table(table)[1]] == [["dino", "on"], ["dino", "off"]]


def test_a_sweep_without_a_record_shows_statuses(sweep):
    (table,) = ablation_tables(sweep({"k": [1]}, [({"k": 1}, "pending")]))
    assert shown_table(table)[:2] == (["k", "status"], [["1", "pending"]])


@pytest.mark.parametrize("miniature", [True, False])
def test_miniature_data_is_said(sweep, miniature):
    (table,) = ablation_tables(sweep({"k": [1]}, [({"k": 1}, 60.0)], miniature=miniature))
    assert ("no benchmark figures" in to_markdown(to_sheet(table))) == miniature


def test_a_task_has_a_table_of_its_own(sweep, write_record):
    grid = sweep({"k": [1]}, [({"k": 1}, 60.0)])
    other = write_record(task="ade20k", metrics={"mIoU": 40.0, "IoU/wall": 70.0})
    path = Path(grid["path"])
    content = json.loads(path.read_text())
    content["cells"][0]["records"].append(str(other))
    path.write_text(json.dumps(content))
    tables = ablation_tables(load_sweep(path))
    assert [table.metrics for table in tables] == [["J&F"], ["mIoU"]]
    assert [shown_table(table)[1][0][-1] for table in tables] == ["60.0", "40.0"]


def test_rows_are_compared_with_the_first(davis, write_record, tmp_path):
    cells = []
    for k, shift in ((1, 0.0), (4, 0.2), (8, 0.0)):
        for seed in (0, 1):
            units = davis.units(shift, seed=seed)
            path = write_record(metrics=davis.metrics(units), units=units, config={"k": k}, seed=seed)
            settings = {"method": k, "seed": seed}  # an axis may have a column's name
            cells.append({"name": f"{k}-{seed}", "settings": settings, "status": "done", "records": [str(path)]})
    axes = {"method": [1, 4, 8], "seed": [0, 1]}
    (tmp_path / "sweep.json").write_text(json.dumps({"name": "grid", "axes": axes, "cells": cells}))
    (table,) = ablation_tables(load_sweep(tmp_path / "sweep.json"))
    table.differences, said = compare_pairs(pairs(table), resamples=100)
    assert said == []
    assert table.differences[1, 0, "J&F"].seeds == (2, 2)
    assert to_sheet(table).lead == "Against method=1, better: method=4 (J&F); cannot tell: method=8 (J&F)."


def test_listed_cells_are_compared_with_those_they_name(davis, write_record, tmp_path):
    shifts = {"dino": 0.0, "selfpatch": 0.2, "moby": 0.2, "moby long": 0.0}
    against = {"selfpatch": ["dino"], "moby long": ["moby", "dino"]}
    cells = []
    for name, shift in shifts.items():
        units = davis.units(shift, seed=3)
        path = write_record(metrics=davis.metrics(units), units=units, config={"cell": name})
        cell = {"name": name, "settings": {"cell": name, "epochs": 2}, "status": "done", "records": [str(path)]}
        cells.append(cell | {"against": against.get(name, [])})
    axes = {"cell": list(shifts), "epochs": [2]}
    (tmp_path / "sweep.json").write_text(json.dumps({"name": "grid", "axes": axes, "cells": cells}))
    (table,) = ablation_tables(load_sweep(tmp_path / "sweep.json"))
    table.differences, _ = compare_pairs(pairs(table), resamples=100)
    assert to_sheet(table).lead == (
        "Against dino, better: selfpatch (J&F); cannot tell: moby long (J&F). Against moby, worse: moby long (J&F)."
    )
    shown = [[cell.text for cell in row] for row in bootstrap_sheet(table).rows]
    assert [(row[0], row[1], row[2], row[6]) for row in shown] == [
        ("selfpatch", "dino", "J&F", "better"),
        ("moby long", "moby", "J&F", "worse"),
        ("moby long", "dino", "J&F", "cannot tell"),
    ]
    frame = bootstrap_frame([table])
    assert frame["verdict"].tolist() == ["better", "worse", "cannot tell"]
    assert shown[0][3] == f"{frame['delta'][0]:+.2f}"
    assert shown[0][4].startswith(f"{frame['low'][0]:+.2f} … ")
