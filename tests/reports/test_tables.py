"""A table compares only what is comparable, marks its best, and shows published figures apart."""

import io

import numpy as np
import pytest
from rich.console import Console

from selfpatch.reports import compare, load
from selfpatch.reports.bootstrap import Difference, compare_pairs
from selfpatch.reports.exports import comparison_csv
from selfpatch.reports.frames import load_published, load_records
from selfpatch.reports.sheet import MINIATURE, to_rich
from selfpatch.reports.sheet import to_markdown as sheet_to_markdown
from selfpatch.reports.tables import (
    comparison_tables,
    needed,
    overview_table,
    pairs,
    published_sheets,
    remarks,
    to_sheet,
)


def to_markdown(table):
    return sheet_to_markdown(to_sheet(table))


def tables_of(tmp_path, baseline="DINO"):
    return comparison_tables(load_records(tmp_path / "records"), baseline)


def row_of(table, label):
    return next(row for row in table.rows if row.label == label)


def test_rows_of_different_protocols_never_share_a_table(write_record, tmp_path):
    write_record("DINO", metrics={"J&F": 60.0})
    write_record(
        "MoBY", metrics={"J&F": 50.0}, protocol={"name": "davis2017-dino@1+topk10", "parameters": {"topk": 10}}
    )
    tables = tables_of(tmp_path)
    assert [len(table.rows) for table in tables] == [1, 1]
    assert not any(cell.best for table in tables for row in to_sheet(table).rows for cell in row)


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "my-videos"},
        {"dataset_fingerprint": "e" * 64},
        {"split": "train"},
        {"protocol": {"name": "davis2017-dino@1", "parameters": {"topk": 7}}},
    ],
)
def test_rows_of_different_data_or_parameters_never_share_a_table(write_record, tmp_path, change):
    write_record("DINO")
    write_record("MoBY", **change)
    tables = tables_of(tmp_path)
    assert len(tables) == 2
    assert tables[0].title != tables[1].title


def test_differences_are_to_the_baseline_of_the_same_architecture(write_record, tmp_path):
    write_record("DINO", metrics={"J&F": 60.0})
    write_record("DINO+SelfPatch", metrics={"J&F": 62.5})
    write_record("MoBY", metrics={"J&F": 70.0}, arch={"name": "swin-t"})
    (table,) = tables_of(tmp_path)
    assert table.delta(row_of(table, "DINO+SelfPatch"), "J&F") == pytest.approx(2.5)
    assert np.isnan(table.delta(row_of(table, "DINO"), "J&F"))
    assert np.isnan(table.delta(row_of(table, "MoBY"), "J&F"))
    assert any("DINO" in note and "swin-t" in note and "vit-ti16" not in note for note in table.notes)


def test_a_baseline_of_several_lengths_is_matched_by_length(write_record, tmp_path):
    for epochs, score in ((100, 50.0), (200, 60.0)):
        write_record("DINO", metrics={"J&F": score}, pretrain_epochs=epochs, checkpoint_sha256=f"{epochs}" + "0" * 61)
    write_record("MoBY", metrics={"J&F": 61.0}, pretrain_epochs=200)
    (table,) = tables_of(tmp_path)
    assert table.shows_epochs
    assert table.delta(row_of(table, "MoBY"), "J&F") == pytest.approx(1.0)


def test_seeds_are_averaged_with_their_spread(write_record, tmp_path):
    for seed, score in enumerate((60.0, 61.0, 65.0)):
        write_record("DINO", metrics={"J&F": score}, seed=seed)
    (table,) = tables_of(tmp_path)
    row = table.rows[0]
    assert (table.mean.at[row, "J&F"], table.n.at[row, "J&F"]) == (62.0, 3)
    assert table.std.at[row, "J&F"] == pytest.approx(7**0.5)  # deviations -2, -1, 3: 14 over n - 1 = 2
    assert "62.0 ± 2.6" in to_markdown(table)
    assert table.shows_seeds


def test_the_best_of_a_column_is_marked_and_decay_is_a_loss(write_record, tmp_path):
    write_record("DINO", metrics={"J&F": 60.0, "J decay": 10.0, "F": 50.0})
    write_record("MoBY", metrics={"J&F": 61.0, "J decay": 12.0, "F": 50.04})
    (table,) = tables_of(tmp_path)
    sheet = to_sheet(table)
    best = {row[0].text: {head.name for head, cell in zip(sheet.heads, row) if cell.best} for row in sheet.rows}
    assert best == {"DINO": {"J decay"}, "MoBY": {"J&F"}}  # F is equal as shown, so it has no best
    assert table.lower == {"J decay"}
    assert [row[-2].sign for row in sheet.rows if row[-2].delta] == ["loss"]


def test_random_comes_first_and_the_baseline_second(write_record, tmp_path):
    for method in ("DINO+SelfPatch", "Aardvark", "DINO", "Random"):
        write_record(method)
    (table,) = tables_of(tmp_path)
    assert [row.label for row in table.rows] == ["Random", "DINO", "Aardvark", "DINO+SelfPatch"]


