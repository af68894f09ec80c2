"""Records become one long table; what is broken is named, what differs is told apart, what repeats is averaged."""

import json

import pandas as pd
import pytest

from selfpatch.pretrain.cli import UserError
from selfpatch.reports.frames import (
    load_published,
    load_records,
    load_sweep,
    name_variants,
    newest_records,
    records_frame,
    settings_of,
)
from selfpatch.reports.record import Record


def variants(tmp_path):
    return sorted(name_variants(load_records(tmp_path / "records")).values())


def test_a_row_per_record_and_metric(write_record, tmp_path):
    write_record("DINO", metrics={"J&F": 50.0, "J": 49.0})
    write_record("MoBY", metrics={"J&F": 40.0})
    frame = records_frame(load_records(tmp_path / "records"))
    assert set(zip(frame["method"], frame["metric"], frame["value"], strict=True)) == {
        ("DINO", "J&F", 50.0),
        ("DINO", "J", 49.0),
        ("MoBY", "J&F", 40.0),
    }
    assert set(frame["arch"]) == {"vit-ti16"}
    assert set(frame["protocol"]) == {"davis2017-dino@1"}


def test_epochs_and_seed_may_be_unknown(write_record, tmp_path):
    write_record(pretrain_epochs=None, seed=None)
    frame = records_frame(load_records(tmp_path / "records"))
    assert frame["pretrain_epochs"].isna().all()
    assert frame["seed"].isna().all()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda text: text[:40], "is no JSON that can be read"),
        (lambda text: "[1, 2]", "valid dictionary"),
        (lambda text: text.replace('"method"', '"methode"'), "'method'"),
        (lambda text: text.replace('"name": "davis2017-dino@1", ', ""), "'protocol.name'"),
        (lambda text: text.replace("50.0", '"fifty"'), "'metrics.J&F'"),
    ],
)
def test_a_broken_record_is_named_in_one_line(write_record, tmp_path, change, named):
    write_record("MoBY")
    broken = write_record("DINO")
    broken.write_text(change(broken.read_text()))
    with pytest.raises(UserError) as error:
        load_records(tmp_path / "records")
    assert str(broken) in str(error.value)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("exists", [True, False])
def test_no_record_tells_which_command_makes_one(tmp_path, exists):
    folder = tmp_path / "records"
    if exists:
        folder.mkdir()
    with pytest.raises(UserError, match=r"tools/eval_davis\.sh"):
        load_records(folder)


def test_a_record_that_is_being_written_is_not_read(write_record, tmp_path):
    write_record()
    (tmp_path / "records" / ".davis-0.123.tmp.json").write_text("{")
    assert len(load_records(tmp_path / "records")) == 1


def test_seeds_of_one_setting_share_a_row(write_record, tmp_path):
    for seed in range(3):
        write_record(seed=seed, config={"model": {"k": 4}, "seed": seed, "work_dir": f"run{seed}"})
    assert variants(tmp_path) == ["", "", ""]


def test_settings_that_differ_name_the_row(write_record, tmp_path):
    for k in (1, 4):
        write_record(config={"model": {"k": k, "patch_loss_weight": 0.1}})
    assert variants(tmp_path) == ["k=1", "k=4"]


def test_the_same_seed_twice_is_no_repetition(write_record, tmp_path):
    for name in "ab":
        write_record(checkpoint_sha256=name * 64)
    assert variants(tmp_path) == ["checkpoint aaaaaaaa", "checkpoint bbbbbbbb"]


def test_two_networks_of_one_file_are_two_rows(write_record, tmp_path):
    for name in "ab":
        path = write_record(checkpoint_sha256="c" * 64, weights_sha256=name * 64)
        path.rename(path.with_name(f"{name}.json"))
    assert variants(tmp_path) == ["weights aaaaaaaa", "weights bbbbbbbb"]


