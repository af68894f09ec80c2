"""The paired bootstrap equals a plain loop over the same draws, and refuses what cannot be paired."""

import json

import numpy as np
import pytest
from scipy import stats

from selfpatch.pretrain.cli import UserError
from selfpatch.reports.bootstrap import (
    Difference,
    Statistic,
    compare_records,
    main,
    paired_bootstrap,
    statistic,
    unit_scores,
)
from selfpatch.reports.intervals import draw_weights
from selfpatch.reports.record import Protocol, Record


def ade_units(quality, seed=0, images=7, classes=5):
    rng = np.random.default_rng(seed)
    union = rng.integers(1, 1000, (images, classes)) * (rng.random((images, classes)) < 0.5)
    return {
        "image": np.array([f"i{n}" for n in range(images)]),
        "intersection": (union * quality * rng.uniform(0.5, 1, union.shape)).astype(int),
        "union": union,
        "label": union,
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
    return (a, b), [Record.read(path) for path in paths]


def interval(deltas, n):
    """The percentiles whose normal quantiles are Student's t with n - 1 degrees, widened by what draws of n lack."""
    tail = 100 * stats.norm.sf(stats.t.ppf(0.975, n - 1) * (n / (n - 1)) ** 0.5)
    return tuple(np.percentile(deltas, [tail, 100 - tail]))


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
        record.metrics.pop(metric, None)
    kinds = metric[0] if metric != "J&F" else "JF"

    def value(side, chosen):
        scores = []
        for kind in kinds:
            values = units[side][kind] > 0.5 if "recall" in metric else units[side][kind]
            means = davis.object_means(units[side], values)
            scores.append([mean for s in chosen for (name, _), mean in means.items() if name == f"s{s}"])
        return 100 * np.mean(scores)

    deltas = plain_bootstrap(value, 5, 40, seed=3)
    result = compare_records(records[:1], records[1:], metric, resamples=40, seed=3)
    assert result.delta == pytest.approx(value(0, range(5)) - value(1, range(5)))
    assert (result.low, result.high) == pytest.approx(interval(deltas, 5))
    assert result.above == pytest.approx((deltas > 0).mean())
    assert (result.unit, result.units, result.resamples) == ("sequence", 5, 40)


def test_objects_can_be_drawn_instead_of_sequences(davis_pair):
    _, records = davis_pair
    by_object = compare_records(records[:1], records[1:], "J&F", resamples=50, per_object=True)
    by_sequence = compare_records(records[:1], records[1:], "J&F", resamples=50)
    assert (by_object.unit, by_object.units) == ("object", 9)
    assert by_object.delta == pytest.approx(by_sequence.delta)


def test_miou_equals_a_plain_loop_that_leaves_out_absent_classes(write_record):
    units = [ade_units(0.9), ade_units(0.8)]
    records = [
        Record.read(write_record(name, task="ade20k", metrics={"mIoU": miou(u, range(7))}, units=u))
        for name, u in zip("AB", units, strict=True)
    ]
    deltas = plain_bootstrap(lambda side, chosen: miou(units[side], chosen), 7, 60, seed=0)
    result = compare_records(records[:1], records[1:], "mIoU", resamples=60)
    assert (result.low, result.high) == pytest.approx(interval(deltas, 7))
    assert result.unit == "image"


def test_images_may_come_in_another_order(write_record):
    units = ade_units(0.9)
    turned = {name: value[::-1] for name, value in units.items()}
    metrics = {"mIoU": miou(units, range(7))}
    a, b = (
        Record.read(write_record(n, task="ade20k", metrics=metrics, units=u)) for n, u in (("A", units), ("B", turned))
    )
    result = compare_records([a], [b], "mIoU", resamples=30)
    assert (result.low, result.high) == pytest.approx((0.0, 0.0), abs=1e-9)


def test_coco_is_paired_over_images(write_record):
    units = coco_units([True, True, False]), coco_units([True, False, False])
    records = [
        Record.read(write_record(name, task="coco", metrics={"bbox AP": ap}, units=u))
        for name, u, ap in (("A", units[0], 100 * 67 / 101), ("B", units[1], 100 * 34 / 101))
    ]
    result = compare_records(records[:1], records[1:], "bbox AP", resamples=500)
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
        Record.read(write_record(n, task="knn", metrics={"top-1": 100 * r.mean()}, units={"image": images, "top-1": r}))
        for n, r in zip("AB", right, strict=True)
    ]
    deltas = plain_bootstrap(lambda side, chosen: 100 * right[side][chosen].mean(), 4, 50, seed=0)
    result = compare_records(records[:1], records[1:], "top-1", resamples=50)
    assert result.delta == 25.0
    assert (result.low, result.high) == pytest.approx(interval(deltas, 4))


