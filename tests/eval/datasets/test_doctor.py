"""The data doctor: a sound set passes; each thing that can be wrong is named, with its file and what to do."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selfpatch.eval.datasets import coco as coco_set
from selfpatch.eval.datasets import davis as davis_set
from selfpatch.eval.datasets import imagenet as imagenet_set
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


def every_annotation(change):
    """Change each annotation of val, and its image's size is known to the change."""

    def spoil(root):
        edit(root / VAL, lambda c: [a.update(change(a, *SIZE)) for a in c["annotations"]])

    return spoil


NONSENSE_OF_COCO = {
    "corners": (every_annotation(lambda a, w, h: {"bbox": [1, 1, 6, 6]}), None),  # too near the origin to tell
    "corners in the middle": (
        every_annotation(
            lambda a, w, h: {"bbox": [20, 20, 26, 26], "segmentation": [[20, 20, 26, 20, 26, 26, 20, 26]]}
        ),
        "2 of 2 boxes are two corners (first: annotation 1)",
    ),
    "shares": (every_annotation(lambda a, w, h: {"bbox": [v / w for v in a["bbox"]]}), "boxes are shares of the image"),
    "outside": (every_annotation(lambda a, w, h: {"bbox": [w + 3, 1, 5, 5]}), "boxes lie outside their image"),
    "half outside": (every_annotation(lambda a, w, h: {"bbox": [-9, 1, 18, 5]}), "--loose-boxes"),
    "around something else": (every_annotation(lambda a, w, h: {"bbox": [20, 20, 5, 5]}), "not around their masks"),
    "huge image id": (
        lambda r: edit(
            r / VAL, lambda c: [c["images"][0].update(id=1 << 70), c["annotations"][0].update(image_id=1 << 70)]
        ),
        "no whole number of 64 bits",
    ),
    "half a pixel": (lambda r: edit(r / VAL, lambda c: c["images"][0].update(width=48.5)), "in whole pixels"),
    "absurd size": (lambda r: edit(r / VAL, lambda c: c["images"][0].update(width=10**9)), "which no picture may have"),
    "polygon far away": (
        every_annotation(lambda a, w, h: {"segmentation": [[1, 1, 1e9, 1, 1, 9]]}),
        "far outside its image",
    ),
    "runs that lie": (
        every_annotation(lambda a, w, h: {"segmentation": {"size": [h, w], "counts": "04o5"}}),
        "do not add up",
    ),
    "not a number": (
        lambda r: (r / VAL).write_text((r / VAL).read_text().replace('"area": 25', '"area": NaN')),
        "area",
    ),
    "flat boxes alone": (every_annotation(lambda a, w, h: {"bbox": [1, 1, 0, 5]}), "nothing can be learned or found"),
}


@pytest.mark.parametrize("fault", NONSENSE_OF_COCO)
def test_what_a_detector_would_train_on_without_a_word_is_refused(coco, fault):
    spoil, said = NONSENSE_OF_COCO[fault]
    spoil(coco)
    found = errors(check_coco(coco))
    assert said in found if said else not found, found


def test_loose_boxes_may_be_meant(coco):
    every_annotation(lambda a, w, h: {"bbox": [20, 20, 5, 5]})(coco)
    with pytest.raises(UserError, match="--loose-boxes"):
        coco_set.open_instances(coco)
    assert any(
        "not around their masks" in line for line in coco_set.open_instances(coco, allowed=["loose_boxes"]).findings
    )


def test_numbers_with_a_point_and_areas_of_zero_are_mended_and_told(coco):
    plain = coco_set.open_instances(coco).truth
    edit(coco / VAL, lambda c: [image.update(width=48.0, height=36.0) for image in c["images"]])
    edit(coco / VAL, lambda c: [a.update(area=0, id=float(a["id"])) for a in c["annotations"]])
    opened = coco_set.open_instances(coco)
    assert any("6 whole numbers" in line for line in opened.findings)
    assert any("2 areas are 0 or less" in line for line in opened.findings)
    assert opened.truth == plain | {"annotations": [a | {"area": 25.0} for a in plain["annotations"]]}
    assert all(type(image["width"]) is int for image in opened.truth["images"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["annotations"].append({**c["annotations"][0], "id": 9}), "1 instances are there twice"),
        (lambda c: c["images"].append({**c["images"][0], "id": 9}), "1 files are two images each"),
        (lambda c: [image.update(height=20) for image in c["images"]], "below 32 pixels"),
        (lambda c: [a.update(area=0.01) for a in c["annotations"]], "areas are no pixels of their masks"),
        (lambda c: c["categories"].append({"id": 8, "name": "dog"}), "no instance of dog"),
    ],
)
def test_what_may_be_meant_in_a_coco_file_is_told(coco, change, said):
    edit(coco / VAL, change)
    assert any(said in str(f) and f.level == "warn" for f in check_coco(coco))


