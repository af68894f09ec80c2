"""Records are written once and whole, say everything a table needs, and are reused only where all of it matches."""

import json
import zipfile

import numpy as np
import pytest

from selfpatch.pretrain.cli import UserError
from selfpatch.reports.record import Dataset, Protocol, Record, file_name, jsonable, versions

CHECKPOINT, WEIGHTS, DATA = "c" * 64, "d" * 64, "e" * 64
PROTOCOL = Protocol("davis2017-dino@1", {"top_k": 5, "std": (0.228, 0.224, 0.225)})
DATASET = Dataset("davis2017-val", "val", DATA)
UNITS = {"sequence": np.array(["a", "b"]), "J": np.array([0.25, 1.0])}


def record(**changes):
    return {
        "task": "davis",
        "title": "DAVIS video object segmentation",
        "headline": ["J&F"],
        "measure": "selfpatch.reports.metrics:VIDEO",
        "lower": [],
        "dataset": DATASET.name,
        "dataset_fingerprint": DATASET.sha256,
        "split": DATASET.split,
        "protocol": PROTOCOL.as_json(),
        "method": "DINO",
        "arch": {"family": "vit", "dim": 384, "heads": 6, "name": "vit-s16"},
        "pretrain_epochs": 100,
        "seed": None,
        "checkpoint": "dino.pth",
        "checkpoint_sha256": CHECKPOINT,
        "weights_sha256": WEIGHTS,
        "certificate": ["coverage: all", "features: equal"],
        "config": None,
        "versions": {"python": "3.11"},
        "device": "cpu",
        "started": "2026-11-23T18:00:00+00:00",
        "seconds": 12.5,
        "miniature": False,
        "metrics": {"J&F": 61.25},
        "notes": ["object 2 was lost"],
        "findings": ["1 of 90 frames carries an orientation"],
        "kept": {"masks": "work_dirs/eval/davis/masks"},
        **changes,
    }


def find(folder, **changes):
    wanted = {
        "task": "davis",
        "checkpoint_sha256": CHECKPOINT,
        "weights_sha256": WEIGHTS,
        "heads": 6,
        "protocol": PROTOCOL,
        "dataset": DATASET,
    }
    found = Record.find(folder, **wanted | changes)
    return found and found.path


def write_record(folder, values, units):
    return Record(**values).write(folder, units).path


def read_record(path):
    return Record.read(path)


