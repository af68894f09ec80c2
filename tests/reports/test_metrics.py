"""A metric equals the published figures where each unit counts once, and a plain loop where units are drawn."""

import json

import numpy as np
import pytest
from recorded import MORE, golden

from selfpatch.pretrain.cli import UserError
from selfpatch.reports import metrics
from selfpatch.reports.metrics import CLASSIFICATION, DETECTION, SEGMENTATION, VIDEO, Measure, reference_of, resolve

SCORES = [path for name in ("jf", "davis") if (path := golden(f"{name}/scores.json")).is_file()]
NAMES = {"J&F": "J&F-Mean"} | {k: f"{k}-Mean" for k in "JF"}
NAMES |= {f"{kind} {name}": f"{kind}-{name.capitalize()}" for kind in "JF" for name in ("recall", "decay")}


@pytest.mark.skipif(not SCORES, reason=f"no scores.json in {MORE} (SELFPATCH_GOLDEN)")
@pytest.mark.parametrize("path", SCORES, ids=lambda path: path.parent.name)
def test_golden_global_figures_of_davis(path):
    """The official evaluation's means, recalls and decays, from its own J and F of every object and frame."""
    recorded = json.loads(path.read_text())
    rows = [
        (sequence, number + 1, frame + 1, J, F)
        for sequence, both in recorded["sequences"].items()
        for number, values in enumerate(zip(both["J"], both["F"], strict=True))
        for frame, (J, F) in enumerate(zip(*values, strict=True))
    ]
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]  # their order says nothing
    units = dict(zip(("sequence", "object", "frame", "J", "F"), map(np.array, zip(*rows, strict=True)), strict=True))
    expected = {name: 100 * recorded["global"][official] for name, official in NAMES.items()}
    assert VIDEO.evaluate(units) == pytest.approx(expected, rel=0, abs=1e-9)


def repeated(units, key, chosen):
    """Units in which each chosen one is copied under a name of its own, as often as it was chosen."""
    names = np.unique(units[key])
    rows = [np.flatnonzero(units[key] == names[one]) for one in chosen]
    copies = np.concatenate([np.full(len(part), f"{place:03}") for place, part in enumerate(rows)])
    taken = np.concatenate(rows)
    return {name: array[taken] for name, array in units.items()} | {key: copies}


def segmentation_units(rng, images=6, classes=5):
    label = rng.integers(1, 900, (images, classes)) * (rng.random((images, classes)) < 0.4)
    shown = rng.integers(1, 900, (images, classes)) * (rng.random((images, classes)) < 0.4)
    hit = np.minimum(label, shown) // 2
    names = np.array([f"i{n}" for n in rng.permutation(images)])
    return {"image": names, "intersection": hit, "union": label + shown - hit, "label": label}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", list(VIDEO.metrics))
def test_a_sequence_drawn_twice_counts_as_two(davis, seed, name):
    units = davis.units(seed=seed)
    assert_weights_are_copies(VIDEO, units, name, seed)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", list(SEGMENTATION.metrics))
def test_an_image_drawn_twice_counts_as_two(seed, name):
    assert_weights_are_copies(SEGMENTATION, segmentation_units(np.random.default_rng(seed)), name, seed)


def test_a_column_of_booleans_is_a_metric():
    units = {"image": np.array(list("dbca")), "top-1": np.array([True, False, True, False]), "rank": np.arange(4)}
    assert CLASSIFICATION.evaluate(units) == {"top-1": 50.0}
    by_unit = CLASSIFICATION.metric("top-1")(units, np.eye(4))
    assert dict(zip(CLASSIFICATION.names(units), by_unit, strict=True)) == {"a": 0.0, "b": 0.0, "c": 100.0, "d": 100.0}
    assert_weights_are_copies(CLASSIFICATION, units, "top-1", 0)


def assert_weights_are_copies(measure, units, name, seed):
    n = len(measure.names(units))
    chosen = np.sort(np.random.default_rng(seed).integers(n, size=n))
    weights = np.stack([np.bincount(chosen, minlength=n), np.zeros(n)]).astype(float)
    metric = measure.metric(name)
    value, nothing = metric(units, weights)
    assert value == pytest.approx(metric(repeated(units, measure.key, chosen), np.ones((1, n)))[0], nan_ok=True)
    assert np.isnan(nothing)


def test_segmentation_equals_the_plain_definition():
    units = segmentation_units(np.random.default_rng(7))
    hit, union, label = (units[name].sum(0) for name in ("intersection", "union", "label"))
    expected = {
        "mIoU": 100 * np.mean([h / u for h, u in zip(hit, union, strict=True) if u]),
        "mAcc": 100 * np.mean([h / t for h, t in zip(hit, label, strict=True) if t]),
        "aAcc": 100 * hit.sum() / label.sum(),
    }
    assert SEGMENTATION.evaluate(units) == pytest.approx(expected)


def test_objects_can_be_drawn_in_place_of_sequences(davis):
    units = davis.units()
    measure, parts = VIDEO.split(units)
    assert (measure.unit, len(measure.names(parts))) == ("object", 9)
    assert measure.evaluate(parts) == pytest.approx(VIDEO.evaluate(units))
    with pytest.raises(KeyError, match="images have no parts"):
        SEGMENTATION.split({})


def test_the_layout_is_of_the_units_and_not_of_their_order(davis):
    units = davis.units()
    turned = {name: array[::-1] for name, array in units.items()}
    assert VIDEO.layout_of(units) == VIDEO.layout_of(turned | {"J": units["J"] / 2})
    assert VIDEO.layout_of(units) != VIDEO.layout_of(units | {"frame": units["frame"] + 1})
    counted = segmentation_units(np.random.default_rng(0))
    other = counted | {"label": counted["label"] + 1}
    assert SEGMENTATION.layout_of(counted) != SEGMENTATION.layout_of(other)  # another ground truth


def test_a_measure_is_found_by_the_name_that_a_record_holds():
    for name in ("DETECTION", "SEGMENTATION", "VIDEO", "CLASSIFICATION"):
        measure = getattr(metrics, name)
        assert resolve(reference_of(measure, "selfpatch.eval.tasks.any")) is measure
    own = Measure("page", "page", (), {})
    assert reference_of(own, "selfpatch.eval.tasks.ocr") == "selfpatch.eval.tasks.ocr:MEASURE"


@pytest.mark.parametrize("name", ["os:system", "selfpatch.eval.tasks.absent:MEASURE", "selfpatch.reports.metrics:mean",
                                  "selfpatch.reports.metrics:ABSENT", "selfpatch.reports.metrics"])  # fmt: skip
def test_a_name_that_is_no_measure_is_one_line(name):
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        resolve(name)


def test_an_unknown_metric_names_those_that_there_are():
    with pytest.raises(KeyError, match="bbox AP, bbox AP50"):
        DETECTION.metric("mIoU")
