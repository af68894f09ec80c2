"""The toy world: the same seed gives the same bytes, its annotations are exact, and no pixel gives its class away."""

import dataclasses
import hashlib
import importlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from selfpatch.pretrain.cli import UserError

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))  # the tools are scripts, not a package
toy_data, toy_scene = importlib.import_module("toy_data"), importlib.import_module("toy_scene")

THINGS, GROUNDS = toy_scene.THING_CLASSES, toy_scene.GROUND_CLASSES
STILL = dict.fromkeys(["speed", "turn", "bend", "creep", "camera", "light", "flicker", "tint", "noise"], 0.0)
SMALL = toy_data.Plan(
    seed=3,
    images=4,
    image_size=(96, 80),
    davis_train=1,
    davis_val=2,
    frames=5,
    davis_size=(160, 96),
    coco_train=4,
    coco_val=2,
    ade_train=3,
    ade_val=2,
    scene_size=(112, 96),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "world"
    assert toy_data.generate(folder, SMALL)
    return folder


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def scene(index: int = 0, frames: int = 1, size: tuple[int, int] = (224, 192), **world) -> toy_scene.Scene:
    return toy_scene.Scene((0, 99, index), size, toy_scene.World(**world), frames)


# --- bytes ----------------------------------------------------------------------------------------------------------


def test_same_seed_same_bytes_however_many_workers(root, tmp_path):
    toy_data.generate(tmp_path / "again", SMALL, workers=2)
    assert digests(tmp_path / "again") == digests(root)


def test_another_seed_is_another_world(root, tmp_path):
    toy_data.generate(tmp_path / "other", dataclasses.replace(SMALL, seed=4))
    mine, other = digests(root), digests(tmp_path / "other")
    assert mine.keys() == other.keys()
    assert not [name for name in mine if name.endswith(".jpg") and mine[name] == other[name]]


def test_a_count_shifts_nothing_else(root, tmp_path):
    changed = dataclasses.replace(SMALL, images=2, davis_train=2, coco_train=5, ade_train=1)
    toy_data.generate(tmp_path / "counts", changed)
    mine, other = digests(root), digests(tmp_path / "counts")
    shared = [name for name in mine.keys() & other.keys() if name.endswith((".jpg", ".png"))]
    assert len(shared) > 30
    assert [name for name in shared if mine[name] != other[name]] == []


def test_no_image_is_twice_in_the_world(root):
    pictures = [digest for name, digest in digests(root).items() if name.endswith(".jpg")]
    assert len(pictures) == len(set(pictures)) == 4 + 3 * 5 + 6 + 5


# --- the four sets --------------------------------------------------------------------------------------------------


def test_pretraining_images_are_an_image_folder(root):
    files = sorted((root / "images").rglob("*.jpg"))
    assert [Image.open(file).size for file in files] == [(96, 80)] * 4


@pytest.mark.parametrize(("split", "count"), [("train", 1), ("val", 2)])
def test_davis_tree(root, split, count):
    davis = root / "DAVIS"
    names = (davis / f"ImageSets/2017/{split}.txt").read_text().split()
    assert len(names) == count
    for name in names:
        frames = sorted((davis / "JPEGImages/480p" / name).iterdir())
        masks = sorted((davis / "Annotations/480p" / name).iterdir())
        assert [file.name for file in frames] == [f"{t:05d}.jpg" for t in range(5)]
        assert [file.name for file in masks] == [f"{t:05d}.png" for t in range(5)]
        for file in masks:
            picture = Image.open(file)
            assert (picture.mode, picture.size) == ("P", (160, 96))
            assert picture.getpalette()[:15] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128]
        first = np.unique(np.array(Image.open(masks[0])))
        assert first.tolist() == list(range(len(first)))  # every object is there from the start
        assert 2 <= len(first) - 1 <= 4


def test_davis_palette_deals_out_the_bits():
    palette = np.array(toy_data.davis_palette()).reshape(256, 3)
    assert palette[[1, 2, 4, 7, 8, 64, 255]].tolist() == [
        [128, 0, 0],
        [0, 128, 0],
        [0, 0, 128],
        [128, 128, 128],
        [64, 0, 0],
        [32, 0, 0],
        [224, 224, 192],
    ]
    assert len(np.unique(palette, axis=0)) == 256