def test_equal_records_differ_by_nothing(davis_pair):
    _, records = davis_pair
    result = compare_records(records[:1], records[:1], "J&F", resamples=20)
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
    first, again, other = (compare_records(records[:1], records[1:], "J&F", 200, seed) for seed in (0, 0, 1))
    assert first == again
    assert first.low != other.low


def test_seeds_of_a_side_are_averaged(davis, write_record):
    units = [davis.units(seed=s) for s in range(3)]
    records = [
        Record.read(write_record("A" if s else "B", seed=s, metrics=davis.metrics(u), units=u))
        for s, u in enumerate(units)
    ]
    result = compare_records(records[1:], records[:1], "J&F", resamples=20)
    expected = np.mean([record.metrics["J&F"] for record in records[1:]]) - records[0].metrics["J&F"]
    assert result.delta == pytest.approx(expected)


def simulated(rng, n, k, truth, spread):
    """A side's seeds as statistics of a metric that is a mean: n units, k seeds, a noise of seeds, units and both."""
    seeds, units, both = (rng.normal(0, scale, size) for scale, size in zip(spread, (k, n, (k, n)), strict=True))
    values = truth + seeds[:, None] + units + both
    return [Statistic("x", n, "", lambda w, v=v: w @ v / w.sum(axis=1)) for v in values]


@pytest.mark.parametrize(
    ("n", "k", "spread"),
    [
        *[(30, 3, (0.5, 3.0, 1.0)), (30, 3, (1.0, 1.0, 1.0)), (30, 3, (0.0, 3.0, 3.0))],
        *[(30, 5, (1.0, 3.0, 0.0)), (30, 2, (1.0, 1.0, 1.0)), (6, 3, (0.5, 3.0, 1.0))],
        *[(30, 1, (0.0, 3.0, 1.0)), (6, 1, (0.0, 3.0, 1.0))],  # plain percentiles over six units: 85 %
    ],
)
def test_the_two_level_interval_covers_the_truth(n, k, spread):
    """500 simulated data sets of known variances: 93 to 97 % of the intervals hold the true difference."""
    rng, covered = np.random.default_rng(2), 0
    for number in range(500):
        a, b = simulated(rng, n, k, 1.0, spread), simulated(rng, n, k, 0.0, spread)
        result = paired_bootstrap(a, b, "m", resamples=400 if n > 6 else 2000, seed=number)
        covered += result.low <= 1.0 <= result.high
    assert 0.93 <= covered / 500 <= 0.97


def test_drawing_units_alone_is_too_sure_of_itself():
    """What two-level intervals are for: with seeds that vary, an interval over units misses the truth."""
    rng, covered = np.random.default_rng(3), 0
    for number in range(200):
        a, b = simulated(rng, 30, 1, 1.0, (1.0, 1.0, 1.0)), simulated(rng, 30, 1, 0.0, (1.0, 1.0, 1.0))
        result = paired_bootstrap(a, b, "m", resamples=200, seed=number)
        covered += result.low <= 1.0 <= result.high
    assert covered / 200 < 0.7


def test_seeds_that_agree_leave_the_interval_of_the_units():
    scores = np.random.default_rng(0).normal(1.0, 2.0, 500)
    one, zero = (Statistic("x", 500, "", lambda w, v=v: w @ v / w.sum(axis=1)) for v in (scores, np.zeros(500)))
    single, several = paired_bootstrap([one], [zero], "m", 4000), paired_bootstrap([one] * 3, [zero] * 3, "m", 4000)
    assert (several.low, several.high) == pytest.approx((single.low, single.high), abs=0.02)
    assert (several.seeds, several.delta) == ((3, 3), pytest.approx(single.delta))


@pytest.mark.parametrize(
    ("low", "high", "lower", "verdict"),
    [
        (0.1, 2.0, False, "better"),
        (-2.0, -0.1, False, "worse"),
        (-2.0, -0.1, True, "better"),
        (0.1, 2.0, True, "worse"),
        (-0.1, 0.1, False, "cannot tell"),
        (0.0, 1.0, False, "cannot tell"),
        (float("nan"), float("nan"), False, "cannot tell"),
    ],
)
def test_a_verdict_needs_an_interval_without_zero(low, high, lower, verdict):
    assert Difference("m", 1.0, 0.0, 1.0, low, high, 0.9, 100, "x", 9, lower=lower).verdict == verdict


