"""AP rebuilt from stored matches equals COCOeval's, and an image that counts twice equals two copies of it."""

import contextlib
import io

import numpy as np
import pytest

from selfpatch.reports.detections import Detections, average_precision

coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
from pycocotools.cocoeval import COCOeval  # noqa: E402


def random_set(seed, images=6, categories=4, crowds=True, ties=False, found=0.7, objects=5):
    """Random ground truth and detections, many of them near a ground truth: (annotations, detections)."""
    rng = np.random.default_rng(seed)
    annotations, detections = [], []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, objects)):
            box = [*rng.uniform(0, 60, 2), *rng.uniform(10, 40, 2)]
            category = int(rng.integers(1, categories + 1))
            crowd = int(crowds and rng.random() < 0.2)
            annotations.append((image, category, box, crowd))
            for _ in range(rng.integers(1, 4)):
                if rng.random() < found:
                    near = [value + rng.normal(0, 2) for value in box]
                    detections.append((image, category, near, rng.random()))
        for _ in range(rng.integers(0, 4)):
            box = [*rng.uniform(0, 60, 2), *rng.uniform(10, 40, 2)]
            detections.append((image, int(rng.integers(1, categories + 1)), box, rng.random()))
    if ties:
        detections = [(image, category, box, round(score, 1)) for image, category, box, score in detections]
    return annotations, detections


def evaluate(annotations, detections, images, most=100):
    """COCOeval over boxes."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {
            "images": [{"id": image, "width": 100, "height": 100} for image in images],
            "categories": [{"id": number, "name": str(number)} for number in range(1, 5)],
            "annotations": [
                {
                    "id": number,
                    "image_id": image,
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": crowd,
                }
                for number, (image, category, box, crowd) in enumerate(annotations, 1)
            ],
        }
        truth.createIndex()
        found = truth.loadRes(
            [
                {"image_id": image, "category_id": category, "bbox": box, "score": score}
                for image, category, box, score in detections
            ]
        )
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.maxDets = [1, 10, most]
        evaluation.evaluate()
        evaluation.accumulate()
        if most == 100:  # what summarize insists on
            evaluation.summarize()
    return evaluation


def units_of(evaluation, kind="bbox"):
    """The units layout from COCOeval's own matches at area range 'all'."""
    parameters = evaluation.params
    whole = [one for one in evaluation.evalImgs if one is not None and one["aRng"] == parameters.areaRng[0]]
    columns = {name: [] for name in ("image", "category", "score", "matched", "ignored")}
    truth = {"gt_image": [], "gt_category": [], "gt_ignored": []}
    for one in whole:
        scores = np.asarray(one["dtScores"], dtype=float)
        columns["image"] += [one["image_id"]] * len(scores)
        columns["category"] += [one["category_id"]] * len(scores)
        columns["score"] += scores.tolist()
        columns["matched"] += (np.asarray(one["dtMatches"]).reshape(10, len(scores)).T > 0).tolist()
        columns["ignored"] += np.asarray(one["dtIgnore"]).reshape(10, len(scores)).T.astype(bool).tolist()
        count = len(one["gtIds"])
        truth["gt_image"] += [one["image_id"]] * count
        truth["gt_category"] += [one["category_id"]] * count
        truth["gt_ignored"] += np.asarray(one["gtIgnore"]).astype(bool).tolist()
    shapes = {"matched": (-1, 10), "ignored": (-1, 10)}
    kinds = {"image": int, "category": int, "score": float, "matched": bool, "ignored": bool}
    return {
        "images": np.array(parameters.imgIds),
        **{name: np.array(values, dtype=bool if name == "gt_ignored" else int) for name, values in truth.items()},
        **{
            f"{kind}/{name}": np.array(values, dtype=kinds[name]).reshape(shapes.get(name, (-1,)))
            for name, values in columns.items()
        },
    }


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ties", [False, True])
def test_ap_equals_cocoeval(seed, ties):
    evaluation = evaluate(*random_set(seed, ties=ties), images=range(1, 7))
    detections = Detections.from_units(units_of(evaluation), "bbox")
    for chosen, expected in zip((slice(None), slice(0, 1), slice(5, 6)), evaluation.stats[:3], strict=True):
        assert average_precision(detections, thresholds=chosen)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_more_than_a_hundred_detections_an_image_are_cut_as_cocoeval_cuts_them(seed):
    annotations, detections = random_set(seed, images=2, categories=1, objects=8)
    rng = np.random.default_rng(seed)
    detections += [(1, 1, [*rng.uniform(0, 60, 2), 20.0, 20.0], rng.random()) for _ in range(150)]
    expected = evaluate(annotations, detections, images=(1, 2)).stats[0]
    uncut = units_of(evaluate(annotations, detections, images=(1, 2), most=1000))
    assert len(uncut["bbox/score"]) > 150
    rebuilt = average_precision(Detections.from_units(uncut, "bbox"))[0]
    assert rebuilt == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_an_image_that_counts_twice_equals_two_copies(seed):
    annotations, detections = random_set(seed)
    weights = np.random.default_rng(seed).multinomial(6, np.full(6, 1 / 6))
    copies = [(100 * image + copy, image) for image in range(1, 7) for copy in range(weights[image - 1])]
    copied = [
        [(new, *rest) for new, old in copies for image, *rest in part if image == old]
        for part in (annotations, detections)
    ]
    expected = evaluate(*copied, images=[new for new, _ in copies]).stats[0]
    units = units_of(evaluate(annotations, detections, images=range(1, 7)))
    rebuilt = average_precision(Detections.from_units(units, "bbox"), np.stack([weights, np.ones(6)]).astype(float))
    assert rebuilt[0] == pytest.approx(expected, abs=1e-12)


def test_the_order_of_rows_between_images_does_not_matter():
    units = units_of(evaluate(*random_set(3), images=range(1, 7)))
    shuffled = dict(units)
    order = np.argsort(-units["bbox/image"], kind="stable")
    shuffled |= {name: value[order] for name, value in units.items() if name.startswith("bbox/")}
    shuffled["images"] = units["images"][::-1]
    expected, got = (average_precision(Detections.from_units(arrays, "bbox"))[0] for arrays in (units, shuffled))
    assert got == expected


def test_no_detection_is_zero_and_no_ground_truth_is_no_number():
    units = units_of(evaluate(*random_set(0), images=range(1, 7)))
    empty = units | {name: value[:0] for name, value in units.items() if name.startswith("bbox/")}
    assert average_precision(Detections.from_units(empty, "bbox"))[0] == 0.0
    with np.errstate(all="raise"):
        assert np.isnan(average_precision(Detections.from_units(empty, "bbox"), np.zeros((1, 6)))[0])


def test_an_unknown_image_or_a_wrong_shape_is_refused():
    units = units_of(evaluate(*random_set(0), images=range(1, 7)))
    with pytest.raises(ValueError, match="an image outside"):
        Detections.from_units(units | {"images": units["images"][1:]}, "bbox")
    with pytest.raises(ValueError, match="bbox/matched"):
        Detections.from_units(units | {"bbox/matched": units["bbox/matched"][:, :9]}, "bbox")