def test_photographs_that_are_trained_and_tested_on_are_told(coco):
    shutil.rmtree(coco / "val2017")
    (coco / "train2017").rename(coco / "images")
    assert any("2 photographs are in the training" in str(f) and f.level == "warn" for f in check_coco(coco))


def turned(path: Path, size: tuple[int, int] = SIZE) -> None:
    """A photograph whose EXIF turns it by a quarter."""
    photograph(path, size)
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as image:
        image.save(path, exif=exif.tobytes())


def test_orientations_are_counted_and_size_says_which_way_up(coco, ade, davis):
    for root, folder, check in (
        (coco, "val2017", check_coco),
        (ade, "images/training", check_ade20k),
        (davis, "JPEGImages/480p/boat", check_davis),
    ):
        for path in (root / folder).iterdir():
            turned(path)  # labels belong to the stored pixels
        found = check(root)
        assert not errors(found)
        assert any("have an EXIF orientation" in str(f) and f.level == "warn" for f in found)
        for path in (root / folder).iterdir():
            turned(path, SIZE[::-1])  # labels belong to the picture as it is shown
        assert not errors(check(root))


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


def test_labels_that_seem_to_count_from_0_are_refused_unless_told_otherwise(ade):
    for path in (ade / "annotations").rglob("*.png"):
        save(path, labels(0, 1, 2, 255))
    with pytest.raises(UserError, match=r"nowhere label 3 .*--ignore-zero"):
        require(check_ade20k(ade))
    assert "nowhere label 3" in require(check_ade20k(ade), ["ignore_zero"])[-1]
    save(ade / "annotations/validation/validation0.png", labels(3))
    assert not errors(check_ade20k(ade))


def test_masks_without_labels_and_lossy_masks_are_refused(ade):
    for path in list((ade / "annotations/training").iterdir()):
        save(path, labels(0, 255))
    assert "annotations/training: no pixel has a label" in errors(check_ade20k(ade))
    for path in list((ade / "annotations/training").iterdir()):
        save(path.with_suffix(".jpg"), labels(1, 2))
        path.unlink()
    assert "is a JPEG file, whose compression makes labels" in errors(check_ade20k(ade))
    (ade / "annotations/training/training0.jpg").rename(ade / "annotations/training/training0.png")
    assert "has no mask" in errors(check_ade20k(ade))


def test_one_name_twice_is_refused(ade, davis):
    photograph(ade / "images/training/training0.png")
    assert "training0.jpg" in errors(check_ade20k(ade))
    photograph(davis / "JPEGImages/480p/boat/00000.png")
    assert "00000.jpg and 00000.png" in errors(check_davis(davis))


def test_hidden_files_are_passed_by_everywhere_and_told(ade, coco, davis, tmp_path):
    for root, check in ((ade, check_ade20k), (davis, check_davis)):
        for path in [path for path in root.rglob("*") if path.is_file()]:
            path.with_name(f"._{path.name}").write_bytes(b"of macOS")
        found = check(root)
        assert not errors(found)
        assert any("hidden files or folders are passed by" in str(f) for f in found)


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


def test_an_object_that_enters_late_is_told(davis):
    save(davis / "Annotations/480p/boat/00001.png", labels(0, 1, 2, 7), "P")
    assert any("has object 7 in 00001.png, but not in its first mask" in line for line in require(check_davis(davis)))


def test_frames_are_in_the_order_of_their_numbers(davis):
    for folder in ("JPEGImages", "Annotations"):
        for path in (davis / folder / "480p/boat").iterdir():
            path.rename(path.with_stem({"00000": "9", "00001": "10", "00002": "100"}[path.stem]))
    video = davis_set.open_videos(davis).videos[0]
    assert [path.stem for path in video.frames] == [path.stem for path in video.masks] == ["9", "10", "100"]


def test_a_list_may_come_from_any_editor(davis):
    before = davis_set.open_videos(davis).identity
    (davis / "ImageSets/2017/val.txt").write_bytes(b"\xef\xbb\xbfboat\r\n\r\n")
    assert davis_set.open_videos(davis).identity == before