@pytest.mark.parametrize("others", [0, 1])
def test_one_network_with_other_heads_is_another_row(write_record, tmp_path, others):
    """The same file and weights, as of a bare backbone: neither a repetition nor a second seed."""
    for heads in (3, 8):
        arch = {"name": "vit-24x2-p16", "heads": heads}
        path = write_record(arch=arch, checkpoint_sha256="c" * 64, weights_sha256="d" * 64, seed=None)
        path.rename(path.with_name(f"heads{heads}.json"))
    if others:  # of a method whose other networks differ in more than a name can tell
        write_record(arch={"name": "vit-24x2-p16", "heads": 3}, config={"a": 1, "b": 2, "c": 3, "d": 4})
    records = load_records(tmp_path / "records")
    assert len(newest_records(records)[0]) == 2 + others
    assert len(variants(tmp_path)) == len(set(variants(tmp_path))) == 2 + others
    assert all("heads" in name and "8" in name for name in variants(tmp_path)[1 + others :])


def test_a_checkpoint_keeps_its_name_on_every_task(write_record, tmp_path):
    for k in (1, 4):
        write_record(task="davis", config={"k": k})
    write_record(task="ade20k", metrics={"mIoU": 30.0}, config={"k": 4})
    names = name_variants(load_records(tmp_path / "records"))
    assert {name for path, name in names.items() if "ade20k" in path.name} == {"k=4"}


def test_of_a_repeated_evaluation_the_newest_counts(write_record, tmp_path):
    for day in (1, 3, 2):
        path = write_record(started=f"2026-01-0{day}T12:00:00", metrics={"J&F": float(day)})
        path.rename(path.with_name(f"file{9 - day}.json"))
    write_record("MoBY")
    kept, notes = newest_records(load_records(tmp_path / "records"))
    assert sorted(record.metrics["J&F"] for record in kept) == [3.0, 50.0]
    assert len(notes) == 2
    assert not any("file6" in note for note in notes)


def test_a_config_is_flat_settings_without_where_it_ran():
    config = {"model": {"k": 4, "head": {"out": 64}, "blocks": [1, 2]}, "seed": 1, "work_dir": "here"}
    assert settings_of(config) == {"model.k": 4, "model.head.out": 64, "model.blocks": [1, 2]}
    assert settings_of(None) == {}


def test_units_that_are_gone_are_named(write_record):
    record = Record.read(write_record(units={"J": [1.0]}))
    assert record.units_path.is_file()
    record.units_path.unlink()
    with pytest.raises(UserError, match=r"\.npz .* is missing"):
        _ = record.units_path
    with pytest.raises(UserError, match="no per-unit values"):
        _ = Record.read(write_record("MoBY")).units_path


def test_published_figures_name_their_source():
    published = load_published()
    assert set(published["task"]) == {
        "instance segmentation",
        "semantic segmentation",
        "video object segmentation",
    }
    assert published["source"].notna().all()
    assert pd.api.types.is_float_dtype(published["value"])


def test_a_sweep_brings_its_records(write_record, tmp_path):
    record = write_record()
    cells = [
        {"name": "k1", "settings": {"k": 1}, "status": "done", "records": [str(record.relative_to(tmp_path))]},
        {"name": "k4", "settings": {"k": 4}, "status": "failed", "error": "not finite", "records": []},
    ]
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps({"name": "k", "axes": {"k": [1, 4]}, "cells": cells}))
    sweep = load_sweep(path)
    assert [len(cell["records"]) for cell in sweep["cells"]] == [1, 0]
    assert sweep["cells"][0]["records"][0].method == "DINO"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "is no JSON that can be read"),
        ("[]", "is not a sweep"),
        ('{"axes": {}}', "'cells'"),
        ('{"axes": {}, "cells": [{"name": "a", "settings": {}, "status": "odd"}]}', "odd"),
        ('{"axes": {}, "cells": [{"name": "a", "settings": {}, "status": "done", "records": ["x.json"]}]}', "x.json"),
    ],
)
def test_a_broken_sweep_is_named_in_one_line(tmp_path, content, named):
    path = tmp_path / "sweep.json"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        load_sweep(path)
    assert "sweep.json" in str(error.value)
    assert named in str(error.value)
