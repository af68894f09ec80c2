"""The paired bootstrap equals a plain loop over the same draws, and refuses what cannot be paired."""

import numpy as np
import pytest

from selfpatch.pretrain.cli import UserError
from selfpatch.reports.compare import (
    Statistic,
    compare,
    draw_weights,
    main,
    paired_bootstrap,
    sequence_scores,
    statistic,
)
from selfpatch.reports.load import read_record


def ade_units(quality, seed=0, images=7, classes=5):
    rng = np.random.default_rng(seed)
    union = rng.integers(1, 1000, (images, classes)) * (rng.random((images, classes)) < 0.5)
    return {
        "image": np.array([f"i{n}" for n in range(images)]),
        "intersection": (union * quality * rng.uniform(0.5, 1, union.shape)).astype(int),
        "union": union,
    }


def miou(units, chosen):
    both, either = units["intersection"][chosen].sum(0), units["union"][chosen].sum(0)
    return 100 * np.mean([b / e for b, e in zip(both, either, strict=True) if e > 0])


@pytest.fixture
def davis_pair(davis, write_record):
    a, b = davis.units(0.05, seed=1), davis.units(0.0, seed=2)
    paths = (
        write_record("DINO+SelfPatch", metrics=davis.metrics(a), units=a),
        write_record("DINO", metrics=davis.metrics(b), units=b),
    )
    return (a, b), [read_record(path) for path in paths]


def plain_bootstrap(value, units, resamples, seed):
    """Differences one draw at a time; ``value(side, chosen units)``."""
    weights = draw_weights(np.random.default_rng(seed), units, resamples)
    deltas = []
    for row in weights:
        chosen = [unit for unit in range(units) for _ in range(int(row[unit]))]
        deltas.append(value(0, chosen) - value(1, chosen))
    return np.array(deltas)


@pytest.mark.parametrize("metric", ["J&F", "J", "F", "J recall", "F recall"])
def test_davis_equals_a_plain_loop_that_pools_the_objects_drawn(davis, davis_pair, metric):
    units, records = davis_pair
    for record in records:
        record["metrics"].pop(metric, None)
    kinds = metric[0] if metric != "J&F" else "JF"

    def value(side, chosen):
        scores = []
        for kind in kinds:
            values = units[side][kind] > 0.5 if "recall" in metric else units[side][kind]
            means = davis.object_means(units[side], values)
            scores.append([mean for s in chosen for (name, _), mean in means.items() if name == f"s{s}"])
        return 100 * np.mean(scores)

    deltas = plain_bootstrap(value, 5, 40, seed=3)
    result = compare(records[:1], records[1:], metric, resamples=40, seed=3)
    assert result.delta == pytest.approx(value(0, range(5)) - value(1, range(5)))
    assert (result.low, result.high) == pytest.approx(tuple(np.percentile(deltas, [2.5, 97.5])))
    assert result.above == pytest.approx((deltas > 0).mean())
    assert (result.unit, result.units, result.resamples) == ("sequence", 5, 40)


def test_objects_can_be_drawn_instead_of_sequences(davis_pair):
    _, records = davis_pair
    by_object = compare(records[:1], records[1:], "J&F", resamples=50, per_object=True)
    by_sequence = compare(records[:1], records[1:], "J&F", resamples=50)
    assert (by_object.unit, by_object.units) == ("object", 9)
    assert by_object.delta == pytest.approx(by_sequence.delta)


def test_miou_equals_a_plain_loop_that_leaves_out_absent_classes(write_record):
    units = [ade_units(0.9), ade_units(0.8)]
    records = [
        read_record(write_record(name, task="ade20k", metrics={"mIoU": miou(u, range(7))}, units=u))
        for name, u in zip("AB", units, strict=True)
    ]
    deltas = plain_bootstrap(lambda side, chosen: miou(units[side], chosen), 7, 60, seed=0)
    result = compare(records[:1], records[1:], "mIoU", resamples=60)
    assert (result.low, result.high) == pytest.approx(tuple(np.percentile(deltas, [2.5, 97.5])))
    assert result.unit == "image"