@pytest.mark.parametrize(("split", "count"), [("train2017", 4), ("val2017", 2)])
def test_coco_set_equals_the_rendered_masks(root, split, count):
    coco = COCO(str(root / f"coco/annotations/instances_{split}.json"))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(THINGS)
    assert len(coco.getImgIds()) == count
    for image in coco.loadImgs(coco.getImgIds()):
        assert Image.open(root / "coco" / split / image["file_name"]).size == (image["width"], image["height"])
        address = (SMALL.seed, toy_data.KINDS[f"coco {split}"][0], image["id"] - 1)
        drawn = toy_scene.Scene(address, SMALL.scene_size, SMALL.world)
        things = drawn.render(0).things
        left = {number: thing.kind + 1 for number, thing in enumerate(drawn.things, start=1)}
        for instance in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            mask = coco.annToMask(instance).astype(bool)
            (number,) = np.unique(things[mask])
            assert (things == number).sum() == mask.sum() == instance["area"]
            assert left.pop(number) == instance["category_id"]
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
            assert instance["bbox"] == box
            assert instance["iscrowd"] == 0
        assert all((things == number).sum() < toy_data.SMALLEST_INSTANCE for number in left)


def test_a_hidden_thing_is_no_coco_instance():
    things = np.zeros((40, 40), np.uint8)
    things[:10, :10], things[20, :3] = 1, 2
    frame = type("Frame", (), {"things": things})
    (instance,) = toy_data.coco_instances(frame, kinds=[5, 6])
    assert instance["category_id"] == 6
    assert rle.area(instance["segmentation"]) == 100


@pytest.mark.parametrize(("split", "count"), [("training", 3), ("validation", 2)])
def test_ade_set(root, split, count):
    names = json.loads((root / "ade20k/classes.json").read_text())
    assert names == [*THINGS, *GROUNDS]
    images = sorted((root / "ade20k/images" / split).iterdir())
    labels = sorted((root / "ade20k/annotations" / split).iterdir())
    assert [file.stem for file in images] == [file.stem for file in labels]
    assert len(images) == count
    for file in labels:
        picture = Image.open(file)
        values = np.unique(np.array(picture))
        assert (picture.mode, picture.size) == ("L", SMALL.scene_size)
        assert values.max() <= len(names)
        assert {0, len(THINGS) + 1} <= {0, *np.minimum(values, len(THINGS) + 1).tolist()}  # there is ground
        assert 0 < np.mean(np.array(picture) == 0) < 0.15  # edges alone are unlabelled


# --- exactness of what is drawn -------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(4))
def test_masks_agree_with_the_picture_to_the_pixel(index):
    """Painting the last thing black changes all of the picture in its mask, and nothing elsewhere."""
    drawn = scene(index, light=0.0, tint=0.0, noise=0.0)
    whole, last = drawn.render(0), drawn.things[-1]
    black = dataclasses.replace(last.surface, colours=np.zeros((2, 3), np.float32))
    drawn.things[-1] = dataclasses.replace(last, surface=black)
    painted = drawn.render(0)
    mask = whole.things == len(drawn.things)
    assert mask.sum() > 400
    assert np.array_equal(whole.things, painted.things)
    moved = (whole.image != painted.image).any(2)
    assert moved[mask].all()
    assert not moved[cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))) == 0].any()


@pytest.mark.parametrize("index", range(3))
def test_what_the_surfaces_have_of_a_pixel_adds_up(index):
    frame = scene(index).render(0)
    np.testing.assert_allclose(frame.shares.sum(0), 1, atol=1e-5)
    assert frame.shares.min() >= -1e-6
    edge = frame.shares.max(0) < 0.75
    assert np.array_equal(frame.classes == 0, edge)
    thing = (frame.classes > 0) & (frame.classes <= len(THINGS))
    assert np.array_equal(thing, (frame.things > 0) & ~edge)


def test_edges_are_anti_aliased():
    frame = scene(0).render(0)
    mixed = (frame.shares[2:] > 0.1).any(0) & (frame.shares[2:] < 0.9).all(0) & (frame.shares[:2].sum(0) < 0.9)
    outline = sum(cv2.Canny((frame.things == i).astype(np.uint8) * 255, 50, 150) > 0 for i in range(1, 5)).sum()
    assert 0.3 * outline < mixed.sum() < 3 * outline  # about a pixel wide


# --- what makes the world worth learning ----------------------------------------------------------------------------


