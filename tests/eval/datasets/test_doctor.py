"""The data doctor: a sound set passes; each thing that can be wrong is named, with its file and what to do."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selfpatch.eval.datasets import coco as coco_set
from selfpatch.eval.datasets.ade20k import check as check_ade20k
from selfpatch.eval.datasets.checks import Finding, require, sample
from selfpatch.eval.datasets.coco import check as check_coco
from selfpatch.eval.datasets.coco import photograph_names, photograph_sizes
from selfpatch.eval.datasets.davis import check as check_davis
from selfpatch.eval.datasets.imagenet import check as check_imagenet
from selfpatch.eval.datasets.prepare import main
from selfpatch.pretrain.cli import UserError

SIZE = (48, 36)  # width, height


def save(path: Path, array: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path)


def photograph(path: Path, size: tuple[int, int] = SIZE) -> None:
    save(path, np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))


def labels(*values: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A mask of bands, one a value."""
    return np.repeat(np.resize(np.array(values, np.uint8), size[1])[:, None], size[0], axis=1)


@pytest.fixture
def ade(tmp_path):
    root = tmp_path / "ade"
    for split in ("training", "validation"):
        for i in range(3):
            photograph(root / f"images/{split}/{split}{i}.jpg")
            save(root / f"annotations/{split}/{split}{i}.png", labels(0, 1, 2, 3, 255))
    (root / "classes.json").write_text('["sky", "road", "other"]')
    return root


@pytest.fixture
def coco(tmp_path):
    root = tmp_path / "coco"
    for split in ("train", "val"):
        images = [{"id": i, "file_name": f"{i}.jpg", "width": SIZE[0], "height": SIZE[1]} for i in (1, 2)]
        box = {"bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0, "segmentation": [[1, 1, 6, 1, 6, 6, 1, 6]]}
        annotations = [{"id": i, "image_id": i, "category_id": 7, **box} for i in (1, 2)]
        for image in images:
            photograph(root / f"{split}2017" / image["file_name"])
        (root / "annotations").mkdir(exist_ok=True)
        content = {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "cat"}]}
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def davis(tmp_path):
    root = tmp_path / "DAVIS"
    for i in range(3):
        photograph(root / f"JPEGImages/480p/boat/{i:05d}.jpg")
        save(root / f"Annotations/480p/boat/{i:05d}.png", labels(0, 1, 2), "P")
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("boat\n")
    return root


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def errors(findings: list[Finding]) -> str:
    return "\n".join(str(finding) for finding in findings if finding.level == "error")


def test_sound_sets_have_no_error(ade, coco, davis):
    assert not errors(check_ade20k(ade) + check_coco(coco) + check_davis(davis))
    photograph(ade.parent / "pictures/flat.png")
    assert not errors(check_imagenet(ade.parent / "pictures"))


def test_small_sets_are_said_to_be_no_benchmark(ade, coco, davis):
    for findings in (check_ade20k(ade), check_coco(coco), check_davis(davis), check_imagenet(ade / "images")):
        assert any(finding.level == "warn" for finding in findings)


ADE = "annotations/training/training1.png"
FAULTS_OF_ADE = {
    "label beyond the classes": (lambda r: save(r / ADE, labels(0, 4)), [ADE, "label 4", "3 classes"]),
    "colour mask": (lambda r: save(r / ADE, labels(0, 1), "RGB"), [ADE, "mode RGB"]),
    "other size": (lambda r: save(r / ADE, labels(1, size=(48, 40))), [ADE, "48x40", "48x36"]),
    "mask missing": (lambda r: (r / ADE).unlink(), ["images/training/training1.jpg has no mask"]),
    "image missing": (lambda r: (r / "images/training/training1.jpg").unlink(), [ADE, "has no image"]),
    "broken image": (lambda r: (r / "images/validation/validation0.jpg").write_text("x"), ["validation0.jpg", "read"]),
    "cut mask": (lambda r: (r / ADE).write_bytes((r / ADE).read_bytes()[:60]), [ADE, "cannot be read"]),
    "no split": (lambda r: shutil.rmtree(r / "images/validation"), ["images/validation is missing"]),
    "no names": (lambda r: (r / "classes.json").unlink(), ["classes.json is missing"]),
    "names of another set": (lambda r: (r / "classes.json").write_text('["sky"]'), ["label 3", "1 classes"]),
    "names no list": (lambda r: (r / "classes.json").write_text('{"sky": 1}'), ["classes.json is not a list"]),
    "name twice": (lambda r: (r / "classes.json").write_text('["a", "b", "a"]'), ["names 'a' twice"]),
}