def test_images_may_come_in_another_order(write_record):
    units = ade_units(0.9)
    turned = {name: value[::-1] for name, value in units.items()}
    metrics = {"mIoU": miou(units, range(7))}
    a, b = (
        read_record(write_record(n, task="ade20k", metrics=metrics, units=u)) for n, u in (("A", units), ("B", turned))
    )
    result = compare([a], [b], "mIoU", resamples=30)
    assert (result.low, result.high) == pytest.approx((0.0, 0.0), abs=1e-9)


def test_coco_is_paired_over_images(write_record):
    units = coco_units([True, True, False]), coco_units([True, False, False])
    records = [
        read_record(write_record(name, task="coco", metrics={"bbox AP": ap}, units=u))
        for name, u, ap in (("A", units[0], 100 * 67 / 101), ("B", units[1], 100 * 34 / 101))
    ]
    result = compare(records[:1], records[1:], "bbox AP", resamples=500)
    assert result.delta == pytest.approx(100 * 33 / 101)  # 2 of 3 objects reach recall points 0 … 0.66, 1 of 3 0 … 0.33
    assert result.low >= 0
    assert result.units == 3
    # A and B differ only where the second image is drawn: in 1 - (2/3)^3 of the draws
    assert result.above == pytest.approx(1 - (2 / 3) ** 3, abs=0.06)


def coco_units(found):
    """An object an image, found at all thresholds with the same score or not at all."""
    image = np.flatnonzero(found) + 1
    return {
        "images": np.array([1, 2, 3]),
        "gt_image": np.array([1, 2, 3]),
        "gt_category": np.ones(3, int),
        "gt_ignored": np.zeros(3, bool),
        "bbox/image": image,
        "bbox/category": np.ones(len(image), int),
        "bbox/score": np.full(len(image), 0.9),
        "bbox/matched": np.ones((len(image), 10), bool),
        "bbox/ignored": np.zeros((len(image), 10), bool),
    }


def test_classification_counts_the_images_drawn(write_record):
    right = np.array([[True, True, False, True], [True, False, False, True]])
    images = np.array(["a", "b", "c", "d"])
    records = [
        read_record(write_record(n, task="knn", metrics={"top-1": 100 * r.mean()}, units={"image": images, "top-1": r}))
        for n, r in zip("AB", right, strict=True)
    ]
    deltas = plain_bootstrap(lambda side, chosen: 100 * right[side][chosen].mean(), 4, 50, seed=0)
    result = compare(records[:1], records[1:], "top-1", resamples=50)
    assert result.delta == 25.0
    assert (result.low, result.high) == pytest.approx(tuple(np.percentile(deltas, [2.5, 97.5])))


def test_equal_records_differ_by_nothing(davis_pair):
    _, records = davis_pair
    result = compare(records[:1], records[:1], "J&F", resamples=20)
    assert (result.delta, result.low, result.high, result.above) == (0, 0, 0, 0)


def test_a_constant_gain_has_no_width():
    scores = np.array([10.0, 40.0, 70.0])
    a, b = (Statistic("x", 3, "", lambda w, s=s: w @ s / w.sum(axis=1)) for s in (scores + 2, scores))
    result = paired_bootstrap([a], [b], "m", resamples=100)
    assert (result.delta, result.low, result.high) == pytest.approx((2, 2, 2))
    assert result.above == 1


def test_the_interval_has_the_width_of_the_normal_approximation():
    gains = np.random.default_rng(0).normal(1.0, 3.0, 400)
    a, b = (Statistic("x", 400, "", lambda w, s=s: w @ s / w.sum(axis=1)) for s in (gains, np.zeros(400)))
    result = paired_bootstrap([a], [b], "m", resamples=4000)
    half = 1.96 * gains.std() / 400**0.5
    assert result.low == pytest.approx(gains.mean() - half, abs=0.1 * half)
    assert result.high == pytest.approx(gains.mean() + half, abs=0.1 * half)


