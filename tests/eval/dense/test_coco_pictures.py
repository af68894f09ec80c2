"""What a record keeps of detections: the best ones, right or wrong, and the instances that none of them is."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from selfpatch.eval.dense import pixels
from selfpatch.eval.dense.coco_pictures import kept_detections


def square(x, y, side, **more):
    mask = np.zeros((40, 60), np.uint8, order="F")
    mask[y : y + side, x : x + side] = 1
    return {"image_id": 1, "category_id": 5, "bbox": [x, y, side, side], "segmentation": rle.encode(mask), **more}


@pytest.fixture
def truth():
    images = [{"id": i, "width": 60, "height": 40, "file_name": f"a/{i}.jpg"} for i in (1, 2)]
    categories = [{"id": 5, "name": "dog"}, {"id": 9, "name": "cat"}]
    instances = [square(0, 0, 10), square(20, 20, 10), square(40, 0, 10, iscrowd=1)]
    return {"images": images, "categories": categories, "annotations": instances}


def test_what_is_right_wrong_and_missed(truth):
    detections = [
        square(20, 20, 10, category_id=9, score=0.95),  # another class
        square(1, 1, 10, score=0.9),
        square(20, 20, 10, score=0.2),  # not sure enough to be shown
        square(2, 0, 4, score=0.5),
        square(0, 0, 10, score=0.4),  # found already
    ]
    files = kept_detections(truth, detections)
    assert set(files) == {f"{i}{end}" for i in (1, 2) for end in (".json", ".png", "-truth.png")}
    one = json.loads(files["1.json"])
    assert one["file"] == "a/1.jpg"
    assert [(f["name"], f["score"], f["right"]) for f in one["found"]] == [
        ("cat", 0.95, False),
        ("dog", 0.9, True),
        ("dog", 0.5, False),
        ("dog", 0.4, False),
    ]
    assert [m["box"] for m in one["missed"]] == [[20, 20, 10, 10]]
    assert len(one["truth"]) == 2
    numbers = np.asarray(Image.open(io.BytesIO(files["1.png"])))
    assert numbers.shape == (40, 60)
    assert (numbers[25, 25], numbers[1, 3], numbers[39, 59]) == (1, 2, 0)  # the better detection is on top
    assert json.loads(files["2.json"]) == {"file": "a/2.jpg", "truth": [], "missed": [], "found": []}


def test_of_many_images_the_same_ones_are_kept_in_small(monkeypatch):
    monkeypatch.setattr(pixels, "PICTURED", 3)
    names = [str(i) for i in range(20)]
    assert len(pixels.pictured(names)) == 3
    assert pixels.pictured(names) == pixels.pictured(names[::-1])
    assert Image.open(io.BytesIO(pixels.small_png(np.zeros((500, 1000), np.uint8)))).size == (320, 160)