@pytest.mark.parametrize("fault", FAULTS_OF_ADE)
def test_ade20k_faults_are_named(ade, fault):
    spoil, words = FAULTS_OF_ADE[fault]
    spoil(ade)
    found = errors(check_ade20k(ade))
    assert all(word in found for word in words), found


def test_the_official_ade20k_needs_no_class_file(ade):
    (ade / "classes.json").unlink()
    (ade / "objectInfo150.txt").write_text("Idx\n")
    save(ade / ADE, labels(0, 150))
    assert not errors(check_ade20k(ade))
    save(ade / ADE, labels(0, 151))
    assert "label 151" in errors(check_ade20k(ade))


VAL = "annotations/instances_val2017.json"


def shape(content: dict, segmentation) -> None:
    content["annotations"][0]["segmentation"] = segmentation


FAULTS_OF_COCO = {
    "photographs of another set": (
        lambda r: edit(r / VAL, lambda c: c["images"][0].update(file_name="z.jpg")),
        [VAL, "1 of 2 photographs", "z.jpg"],
    ),
    "other size": (lambda r: photograph(r / "val2017/1.jpg", (30, 36)), ["val2017/1.jpg is 30x36", "48x36"]),
    "broken photograph": (lambda r: (r / "val2017/2.jpg").write_bytes(b""), ["val2017/2.jpg cannot be read"]),
    "other categories": (
        lambda r: edit(r / VAL, lambda c: c["categories"][0].update(name="dog")),
        ["different categories"],
    ),
    "unknown category": (lambda r: edit(r / VAL, lambda c: c["annotations"][0].update(category_id=1)), ["category 1"]),
    "unknown image": (lambda r: edit(r / VAL, lambda c: c["annotations"][1].update(image_id=9)), ["image 9"]),
    "id twice": (lambda r: edit(r / VAL, lambda c: c["annotations"][1].update(id=1)), ["annotation id 1 twice"]),
    "no mask": (lambda r: edit(r / VAL, lambda c: c["annotations"][1].pop("segmentation")), ["no mask"]),
    "image without a width": (lambda r: edit(r / VAL, lambda c: c["images"][0].pop("width")), ["image 1", "no width"]),
    "image without a name": (
        lambda r: edit(r / VAL, lambda c: c["images"][1].pop("file_name")),
        ["image 2", "file_name"],
    ),
    "a number for a name": (lambda r: edit(r / VAL, lambda c: c["images"][0].update(file_name=5)), ["no file_name"]),
    "images of another kind": (lambda r: edit(r / VAL, lambda c: c.update(images=[1])), ["image number 0", "id"]),
    "a list for an id": (lambda r: edit(r / VAL, lambda c: c["images"][0].update(id=[1])), ["image number 0", "id"]),
    "category without a name": (lambda r: edit(r / VAL, lambda c: c["categories"][0].pop("name")), ["category 7"]),
    "null for annotations": (lambda r: edit(r / VAL, lambda c: c.update(annotations=None)), ["not an instance"]),
    "a text for an annotation": (
        lambda r: edit(r / VAL, lambda c: c["annotations"].append("x")),
        ["annotation number 2 is no object"],
    ),
    "unhashable category": (
        lambda r: edit(r / VAL, lambda c: c["annotations"][0].update(category_id={})),
        ["annotation 1 has category {}"],
    ),
    "unhashable image": (lambda r: edit(r / VAL, lambda c: c["annotations"][0].update(image_id=[])), ["image []"]),
    "no id": (lambda r: edit(r / VAL, lambda c: c["annotations"][0].pop("id")), ["annotation number 0 has no"]),
    "null for a box": (lambda r: edit(r / VAL, lambda c: c["annotations"][0].update(bbox=None)), ["no box"]),
    "a box of texts": (
        lambda r: edit(r / VAL, lambda c: c["annotations"][0].update(bbox=list("abcd"))),
        ["four numbers"],
    ),
    "two points": (lambda r: edit(r / VAL, lambda c: shape(c, [[1, 1, 2, 2]])), ["annotation 1 has a polygon"]),
    "half a point": (lambda r: edit(r / VAL, lambda c: shape(c, [[1, 1, 2, 2, 3, 3, 4]])), ["has a polygon"]),
    "a text for a mask": (lambda r: edit(r / VAL, lambda c: shape(c, "abc")), ["neither polygons nor RLE"]),
    "mask of another size": (
        lambda r: edit(r / VAL, lambda c: shape(c, {"size": [9, 9], "counts": "abc"})),
        ["RLE mask of size [9, 9], but its image is [36, 48]"],
    ),
    "runs of another size": (
        lambda r: edit(r / VAL, lambda c: shape(c, {"size": [36, 48], "counts": [50, 50]})),
        ["runs do not add up"],
    ),
    "crowds alone": (
        lambda r: edit(r / VAL, lambda c: [a.update(iscrowd=1) for a in c["annotations"]]),
        ["crowds alone"],
    ),
    "no JSON": (lambda r: (r / VAL).write_bytes(b"\xff\xfe\x00"), [VAL, "is no JSON"]),
    "captions": (lambda r: (r / VAL).write_text('{"info": 1}'), [VAL, "not an instance annotation file"]),
    "no annotations": (lambda r: (r / VAL).unlink(), [VAL, "annotations_trainval2017.zip"]),
}