def test_epochs_show_only_where_they_differ(write_record, tmp_path):
    write_record("Random", pretrain_epochs=0)
    write_record("DINO", pretrain_epochs=200)
    (table,) = tables_of(tmp_path)
    assert "epochs" not in to_markdown(table)
    write_record("MoBY", pretrain_epochs=300)
    (table,) = tables_of(tmp_path)
    assert "epochs" in to_markdown(table)


@pytest.mark.parametrize("miniature", [True, False])
def test_miniature_data_is_said_under_the_table(write_record, tmp_path, miniature):
    write_record(miniature=miniature)
    (table,) = tables_of(tmp_path)
    assert (MINIATURE in to_markdown(table)) == miniature


def test_per_class_metrics_stay_out_of_the_table(write_record, tmp_path):
    write_record(task="ade20k", metrics={"mIoU": 40.0, "IoU/wall": 70.0})
    (table,) = tables_of(tmp_path)
    assert table.columns == ["mIoU"]


def test_markdown_is_a_grid_with_bold_and_differences(write_record, tmp_path):
    write_record("DINO", metrics={"J&F": 60.0})
    write_record("DINO+SelfPatch", metrics={"J&F": 62.0})
    (table,) = tables_of(tmp_path)
    lines = to_markdown(table).splitlines()
    assert lines[0] == "### DAVIS video object segmentation: davis2017-val, protocol davis2017-dino@1"
    assert lines[2] == "Against DINO, cannot tell without per-unit values: DINO+SelfPatch (J&F)."
    assert [line.split("|")[1].strip() for line in lines[6:8]] == ["DINO", "DINO+SelfPatch"]
    assert "**62.0** (+2.0)" in lines[7]


def test_the_terminal_shows_the_same_figures(write_record, tmp_path):
    write_record("DINO", metrics={"J&F": 60.0})
    write_record("DINO+SelfPatch", metrics={"J&F": 62.0}, miniature=True)
    (table,) = tables_of(tmp_path)
    console = Console(width=100, file=io.StringIO())
    console.print(to_rich(to_sheet(table)))
    text = console.file.getvalue()
    for part in ("davis2017-dino@1", "60.0", "62.0*", "+2.0", MINIATURE):
        assert part in text


def test_the_csv_has_a_line_per_row_and_no_empty_columns(write_record, tmp_path):
    write_record("DINO", metrics={"J&F": 60.0})
    write_record("MoBY", metrics={"J&F": 61.0})
    write_record("DINO", task="ade20k", metrics={"mIoU": 40.0})
    frame = comparison_csv(tables_of(tmp_path))
    assert list(frame["task"]) == ["ade20k", "davis", "davis"]
    assert frame.loc[frame["method"] == "MoBY", "J&F delta"].item() == pytest.approx(1.0)
    assert "J&F std" not in frame


def test_the_overview_sets_the_benchmarks_side_by_side(write_record, tmp_path):
    for method, shift in (("DINO", 0.0), ("DINO+SelfPatch", 1.0)):
        write_record(method, task="coco", metrics={"bbox AP": 40.0 + shift, "bbox AP50": 60.0, "mask AP": 37.0 + shift})
        write_record(method, task="ade20k", metrics={"mIoU": 42.0 + shift, "aAcc": 80.0})
        write_record(
            method,
            task="ade20k",
            metrics={"mIoU": 38.0 + shift},
            protocol={"name": "semantic-fpn-40k@1", "parameters": {}},
        )
    write_record("DINO", task="davis", metrics={"J&F": 61.0, "J": 60.0})
    overview = overview_table(tables_of(tmp_path))
    assert [name for _, name in overview.columns] == ["bbox AP", "mask AP", "mIoU", "mIoU", "J&F"]
    assert len({group for group, _ in overview.columns}) == 4
    assert [row.label for row in overview.rows] == ["DINO", "DINO+SelfPatch"]
    deltas = [overview.delta(overview.rows[1], column) for column in overview.columns]
    assert deltas == pytest.approx([1.0, 1.0, 1.0, 1.0, float("nan")], nan_ok=True)
    assert to_markdown(overview).count("–") == 1  # SelfPatch was not scored on DAVIS


def test_the_overview_names_the_miniature_columns_only(write_record, tmp_path):
    write_record(task="davis", miniature=True)
    write_record(task="ade20k", metrics={"mIoU": 40.0})
    (note,) = overview_table(tables_of(tmp_path)).notes
    assert "davis2017-val" in note
    assert "ade20k-val" not in note