class TestWriting:
    def test_the_name_says_task_checkpoint_and_protocol(self, tmp_path):
        path = write_record(tmp_path / "records", record(), UNITS)
        assert path.name == f"davis-{CHECKPOINT[:12]}-davis2017-dino@1.json"
        assert sorted(p.name for p in path.parent.iterdir()) == [path.name, path.with_suffix(".npz").name]

    def test_predictions_lie_beside_the_record(self, tmp_path):
        written = Record(**record()).write(tmp_path, UNITS, {"a.png": b"pixels"})
        assert written.kept["predictions"] == written.path.with_suffix(".zip").name
        with zipfile.ZipFile(tmp_path / written.kept["predictions"]) as archive:
            assert archive.read("a.png") == b"pixels"

    def test_what_is_read_is_what_was_written(self, tmp_path):
        path = write_record(tmp_path, record(), UNITS)
        read = read_record(path)
        assert json.loads(path.read_text()) == {**record(), "units": path.with_suffix(".npz").name}
        assert read == Record(**record(), units=path.with_suffix(".npz").name, path=path)
        assert Record(**record()).write(tmp_path, UNITS) == read_record(
            read.units_path.with_suffix(".json").with_name(
                f"davis-{CHECKPOINT[:12]}-davis2017-dino@1-{DATA[:6]}-{WEIGHTS[:6]}.json"
            )
        )
        units = np.load(tmp_path / read.units, allow_pickle=False)
        for name, values in UNITS.items():
            np.testing.assert_array_equal(units[name], values)

    def test_without_units(self, tmp_path):
        path = write_record(tmp_path, record(), {})
        assert read_record(path).units is None
        assert [p.name for p in tmp_path.iterdir()] == [path.name]

    @pytest.mark.parametrize("change", [{"dataset_fingerprint": "f" * 64}, {"weights_sha256": "f" * 64}, {}])
    def test_no_record_is_ever_overwritten(self, tmp_path, change):
        """Other data, another network of the file, or the same again with --force: all are kept."""
        paths = [write_record(tmp_path, record(metrics={"J&F": 1.0}), UNITS)]
        paths += [write_record(tmp_path, record(metrics={"J&F": float(n)}, **change), UNITS) for n in (2, 3)]
        assert len(set(paths)) == 3
        assert [read_record(path).metrics["J&F"] for path in paths] == [1.0, 2.0, 3.0]
        assert len({read_record(path).units for path in paths}) == 3

    def test_nothing_is_left_of_a_record_that_cannot_be_written(self, tmp_path):
        with pytest.raises(ValueError, match="J&F"):
            write_record(tmp_path, record(metrics={"J&F": float("nan")}), UNITS)
        with pytest.raises(TypeError):
            write_record(tmp_path, record(config={"f": object()}), UNITS)
        assert not list(tmp_path.iterdir())

    def test_a_record_never_names_units_that_are_not_there(self, tmp_path, monkeypatch):
        """The units come first: a kill between the two leaves no record."""
        monkeypatch.setattr("selfpatch.reports.record.write_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_record(tmp_path, record(), UNITS)
        assert [p.suffix for p in tmp_path.iterdir()] == [".npz"]
        assert find(tmp_path) is None


class TestSchema:
    def test_every_field_is_asked_for(self):
        optional = {"units", "findings", "kept", "path"}
        for key in Record.model_fields.keys() - optional:
            broken = record()
            del broken[key]
            with pytest.raises(ValueError, match=key):
                Record(**broken)

    @pytest.mark.parametrize(
        ("key", "value"),
        [("method", 3), ("miniature", 0), ("seconds", True), ("metrics", [1.0]), ("protocol", {"name": "x"}),
         ("protocol", {"name": "x", "parameters": {}, "version": 1}), ("metrics", {"J": True}),
         ("metrics", {"J": float("inf")}),
         ("metrics", {"J": "61"}), ("metrics", {"J": None}), ("seed", "1"), ("unheard_of", 1)],
    )  # fmt: skip
    def test_a_field_of_another_kind_is_refused(self, key, value):
        Record(**record())
        with pytest.raises(ValueError, match=rf"\n{key}"):
            Record(**{**record(), key: value})

    @pytest.mark.parametrize(
        ("task", "metrics", "title", "headline", "measure"),
        [
            ("davis", {"J&F": 1.0, "J decay": 2.0}, "DAVIS video object segmentation", ["J&F"], "VIDEO"),
            ("coco", {"bbox AP": 1.0}, "COCO instance segmentation", ["bbox AP", "mask AP"], "DETECTION"),
            ("depth", {"RMSE/sky": 2.0, "RMSE": 1.0}, "depth", ["RMSE"], None),
        ],
    )
    def test_records_made_before_tasks_described_themselves_still_read(
        self, tmp_path, task, metrics, title, headline, measure
    ):
        old = {key: value for key, value in record().items() if key not in ("title", "headline", "measure", "lower")}
        del old["findings"], old["kept"]
        (tmp_path / "old.json").write_text(json.dumps({**old, "task": task, "metrics": metrics, "units": None}))
        read = read_record(tmp_path / "old.json")
        assert (read.title, read.headline) == (title, headline)
        assert read.measure == (measure and f"selfpatch.reports.metrics:{measure}")
        assert read.lower == [name for name in metrics if "decay" in name]


class TestReuse:
    def test_an_equal_evaluation_is_found(self, tmp_path):
        assert find(tmp_path / "nowhere") is None
        path = write_record(tmp_path, record(), UNITS)
        assert find(tmp_path) == path

    @pytest.mark.parametrize(
        "change",
        [
            {"task": "coco"},
            {"checkpoint_sha256": "1" * 64},
            {"checkpoint_sha256": CHECKPOINT[:12] + "1" * 52},  # the file's name is the same
            {"weights_sha256": "1" * 64},
            {"heads": 12},  # same weights, other features
            {"protocol": Protocol(PROTOCOL.name, {**PROTOCOL.parameters, "top_k": 7})},  # the name is the same
            {"protocol": Protocol("davis2017-dino@2", PROTOCOL.parameters)},
            {"dataset": Dataset("davis2017-val", "val", "1" * 64)},
            {"dataset": Dataset("davis2017-val", "test", DATA)},
        ],
        ids=lambda change: "-".join(change),
    )
    def test_any_other_is_not(self, tmp_path, change):
        write_record(tmp_path, record(), UNITS)
        assert find(tmp_path, **change) is None

    def test_a_file_is_no_reason(self, tmp_path):
        """A broken record, or one whose units are gone, is passed over."""
        path = write_record(tmp_path, record(), UNITS)
        path.with_suffix(".npz").unlink()
        assert find(tmp_path) is None
        path.write_text("{")
        assert find(tmp_path) is None
        path.write_text(json.dumps({"task": "davis"}))
        assert find(tmp_path) is None

    def test_the_newest_of_equal_ones_is_taken(self, tmp_path):
        newer = write_record(tmp_path, record(started="2026-11-25T18:00:00+00:00"), UNITS)
        write_record(tmp_path, record(started="2026-11-24T18:00:00+00:00"), UNITS)
        assert find(tmp_path) == newer


def test_reading_what_is_no_record_names_the_file(tmp_path):
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(UserError, match=r"x\.json is not a record"):
        read_record(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("davis2017-dino@1", "davis2017-dino@1"), ("a/b c", "a_b_c"), ("r=3,k=7", "r=3_k=7"), ("../x", ".._x")],
)
def test_a_protocols_name_in_a_file_name(name, expected):
    assert file_name(name) == expected


def test_jsonable_keeps_what_json_can_hold():
    value = {"a": (1, 2.5, None, True), 3: float("inf"), "path": object}
    assert jsonable(value) == {"a": [1, 2.5, None, True], "3": "inf", "path": "<class 'object'>"}


def test_versions_name_what_has_a_hand_in_a_figure():
    found = versions()
    assert {"python", "torch", "numpy", "mmengine", "selfpatch"} <= found.keys()
    assert all(isinstance(version, str) and version for version in found.values())