def test_objects_are_visible_at_first_and_hide_one_another_later():
    hidden = []
    for index in range(8):
        drawn = scene(index, frames=24, size=(320, 192))
        areas = []
        for t in range(0, 24, 3):
            things = drawn.render(t).things
            areas.append([(things == i).sum() for i in range(1, len(drawn.things) + 1)])
        areas = np.array(areas)  # (frames, things)
        assert areas[0].min() >= 300
        hidden.append(1 - (areas.min(0) / areas[0]).min())
    assert np.mean(np.array(hidden) > 0.3) >= 0.75


@pytest.mark.parametrize("quantity", ["speed", "turn", "bend", "creep", "camera", "light", "flicker", "tint", "noise"])
def test_each_quantity_of_the_world_changes_the_frames(quantity):
    frozen = scene(1, frames=12, **STILL)
    assert np.array_equal(frozen.render(0).image, frozen.render(11).image)
    alive = STILL | {quantity: getattr(toy_scene.World(), quantity)}
    if quantity in ("light", "flicker"):  # it moves by the one, and is there by the other
        alive |= {"light": 0.45, "flicker": 0.5}
    moving = scene(1, frames=12, **alive)
    assert not np.array_equal(moving.render(0).image, moving.render(11).image)


def test_light_changes_the_brightness_of_a_place_within_a_sequence():
    swings = []
    for index in range(6):
        drawn = scene(index, frames=24, noise=0.0)
        frames = np.stack([drawn.render(t).image.mean(2) for t in range(0, 24, 4)])  # (6, 192, 224)
        patches = frames.reshape(6, 12, 16, 14, 16).mean((2, 4))
        swings.append(np.median(patches.max(0) / patches.min(0)))
    assert np.median(swings) > 1.25


