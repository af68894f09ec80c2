"""Pictures of single images: what methods segmented and detected, chosen by difference, from what records keep."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from selfpatch.reports.metrics import found_instances
from selfpatch.reports.pictures import extremes
from selfpatch.reports.report import main

IMAGES = [f"i{n:02d}" for n in range(30)]


def png(labels):
    buffer = io.BytesIO()
    Image.fromarray(labels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def keep(record_path, files):
    """Give a record that was written a file of predictions."""
    record = json.loads(record_path.read_text())
    record["kept"]["predictions"] = record_path.with_suffix(".zip").name
    record_path.write_text(json.dumps(record))
    with zipfile.ZipFile(record_path.with_suffix(".zip"), "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


@pytest.fixture
def photographs(tmp_path):
    for folder in ("images", "truth"):
        (tmp_path / folder).mkdir()
    rng = np.random.default_rng(0)
    for name in IMAGES:
        Image.fromarray(rng.integers(0, 255, (60, 90, 3), dtype=np.uint8)).save(tmp_path / f"images/{name}.jpg")
        Image.fromarray(np.repeat([[0], [1], [2]], 20, 0).repeat(90, 1).astype(np.uint8)).save(
            tmp_path / f"truth/{name}.png"
        )
    return tmp_path


@pytest.fixture
def segmented(photographs, write_record):
    """Two methods on 30 images: the second is worse on one, better on three, and equal on the others."""
    for method in ("DINO", "DINO+SelfPatch"):
        hits = np.full((30, 2), 900)
        if method != "DINO":
            hits[4], hits[[7, 20, 21]] = 100, 1500
        truth = np.full((30, 2), 1800)
        units = {"image": np.array(IMAGES), "intersection": hits, "union": truth, "label": truth}
        kept = {name: str(photographs / name) for name in ("images", "truth")}
        metrics = {"mIoU": 100 * hits.sum() / truth.sum()}
        path = write_record(method, task="ade20k", metrics=metrics, units=units, kept=kept, miniature=True)
        maps = {f"{name}.png": png(np.repeat([[1], [1], [2]], 10, 0).repeat(45, 1)) for name in IMAGES}
        keep(path, maps | {"classes.json": json.dumps(["<b>wall</b>", "sky"]).encode()})
    return photographs


def report(world, *more):
    main(["--records", str(world / "records"), "--out", str(world / "report"), "--resamples", "20", *more])
    return (world / "report/report.html").read_text(encoding="utf-8")


def test_the_images_that_differ_are_pictured_and_no_others(segmented):
    page = report(segmented, "--assets")
    names = [path.stem.rpartition("-")[2] for path in (segmented / "report/assets").glob("*.webp")]
    assert sorted(names) == ["i04", "i07", "i20", "i21"]
    assert "DINO+SelfPatch is better on 3 and worse on 1 of 30, from -44.4 on i04 to +33.3 on i07." in page
    picture = Image.open(next((segmented / "report/assets").glob("*.webp")))
    assert picture.size == (4 * 45, 20 + 2 * 30)  # image, truth and two methods under their titles, and what is wrong


@pytest.mark.parametrize(
    ("deltas", "words"),
    [
        ((0.0, 0.0, -0.04), "is equal on all 3"),  # differences that no shown digit tells are none
        ((0.0, 2.0, 1.0), "is better on 2 and worse on 0 of 3, up to +2.0 on b"),
        ((-3.0, 0.0, -1.0), "is better on 0 and worse on 2 of 3, down to -3.0 on a"),
        ((-3.0, 2.0, 0.0), "is better on 1 and worse on 1 of 3, from -3.0 on a to +2.0 on b"),
    ],
)
def test_only_gains_and_losses_that_there_are_have_an_extreme(deltas, words):
    assert extremes({"MoBY": dict(zip("abc", deltas, strict=True))}) == f"MoBY {words}"


def test_pictures_whose_predictions_are_gone_cost_one_line(segmented, capsys):
    next((segmented / "records").glob("*.zip")).unlink()
    assert "data:image/webp" not in report(segmented)
    assert "No pictures: the predictions of" in capsys.readouterr().out


def test_detections_show_scores_and_what_was_missed(photographs, write_record):
    box = {"name": "dog & <i>cat</i>", "box": [5, 5, 30, 20]}
    for method, matched in (("DINO", [False, False]), ("DINO+SelfPatch", [True, False])):
        units = {"images": np.array([1, 2]), "gt_image": np.array([1]), "gt_category": np.array([3])}
        units["gt_ignored"] = np.array([False])
        for kind in ("bbox", "mask"):
            arrays = {"image": [1, 2], "category": [3, 3], "score": [0.9, 0.2]}
            units |= {f"{kind}/{name}": np.array(values) for name, values in arrays.items()}
            units[f"{kind}/matched"] = np.repeat(np.array(matched)[:, None], 10, 1)
            units[f"{kind}/ignored"] = np.zeros((2, 10), bool)
        kept = {"images": str(photographs / "images")}
        metrics = {f"{kind} AP": 100.0 * matched[0] for kind in ("bbox", "mask")}
        path = write_record(method, task="coco", metrics=metrics, units=units, kept=kept)
        found = [{**box, "score": 0.9, "right": matched[0]}]
        content = {"file": "i00.jpg", "truth": [box], "found": found, "missed": [box] * (not matched[0])}
        files = {f"{i}.json": json.dumps(content).encode() for i in (1, 2)}
        files |= {f"{i}{part}.png": png(np.eye(30, 45)) for i in (1, 2) for part in ("", "-truth")}
        keep(path, files)
    page = report(photographs, "--assets")
    (picture,) = (photographs / "report/assets").glob("*.webp")  # of the second image nothing differs
    assert Image.open(picture).size == (3 * 45, 20 + 30)
    assert "F1 at IoU 0.5 of each image" in page
    assert "DINO+SelfPatch vit-ti16 100.0" in page


def test_the_f1_of_an_image_counts_what_is_shown():
    units = {
        "images": np.array([7, 3, 5]),
        "gt_image": np.array([3, 3, 7, 7]),
        "gt_ignored": np.array([False, False, False, True]),
        "mask/image": np.array([3, 3, 7, 7]),
        "mask/score": np.array([0.9, 0.29, 0.8, 0.5]),
        "mask/matched": np.repeat([[True], [True], [False], [True]], 10, 1),
        "mask/ignored": np.repeat([[False], [False], [False], [True]], 10, 1),
    }
    f1 = found_instances(units)
    np.testing.assert_allclose(f1[[0, 2]], [100 * 2 / 3, 0])  # images 3 and 7: one of two found; one wrong, one missed
    assert np.isnan(f1[1])