@pytest.mark.parametrize("fault", FAULTS_OF_COCO)
def test_coco_faults_are_named(coco, fault):
    spoil, words = FAULTS_OF_COCO[fault]
    spoil(coco)
    found = errors(check_coco(coco))
    assert all(word in found for word in words), found


def test_coco_may_leave_out_area_and_iscrowd_and_warns_of_flat_boxes(coco):
    for key in ("area", "iscrowd"):
        edit(coco / VAL, lambda c, key=key: [a.pop(key) for a in c["annotations"]])
    assert not errors(check_coco(coco))
    edit(coco / VAL, lambda c: c["annotations"][1].update(bbox=[1, 1, 0, 0]))
    found = check_coco(coco)
    assert not errors(found)
    assert any("1 boxes without an area (first: annotation 2)" in str(f) and f.level == "warn" for f in found)


@pytest.mark.parametrize("fault", ["photographs of another set", "other categories", "captions"])
def test_a_coco_file_too_large_to_parse_is_still_looked_at(coco, fault, monkeypatch):
    monkeypatch.setattr(coco_set, "HUGE", 0)
    assert not errors(check_coco(coco))
    spoil, words = FAULTS_OF_COCO[fault]
    spoil(coco)
    found = errors(check_coco(coco))
    assert all(word in found for word in words), found


def test_photographs_in_folders_and_with_odd_names_are_found(tmp_path):
    photograph(tmp_path / "a/b.jpg")
    photograph(tmp_path / 'c "d" é.jpg')
    names = ["a/b.jpg", 'c "d" é.jpg', "a/lost.jpg", "nowhere/e.jpg"]
    for ascii_only in (True, False):
        listing = json.dumps({"images": [{"file_name": name} for name in names]}, ensure_ascii=ascii_only)
        assert photograph_names(listing.encode()) == names
    sizes = {name: (tmp_path / name).stat().st_size for name in names[:2]}
    assert photograph_sizes(tmp_path, names) == sizes