def test_the_seed_decides_the_draws(davis_pair):
    _, records = davis_pair
    first, again, other = (compare(records[:1], records[1:], "J&F", 200, seed) for seed in (0, 0, 1))
    assert first == again
    assert first.low != other.low


def test_seeds_of_a_side_are_averaged(davis, write_record):
    units = [davis.units(seed=s) for s in range(3)]
    records = [
        read_record(write_record("A" if s else "B", seed=s, metrics=davis.metrics(u), units=u))
        for s, u in enumerate(units)
    ]
    result = compare(records[1:], records[:1], "J&F", resamples=20)
    expected = np.mean([record["metrics"]["J&F"] for record in records[1:]]) - records[0]["metrics"]["J&F"]
    assert result.delta == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"task": "ade20k"}, "task"),
        ({"dataset": "other"}, "dataset"),
        ({"dataset_fingerprint": "0" * 64}, "content of the dataset"),
        ({"protocol": {"name": "other@1", "parameters": {"topk": 5}}}, "protocol"),
        ({"protocol": {"name": "davis2017-dino@1", "parameters": {"topk": 6}}}, "different parameters"),
    ],
)
def test_what_is_not_comparable_is_refused_in_one_line(davis_pair, change, named):
    _, (a, b) = davis_pair
    with pytest.raises(UserError, match=named) as error:
        compare([a], [b | change], "J&F", resamples=10)
    assert "\n" not in str(error.value)
    assert a["path"] in str(error.value)
    assert b["path"] in str(error.value)


def test_other_units_are_refused(davis, write_record, davis_pair):
    _, (a, _) = davis_pair
    units = davis.units(sequences=4)
    other = read_record(write_record("MoBY", metrics=davis.metrics(units), units=units))
    with pytest.raises(UserError, match="different sequences"):
        compare([a], [other], "J&F", resamples=10)


def test_units_of_another_run_are_refused(davis_pair):
    _, (a, _) = davis_pair
    a["metrics"]["J&F"] += 1
    with pytest.raises(UserError, match="different runs"):
        statistic(a, "J&F")


def test_missing_and_broken_units_are_named(davis, write_record, davis_pair):
    _, (a, _) = davis_pair
    with pytest.raises(UserError, match="cannot give 'mIoU'"):
        statistic(a, "mIoU")
    with pytest.raises(UserError, match="no paired bootstrap for the task depth"):
        statistic(a | {"task": "depth"}, "rmse")
    with pytest.raises(UserError, match="no per-unit values"):
        statistic(read_record(write_record("Bare")), "J&F")
    (tmp := write_record("Text", units=davis.units())).with_suffix(".npz").write_text("no archive")
    with pytest.raises(UserError, match="is not a file of per-unit values"):
        statistic(read_record(tmp), "J&F")
    (tmp := write_record("Lacks", units={"J": np.ones(3)}))
    with pytest.raises(UserError, match="cannot give 'J&F'"):
        statistic(read_record(tmp), "J&F")


def test_a_sequence_scores_the_mean_of_its_objects(davis, davis_pair):
    (units, _), (record, _) = davis_pair
    means = davis.object_means(units, (units["J"] + units["F"]) / 2)
    scores = sequence_scores(record)
    assert list(scores) == [f"s{i}" for i in range(5)]
    for name, score in scores.items():
        assert score == pytest.approx(100 * np.mean([mean for (owner, _), mean in means.items() if owner == name]))


def test_every_draw_has_as_many_units_as_there_are():
    weights = draw_weights(np.random.default_rng(0), 7, 500)
    assert (weights.sum(axis=1) == 7).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(7), abs=0.2)


def test_the_command_prints_difference_interval_and_share(davis_pair, capsys):
    _, (a, b) = davis_pair
    main([a["path"], b["path"], "--resamples", "50"])
    text = capsys.readouterr().out
    assert "J&F on davis2017-val" in text
    assert "95 % interval" in text
    assert "50 resamples over 5 sequences" in text
