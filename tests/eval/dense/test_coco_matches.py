"""Matches are those of pycocotools, one by one, whatever ties, crowds and boxes there are."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from selfpatch.eval.dense.coco_matches import match

H, W = 40, 60


def shape(rng: np.random.Generator) -> dict:
    """A box with whole numbers, so that overlaps tie, and its mask."""
    x, y = (int(v) for v in rng.integers(0, (W - 20, H - 20)))
    w, h = (int(v) for v in rng.integers(2, 16, 2))
    mask = np.zeros((H, W), np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    return {"bbox": [x, y, w, h], "segmentation": rle.encode(mask), "area": w * h}


def scene(seed: int) -> tuple[dict, list[dict]]:
    rng = np.random.default_rng(seed)
    images, categories = [{"id": i, "height": H, "width": W} for i in (5, 3, 9)], [{"id": i} for i in (7, 2)]
    truth = [
        {
            **shape(rng),
            "id": number,
            "image_id": int(rng.choice([5, 3])),  # 9 has none
            "category_id": int(rng.choice([7, 2])),
            "iscrowd": int(rng.random() < 0.2),
        }
        for number in range(1, 30)
    ]
    detections = []
    for number in range(260):  # more than 100 of one image and class
        like = truth[rng.integers(len(truth))]
        own = {key: like[key] for key in ("bbox", "segmentation")} if rng.random() < 0.4 else shape(rng)
        own = {key: own[key] for key in ("bbox", "segmentation")}
        where = {"image_id": int(rng.choice([5, 5, 5, 3, 9])), "category_id": int(rng.choice([7, 7, 7, 2]))}
        detections.append({**own, **where, "score": float(rng.integers(1, 30)) / 30, "id": number + 1})
    return {"images": images, "categories": categories, "annotations": truth}, detections


def reference(truth: dict, detections: list[dict], kind: str) -> dict[str, np.ndarray]:
    """What pycocotools matches, in the same order."""
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for annotations in (truth["annotations"], detections):
            side = COCO()
            side.dataset = {**truth, "annotations": [{"iscrowd": 0, "area": 1, **a} for a in annotations]}
            side.createIndex()
            sides.append(side)
        run = COCOeval(*sides, {"bbox": "bbox", "mask": "segm"}[kind])
        run.params.imgIds, run.params.catIds = [3, 5, 9], [7, 2]
        run.params.areaRng, run.params.areaRngLbl = run.params.areaRng[:1], run.params.areaRngLbl[:1]
        run.params.useCats = 1
        run.evaluate()
    kept = [e for e in run.evalImgs if e is not None and len(e["dtIds"])]
    found = {}
    for entry in kept:
        key = (entry["category_id"], entry["image_id"])
        found[key] = (entry["dtScores"], entry["dtMatches"].T > 0, entry["dtIgnore"].T > 0)
    return found


@pytest.mark.parametrize("kind", ["bbox", "mask"])
@pytest.mark.parametrize("seed", range(6))
def test_matches_are_those_of_pycocotools(seed, kind):
    truth, detections = scene(seed)
    found, expected = match(truth, detections, [kind]), reference(truth, detections, kind)
    rows = 0
    for (category, image), (scores, matched, ignored) in expected.items():
        own = (found[f"{kind}/category"] == category) & (found[f"{kind}/image"] == image)
        assert np.array_equal(found[f"{kind}/score"][own], scores)
        assert np.array_equal(found[f"{kind}/matched"][own], matched)
        assert np.array_equal(found[f"{kind}/ignored"][own], ignored)
        rows += own.sum()
    assert rows == len(found[f"{kind}/score"])
    assert found[f"{kind}/matched"].any()
    assert found[f"{kind}/ignored"].any()


def test_no_detection_has_no_match():
    truth, _ = scene(0)
    assert match(truth, [])["mask/matched"].shape == (0, 10)