def test_coco_photographs_may_lie_elsewhere(coco, tmp_path):
    shutil.rmtree(coco / "val2017")
    (coco / "train2017").rename(tmp_path / "frames")
    for split in ("train", "val"):
        (coco / f"annotations/instances_{split}2017.json").rename(coco / f"annotations/instances_{split}.json")
    assert "photographs" in errors(check_coco(coco))
    assert not errors(check_coco(coco, tmp_path / "frames"))


MASK = "Annotations/480p/boat/00000.png"
FAULTS_OF_DAVIS = {
    "mask missing": (lambda r: (r / "Annotations/480p/boat/00001.png").unlink(), ["00001"]),
    "DAVIS 2016": (lambda r: save(r / MASK, labels(0, 255)), [MASK, "DAVIS 2016"]),
    "nothing to track": (lambda r: save(r / MASK, labels(0)), [MASK]),
    "no list": (lambda r: (r / "ImageSets/2017/val.txt").unlink(), ["ImageSets/2017/val.txt"]),
    "frame cut": (lambda r: (r / "JPEGImages/480p/boat/00001.jpg").write_bytes(b"\xff\xd8"), ["00001.jpg"]),
    "other size": (lambda r: save(r / MASK.replace("0.png", "2.png"), labels(1, size=(9, 9))), ["00002.png is 9x9"]),
    "full resolution": (lambda r: (r / "JPEGImages/480p").rename(r / "JPEGImages/Full-Resolution"), ["480p"]),
}


@pytest.mark.parametrize("fault", FAULTS_OF_DAVIS)
def test_davis_faults_are_named(davis, fault):
    spoil, words = FAULTS_OF_DAVIS[fault]
    spoil(davis)
    found = errors(check_davis(davis))
    assert found
    assert all(word in found for word in words), found


def test_davis_refuses_skipped_objects_unless_told_otherwise(davis):
    save(davis / MASK, labels(0, 1, 3), "P")
    found = [f for f in check_davis(davis) if "skips object 2" in str(f)]
    with pytest.raises(UserError, match="--absent-objects"):
        require(found)
    assert "skips object 2" in require(found, ["absent_objects"])[0]


def test_imagenet_warns_of_what_is_not_imagenet(tmp_path):
    for wnid in ("n01", "n02"):
        photograph(tmp_path / f"train/{wnid}/a.JPEG")
    (tmp_path / "train/n03").mkdir()
    found = "\n".join(map(str, check_imagenet(tmp_path)))
    assert "3 folders" in found
    assert "n03" in found
    (tmp_path / "train/n01/a.JPEG").write_text("not a picture")
    assert "a.JPEG cannot be read" in errors(check_imagenet(tmp_path))
    assert "no image" in errors(check_imagenet(tmp_path / "train/n03"))


def test_require_gives_one_line_for_many_errors():
    require([Finding("ok", "a"), Finding("warn", "b")])
    with pytest.raises(UserError, match=r"^c: mend it \(and 1 more: .*\)$"):
        require([Finding("warn", "b"), Finding("error", "c", "mend it"), Finding("error", "d")])


def test_large_sets_are_sampled_the_same_way_each_time():
    assert sample(range(1000), thorough=False, most=10) == sample(range(1000), thorough=False, most=10)
    assert len(set(sample(range(1000), thorough=False, most=10))) == 10
    assert sample(range(1000), thorough=True, most=10) == list(range(1000))


def test_command_prints_findings_and_fails_on_errors(ade, capsys):
    main(["ade20k", "--data", str(ade)])
    assert "is ready" in capsys.readouterr().out
    save(ade / ADE, labels(0, 9))
    with pytest.raises(UserError, match="1 thing to mend"):
        main(["ade20k", "--data", str(ade), "--all"])
    assert f"error  {ade / ADE} has label 9" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["imagenet", "coco", "ade20k", "davis"])
def test_a_folder_that_is_not_there_says_where_to_get_it(name, tmp_path, capsys):
    with pytest.raises(UserError):
        main([name, "--data", str(tmp_path / "none")])
    assert "download" in capsys.readouterr().out