def test_published_figures_keep_their_order_protocol_and_source():
    published = load_published()
    (sheet,) = published_sheets(published, ["DAVIS video object segmentation"])
    assert "DAVIS" in sheet.title
    columns = {head.name: [row[place].text for row in sheet.rows] for place, head in enumerate(sheet.heads)}
    assert columns["J&F"] == [str(value) for value in published.loc[published["metric"] == "J&F", "value"]]
    assert all(columns["source"])
    for sheet in published_sheets(published, ["ADE20K semantic segmentation"]):
        protocol = sheet.title.partition(", ")[2]
        part = published[(published["protocol"] == protocol) & (published["task"] == "semantic segmentation")]
        assert [row[0].text for row in sheet.rows] == list(part.loc[part["metric"] == "mIoU", "method"])
    titles = ["COCO instance segmentation", "ADE20K semantic segmentation", "DAVIS video object segmentation"]
    assert len(published_sheets(published, titles)) == len(published[["task", "dataset", "protocol"]].drop_duplicates())


def test_the_first_line_says_who_is_better_and_what_cannot_be_told(davis, write_record, tmp_path):
    for method, shift in (("Random", -0.2), ("DINO", 0.0), ("Same", 0.0), ("DINO+SelfPatch", 0.2)):
        units = davis.units(shift)
        write_record(method, metrics=davis.metrics(units), units=units)
    write_record("Bare", metrics={"J&F": 50.0})
    records = load_records(tmp_path / "records")
    (table,) = comparison_tables(records, "DINO")
    table.differences, said = compare_pairs(pairs(table), resamples=100)
    assert said == []
    said = ["better: DINO+SelfPatch (J&F)", "worse: Random (J&F)", "cannot tell: Same (J&F)"]
    said += ["cannot tell without per-unit values: Bare (J&F)"]
    assert to_sheet(table).lead == f"Against DINO, {'; '.join(said)}."
    assert to_sheet(overview_table([table])).lead == to_sheet(table).lead
    (table,) = comparison_tables(records, None)
    assert to_sheet(table).lead == "No baseline: nothing is called better."


@pytest.mark.parametrize(
    ("delta", "low", "high", "seeds", "said"),
    [
        (
            0.5,
            -0.5,
            1.5,
            (1, 1),
            "about 24 sequences would tell",
        ),  # an interval twice the difference: four times the sequences
        (-0.5, -1.5, 0.5, (3, 3), "about 24 sequences and 12 seeds would tell"),
        (0.5, 0.1, 0.9, (3, 3), ""),  # told
        (0.0, -1.0, 1.0, (3, 3), ""),  # no number would do
        (float("nan"), float("nan"), float("nan"), (1, 1), ""),
    ],
)
def test_what_would_tell_a_difference_that_cannot_be_told(delta, low, high, seeds, said):
    assert needed(Difference("J&F", 0, 0, delta, low, high, 0.8, 100, "sequence", 6, seeds)) == said


def test_a_task_that_nobody_knows_has_its_table_and_bootstrap(write_record, tmp_path):
    """What a dropped-in task says of itself is all that a report needs."""
    right = np.random.default_rng(0).random((2, 200)) < [[0.9], [0.4]]
    own = {"title": "Depth by nearest neighbour", "headline": ["near"], "lower": ["near"]}
    own["measure"] = "selfpatch.reports.metrics:CLASSIFICATION"
    for method, hits in zip(("DINO+SelfPatch", "DINO"), right, strict=True):
        units = {"image": np.array([f"{i:03}" for i in range(200)]), "near": hits}
        write_record(method, task="depth", metrics={"far": 1.0, "near": 100 * hits.mean()}, units=units, **own)
    records = load_records(tmp_path / "records")
    (table,) = comparison_tables(records)
    table.differences, said = compare_pairs(pairs(table), resamples=50)
    assert said == []
    assert table.title.startswith("Depth by nearest neighbour: depth")
    assert to_sheet(table).lead == "Against DINO, worse: DINO+SelfPatch (near)."  # less is better


def test_findings_stand_below_the_table_once(write_record, tmp_path):
    odd, own = "3 of 90 frames carry an orientation", "object 2 was lost"
    write_record("DINO", findings=[odd])
    write_record("MoBY", findings=[odd], notes=[own])
    records = load_records(tmp_path / "records")
    (table,) = comparison_tables(records)
    assert remarks(table) == [odd, f"MoBY: {own}"]


def test_the_package_gives_frames(davis, write_record, tmp_path):
    for method, shift in (("DINO", 0.0), ("DINO+SelfPatch", 0.2)):
        for seed in range(2):
            units = davis.units(shift, seed=seed)
            write_record(method, seed=seed, metrics=davis.metrics(units), units=units)
    assert len(load(tmp_path / "records")) == 4 * 3
    frame = compare(tmp_path / "records", resamples=100)
    (line,) = frame.to_dict("records")
    assert (line["method"], line["metric"], line["verdict"]) == ("DINO+SelfPatch", "J&F", "better")
    assert line["low"] < line["delta"] < line["high"]
    assert compare(tmp_path / "records", baseline="MoBY").empty