def test_patterns_have_their_structure_within_a_patch():
    """In every 16-pixel patch of a surface both of its colours are there, and over the whole they are as frequent."""
    for kind in (*THINGS, *GROUNDS):
        for index in range(8):
            surface = toy_scene.draw_surface(toy_scene.generator(5, index), kind, toy_scene.World())
            first, second = surface.colours
            y, x = np.mgrid[:96, :96].astype(np.float32)
            share = ((surface.at(x, y, 3) - first) @ (second - first)) / ((second - first) ** 2).sum()
            patches = share.reshape(6, 16, 6, 16).transpose(0, 2, 1, 3).reshape(36, 256)
            assert patches.min(1).max() < 0.2
            assert patches.max(1).min() > 0.8
            assert share.mean() == pytest.approx(0.5, abs=0.05)


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive pixel scores above a negative one."""
    _, ranks, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[ranks]  # ties share their mean rank
    n = positive.sum()
    return (rank[positive].sum() - n * (n + 1) / 2) / (n * (len(scores) - n))


def colour_auc(frames: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """How well the colour of a pixel tells things from background in scenes that were not learnt from."""
    half = len(frames) // 2

    def bins(image: np.ndarray) -> np.ndarray:
        return (image.astype(int) // 32) @ np.array([64, 8, 1])  # 8 levels a channel

    def histogram(thing: bool) -> np.ndarray:
        pixels = np.concatenate([bins(image)[(things > 0) == thing] for image, things in frames[:half]])
        counts = np.bincount(pixels, minlength=512) + 20.0
        return counts / counts.sum()

    score = np.log(histogram(True) / histogram(False))
    scores = np.concatenate([score[bins(image)].ravel() for image, _ in frames[half:]])
    return auc(scores, np.concatenate([(things > 0).ravel() for _, things in frames[half:]]))


@pytest.fixture(scope="module")
def gallery() -> list[tuple[np.ndarray, np.ndarray]]:
    frames = [scene(index, size=(160, 160)).render(0) for index in range(80)]
    return [(frame.image, frame.things) for frame in frames]


def test_colour_alone_does_not_give_objects_away(gallery):
    assert colour_auc(gallery) < 0.6


def test_the_colour_test_sees_a_tint_of_a_few_grey_levels(gallery):
    tinted = []
    for image, things in gallery:
        image = image.astype(int)
        image[things > 0] += [30, -15, -15]
        tinted.append((image.clip(0, 255), things))
    assert colour_auc(tinted) > 0.6


def test_hues_are_equally_bright_and_belong_to_one_thing_and_one_ground_each():
    colours = {hue: toy_scene.colour_of(hue, 0.08) for hue in toy_scene.HUES}
    assert np.array([*colours.values()]) @ [0.299, 0.587, 0.114] == pytest.approx(0.45)
    for classes in (THINGS, GROUNDS):
        assert sorted(hue for name in classes for hue in name.split("-")) == sorted(colours)
    mixtures = [sum(colours[hue] for hue in name.split("-")) / 2 for name in (*THINGS, *GROUNDS)]
    apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(mixtures, 2)]
    assert min(apart) > 0.07  # about as far as they lie from grey


def test_brightness_misleads():
    """It varies, from pixel to pixel and by light, by more than the hues differ from grey."""
    images = [scene(index, size=(160, 160)).render(0).image for index in range(6)]
    assert np.std([image.mean(2) for image in images]) > 1.5 * 255 * toy_scene.World().chroma


# --- the command ----------------------------------------------------------------------------------------------------


def test_data_that_is_there_is_left_alone(root):
    before = {file: file.stat().st_mtime_ns for file in root.rglob("*")}
    assert toy_data.generate(root, SMALL) is False
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*")} == before


TINY = dataclasses.replace(SMALL, images=2, davis_train=0, davis_val=1, frames=3, coco_train=1, coco_val=1, ade_train=1)


@pytest.mark.parametrize("harm", ["lose a file", "cut a file", "stop half-way", "other parameters", "other generator"])
def test_anything_else_is_made_anew(tmp_path, monkeypatch, harm):
    out = tmp_path / "toy"
    toy_data.generate(out, TINY)
    whole, plan = digests(out), TINY
    picture = out / "images/scenes/00001.jpg"
    if harm == "lose a file":
        picture.unlink()
    elif harm == "cut a file":
        picture.write_bytes(picture.read_bytes()[:100])
    elif harm == "stop half-way":
        (out / "toy.json").unlink()
        (out / ".toy-unfinished").touch()
        (out / "images/scenes/00007.jpg").write_bytes(b"left over from another plan")
    elif harm == "other parameters":
        plan = dataclasses.replace(TINY, seed=5)
    elif harm == "other generator":
        monkeypatch.setattr(toy_data, "GENERATOR", toy_data.GENERATOR + 1)
    assert toy_data.generate(out, plan)
    after = digests(out)
    assert after.keys() == whole.keys()
    pictures = {name for name in whole if name.endswith(".jpg")}
    assert ({name for name in pictures if after[name] == whole[name]} == pictures) == (harm != "other parameters")


def test_a_killed_run_leaves_no_fingerprint_and_is_redone(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    out = tmp_path / "toy"
    with monkeypatch.context() as patch:
        patch.setattr(toy_data, "write_indices", stop)
        with pytest.raises(KeyboardInterrupt):
            toy_data.generate(out, TINY)
    assert not (out / "toy.json").exists()
    assert toy_data.generate(out, TINY)
    assert (out / "toy.json").exists()
    assert not (out / ".toy-unfinished").exists()


def test_a_folder_of_somebody_else_is_not_touched(tmp_path):
    precious = tmp_path / "images" / "holiday.jpg"
    precious.parent.mkdir()
    precious.write_bytes(b"precious")
    with pytest.raises(UserError, match="something else than toy data"):
        toy_data.generate(tmp_path, TINY)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [precious]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "-1"], "--images -1"),
        (["--frames", "2"], "at least 3"),
        (["--image-size", "32"], "--image-size"),
        (["--davis-size", "320by192"], "320x192"),
        (["--set", "gravity=1"], "no 'gravity'"),
        (["--set", "speed=fast"], "'fast' is no float"),
        (["--set", "things_min=5"], "things_min=5"),
        (["--set", "chroma=0.5"], "chroma"),
        (["--set", "colours=3"], "colours"),
        (["--set", "light=nan"], "light"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_a_mistake_is_named_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        toy_data.main(["--out", str(tmp_path / "toy"), "--images", "0", *arguments])
    assert not (tmp_path / "toy").exists()


def test_a_full_disk_is_one_line_too(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "x.jpg")

    monkeypatch.setattr(toy_data, "generate", full)
    with pytest.raises(UserError, match=r"x\.jpg: No space left"):
        toy_data.main(["--out", str(tmp_path)])


def run(*arguments: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "SELFPATCH_COMMAND"}
    command = [sys.executable, str(TOOLS / "toy_data.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_a_mistake_costs_one_line_and_status_2(tmp_path):
    (tmp_path / "file").touch()
    done = run("--out", str(tmp_path / "file"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "is a file" in done.stderr


def test_help_teaches():
    done = run("--help")
    assert done.returncode == 0
    assert "python tools/toy_data.py --out data/toy" in done.stdout
    for field in dataclasses.fields(toy_scene.World):
        assert f"{field.name}=" in done.stdout.replace("\n", " ")
