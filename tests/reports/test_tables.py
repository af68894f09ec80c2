"""A table compares only what is comparable, marks its best, and shows published figures apart."""

import io

import pytest
from rich.console import Console

from selfpatch.reports.load import load_published, load_records, records_frame
from selfpatch.reports.tables import (
    MINIATURE,
    comparison_csv,
    comparison_tables,
    lower_is_better,
    overview_table,
    published_tables,
    to_markdown,
    to_rich,
)


def tables_of(tmp_path, baseline="DINO"):
    return comparison_tables(records_frame(load_records(tmp_path / "records")), baseline)


def row_of(table, label):
    return next(row for row in table.rows if row.label == label)


def test_rows_of_different_protocols_never_share_a_table(write_record, tmp_path):
    write_record("DINO", metrics={"J&F": 60.0})
    write_record(
        "MoBY", metrics={"J&F": 50.0}, protocol={"name": "davis2017-dino@1+topk10", "parameters": {"topk": 10}}
    )
    tables = tables_of(tmp_path)
    assert [len(table.rows) for table in tables] == [1, 1]
    assert not any(cell.best for table in tables for row in table.rows for cell in row.cells.values())


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
    assert row_of(table, "DINO+SelfPatch").cells["J&F"].delta == pytest.approx(2.5)
    assert row_of(table, "DINO").cells["J&F"].delta is None
    assert row_of(table, "MoBY").cells["J&F"].delta is None
    assert any("DINO" in note and "swin-t" in note and "vit-ti16" not in note for note in table.notes)


def test_a_baseline_of_several_lengths_is_matched_by_length(write_record, tmp_path):
    for epochs, score in ((100, 50.0), (200, 60.0)):
        write_record("DINO", metrics={"J&F": score}, pretrain_epochs=epochs, checkpoint_sha256=f"{epochs}" + "0" * 61)
    write_record("MoBY", metrics={"J&F": 61.0}, pretrain_epochs=200)
    (table,) = tables_of(tmp_path)
    assert table.shows_epochs
    assert row_of(table, "MoBY").cells["J&F"].delta == pytest.approx(1.0)


def test_seeds_are_averaged_with_their_spread(write_record, tmp_path):
    for seed, score in enumerate((60.0, 61.0, 65.0)):
        write_record("DINO", metrics={"J&F": score}, seed=seed)
    (table,) = tables_of(tmp_path)
    cell = table.rows[0].cells["J&F"]
    assert (cell.mean, cell.n) == (62.0, 3)
    assert cell.std == pytest.approx(7**0.5)  # deviations -2, -1, 3: 14 over n - 1 = 2
    assert "62.0 ± 2.6" in to_markdown(table)
    assert table.shows_seeds


def test_the_best_of_a_column_is_marked_and_decay_is_a_loss(write_record, tmp_path):
    write_record("DINO", metrics={"J&F": 60.0, "J decay": 10.0, "F": 50.0})
    write_record("MoBY", metrics={"J&F": 61.0, "J decay": 12.0, "F": 50.04})
    (table,) = tables_of(tmp_path)
    best = {row.label: {name for name, cell in row.cells.items() if cell.best} for row in table.rows}
    assert best == {"DINO": {"J decay"}, "MoBY": {"J&F"}}  # F is equal as shown, so it has no best
    assert lower_is_better("F decay")
    assert not lower_is_better("F recall")


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
    assert [line.split("|")[1].strip() for line in lines[4:6]] == ["DINO", "DINO+SelfPatch"]
    assert "**62.0** (+2.0)" in lines[5]


def test_the_terminal_shows_the_same_figures(write_record, tmp_path):
    write_record("DINO", metrics={"J&F": 60.0})
    write_record("DINO+SelfPatch", metrics={"J&F": 62.0}, miniature=True)
    (table,) = tables_of(tmp_path)
    console = Console(width=100, file=io.StringIO())
    console.print(to_rich(table))
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
    assert [name for _, name in overview.headings] == ["bbox AP", "mask AP", "mIoU", "mIoU", "J&F"]
    assert len({group for group, _ in overview.headings}) == 4
    assert [row.label for row in overview.rows] == ["DINO", "DINO+SelfPatch"]
    cells = overview.rows[1].cells
    assert [round(cells[key].delta, 6) for key in overview.columns if key in cells] == [1.0, 1.0, 1.0, 1.0]
    assert to_markdown(overview).count("–") == 1  # SelfPatch was not scored on DAVIS


def test_the_overview_names_the_miniature_columns_only(write_record, tmp_path):
    write_record(task="davis", miniature=True)
    write_record(task="ade20k", metrics={"mIoU": 40.0})
    (note,) = overview_table(tables_of(tmp_path)).notes
    assert "davis2017-val" in note
    assert "ade20k-val" not in note


def test_published_figures_keep_their_order_protocol_and_source():
    published = load_published()
    tables = published_tables(published, ["davis"])
    ((title, frame),) = tables.items()
    assert "DAVIS" in title
    assert list(frame["J&F"]) == list(published.loc[published["metric"] == "J&F", "value"])
    assert frame["source"].notna().all()
    assert len(published_tables(published, ["coco", "ade20k", "davis"])) == len(
        published[["task", "dataset", "protocol"]].drop_duplicates()
    )