def test_of_a_decay_less_is_better(davis, write_record):
    units = davis.units()
    steady = units | {"J": np.full_like(units["J"], 0.5)}
    falling = units | {"J": 1.0 - 0.1 * units["frame"]}
    metrics = {"J&F": 50.0, "J decay": 1.0}
    a, b = (Record.read(write_record(n, metrics=metrics, units=u)) for n, u in (("A", steady), ("B", falling)))
    for record in (a, b):
        record.metrics.clear()
    result = compare_records([a], [b], "J decay", resamples=100)
    assert result.delta < 0
    assert result.verdict == "better"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"task": "ade20k"}, "task"),
        ({"dataset": "other"}, "dataset"),
        ({"dataset_fingerprint": "0" * 64}, "content of the dataset"),
        ({"protocol": Protocol("other@1", {"topk": 5})}, "protocol"),
        ({"protocol": Protocol("davis2017-dino@1", {"topk": 6})}, "different parameters"),
    ],
)
def test_what_is_not_comparable_is_refused_in_one_line(davis_pair, change, named):
    _, (a, b) = davis_pair
    with pytest.raises(UserError, match=named) as error:
        compare_records([a], [b.model_copy(update=change)], "J&F", resamples=10)
    assert "\n" not in str(error.value)
    assert str(a.path) in str(error.value)
    assert str(b.path) in str(error.value)


def test_other_units_are_refused(davis, write_record, davis_pair):
    _, (a, _) = davis_pair
    units = davis.units(sequences=4)
    other = Record.read(write_record("MoBY", metrics=davis.metrics(units), units=units))
    with pytest.raises(UserError, match="different sequences"):
        compare_records([a], [other], "J&F", resamples=10)


def test_units_of_another_run_are_refused(davis_pair):
    _, (a, _) = davis_pair
    a.metrics["J&F"] += 1
    with pytest.raises(UserError, match="different runs"):
        statistic(a, "J&F")


def test_missing_and_broken_units_are_named(davis, write_record, davis_pair):
    _, (a, _) = davis_pair
    with pytest.raises(UserError, match="cannot give 'mIoU'"):
        statistic(a, "mIoU")
    with pytest.raises(UserError, match="no paired bootstrap for the task depth"):
        statistic(a.model_copy(update={"task": "depth", "measure": None}), "rmse")
    with pytest.raises(UserError, match="no per-unit values"):
        statistic(Record.read(write_record("Bare")), "J&F")
    (tmp := write_record("Text", units=davis.units())).with_suffix(".npz").write_text("no archive")
    with pytest.raises(UserError, match="is not a file of per-unit values"):
        statistic(Record.read(tmp), "J&F")
    (tmp := write_record("Lacks", units={"J": np.ones(3)}))
    with pytest.raises(UserError, match="cannot give 'J&F'"):
        statistic(Record.read(tmp), "J&F")


def test_a_sequence_scores_the_mean_of_its_objects(davis, davis_pair):
    (units, _), (record, _) = davis_pair
    means = davis.object_means(units, (units["J"] + units["F"]) / 2)
    scores = unit_scores(record, "J&F")
    assert list(scores) == [f"s{i}" for i in range(5)]
    for name, score in scores.items():
        assert score == pytest.approx(100 * np.mean([mean for (owner, _), mean in means.items() if owner == name]))


def test_every_draw_has_as_many_units_as_there_are():
    weights = draw_weights(np.random.default_rng(0), 7, 500)
    assert (weights.sum(axis=1) == 7).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(7), abs=0.2)


def test_the_command_prints_difference_interval_and_share(davis_pair, capsys):
    _, (a, b) = davis_pair
    main([str(a.path), str(b.path), "--resamples", "50"])
    text = capsys.readouterr().out
    assert "J&F on davis2017-val" in text
    assert "95 % interval" in text
    assert "50 resamples over 5 sequences" in text
    assert text.splitlines()[-1].startswith("A against B: ")


def test_the_command_gives_json_and_takes_seeds(davis, write_record, capsys):
    paths = []
    for method, shift in (("A", 0.1), ("B", 0.0)):
        for seed in range(2):
            units = davis.units(shift, seed=seed)
            paths.append(str(write_record(method, seed=seed, metrics=davis.metrics(units), units=units)))
    main([paths[0], paths[2], "--with", paths[1], "--against", paths[3], "--resamples", "50", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["seeds"] == [2, 2]
    assert result["verdict"] in ("better", "worse", "cannot tell")
    assert result["metric"] == "J&F"