@pytest.mark.parametrize("name", ["../boat", "/boat", ".boat"])
def test_a_list_cannot_name_what_lies_elsewhere(davis, name):
    (davis / "ImageSets/2017/val.txt").write_text(f"{name}\n")
    assert "is no list of names" in errors(check_davis(davis))


def official_davis(root: Path, size: tuple[int, int], noise: int = 12) -> None:
    """All names, frames and objects of DAVIS 2017 val; each frame of a sequence is one file."""
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("\n".join(davis_set.OFFICIAL_VAL))
    pixels = np.random.default_rng(0).integers(0, 255, (size[1] // noise + 1, size[0] // noise + 1, 3), dtype=np.uint8)
    save(root / "frame.jpg", pixels.repeat(noise, 0).repeat(noise, 1)[: size[1], : size[0]])
    for name, (frames, objects) in davis_set.OFFICIAL_VAL.items():
        save(root / f"{name}.png", labels(*range(objects + 1), size=size))
        for t in range(frames):
            for kind, source in (("JPEGImages", "frame.jpg"), ("Annotations", f"{name}.png")):
                target = root / kind / "480p" / name / f"{t:05d}{source[-4:]}"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.hardlink_to(root / source)


@pytest.mark.parametrize(
    ("size", "noise", "reason"),
    [
        ((854, 480), 12, None),
        ((32, 24), 4, "is 32x24, not 480p"),
        ((854, 480), 1, "bytes each, as no photograph"),
    ],
)
def test_davis_is_what_has_its_frames_objects_and_sizes(tmp_path, size, noise, reason):
    official_davis(tmp_path, size, noise)
    videos, _ = davis_set.read_tree(tmp_path)
    assert davis_set.is_official(videos) == (reason is None)
    assert reason is None or reason in davis_set._unofficial(videos)
    (tmp_path / "JPEGImages/480p/soapbox/00098.jpg").unlink()
    (tmp_path / "Annotations/480p/soapbox/00098.png").unlink()
    assert not davis_set.is_official(davis_set.read_tree(tmp_path)[0])


def test_the_official_lists_are_consistent():
    frames, objects = zip(*davis_set.OFFICIAL_VAL.values())
    assert (len(frames), sum(frames), sum(objects)) == (30, davis_set.OFFICIAL_FRAMES, 61)


def test_real_sequences_have_the_frames_of_the_official_list(data_root):
    for folder in (data_root / "davis-mini/JPEGImages/480p").iterdir():
        assert len(list(folder.iterdir())) == davis_set.OFFICIAL_VAL[folder.name][0]


def test_the_classes_of_imagenet_are_known_by_their_names(data_root, tmp_path):
    for folder in (data_root / "imagenet-mini").iterdir():
        (tmp_path / "train" / folder.name).mkdir(parents=True)
    first = sorted((tmp_path / "train").iterdir())[0]
    photograph(first / "a.jpg")
    assert not any("are not ImageNet's" in str(f) for f in check_imagenet(tmp_path, thorough=True))
    first.rename(first.with_name("n00000000"))
    assert any("are not ImageNet's" in str(f) for f in check_imagenet(tmp_path, thorough=True))


@pytest.mark.parametrize(
    ("folders", "found"),
    [
        (["train/a", "val/a"], ("train", "val")),
        (["train/a", "test/a"], ("train", "test")),
        (["Training/a", "Validation/a", "meta"], ("Training", "Validation")),
        (["train/a", "val/a", "test/a"], ("train", "val")),
        (["train", "test"], ("train", "test")),
        (["bus", "train"], None),
        (["a", "b"], None),
    ],
)
def test_splits_are_known_by_any_usual_name(tmp_path, folders, found):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    splits = imagenet_set.find_splits(tmp_path)
    assert (splits and tuple(path.name for path in splits)) == found


def test_a_split_without_its_other_half_is_asked_for(tmp_path):
    for folder in ("train/a", "held out/a"):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(UserError, match="none of val/, "):
        imagenet_set.find_splits(tmp_path)


def test_unread_endings_are_counted(tmp_path):
    photograph(tmp_path / "a/1.JPG")
    save(tmp_path / "b/1.tif", labels(1))
    assert any("1 files are passed by (1 .tif)" in str(f) for f in check_imagenet(tmp_path))


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
