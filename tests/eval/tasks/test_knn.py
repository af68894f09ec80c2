"""k-NN and the features that linear shares: the published rule, any labelled folder, a cache that holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from labelled_textures import CLASSES, write_checkpoint, write_classes
from PIL import Image

from selfpatch.eval.checkpoints import features
from selfpatch.eval.checkpoints.features import read_image
from selfpatch.eval.datasets import imagenet
from selfpatch.eval.datasets.image_folder import held_out, read_folder, top
from selfpatch.eval.tasks import knn
from selfpatch.pretrain.backbone import IMAGENET_MEAN, IMAGENET_STD
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.vit import VisionTransformer
from selfpatch.reports.bootstrap import compare_records
from selfpatch.reports.record import Record

# --- the rule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.07), (20, 0.5)])
def test_votes_are_those_of_a_loop_over_neighbours(k, temperature):
    generator = torch.Generator().manual_seed(0)
    train, queries = (F.normalize(torch.randn(n, 6, generator=generator), dim=1) for n in (40, 7))
    labels = torch.randint(0, 4, (40,), generator=generator)
    found = knn.knn_votes(train, labels, queries, 4, k, temperature)
    for query, votes in zip(queries, found):
        expected = [0.0] * 4
        cosines = [float(query @ other) for other in train]
        for index in sorted(range(40), key=lambda i: -cosines[i])[:k]:
            expected[labels[index]] += float(np.exp(cosines[index] / temperature))
        np.testing.assert_allclose(votes, expected, rtol=1e-4)


def test_of_equal_scores_the_lower_class_wins():
    scores = torch.tensor([[0.0, 2.0, 2.0], [1.0, 1.0, 1.0]])
    assert top(scores, torch.tensor([2, 0]), 1).tolist() == [False, True]
    assert top(scores, torch.tensor([2, 2]), 2).tolist() == [True, False]


# --- labelled folders ------------------------------------------------------------------------------------------------


def test_train_and_val_folders_are_the_split(tmp_path):
    write_classes(tmp_path / "set" / "train", each=3)
    write_classes(tmp_path / "set" / "val", each=2, seed=1)
    folder = read_folder(tmp_path / "set")
    assert folder.classes == list(CLASSES)
    assert (len(folder.train), len(folder.val), folder.split) == (9, 6, "train/ and val/")
    assert folder.val.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert folder.val.paths[2] == tmp_path / "set" / "val" / "dots" / "00.png"


def test_without_them_every_fifth_image_of_a_class_is_scored(textures):
    folder = read_folder(textures)
    assert [path.name for path in folder.val.paths] == ["01.png", "06.png"] * 3
    assert not set(folder.val.paths) & set(folder.train.paths)
    assert len(folder.train) + len(folder.val) == 30
    assert "every 5th" in folder.split


def test_holding_out_counts_within_each_class():
    labels = np.array([1, 0, 1, 0, 0, 1, 2])
    assert held_out(2, labels).tolist() == [False, False, True, True, False, False, False]


def test_the_fingerprint_follows_content_and_place_alone(textures, tmp_path):
    first = read_folder(textures).fingerprint
    assert read_folder(textures).fingerprint == first
    assert read_folder(textures.rename(tmp_path / "elsewhere")).fingerprint == first
    image = tmp_path / "elsewhere" / "dots" / "03.png"
    content = image.read_bytes()
    image.write_bytes(content[:-1] + b"\0")  # of equal size
    assert read_folder(tmp_path / "elsewhere").fingerprint != first
    image.write_bytes(content)
    image.rename(image.with_name("99.png"))
    assert read_folder(tmp_path / "elsewhere").fingerprint != first


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, "no such data folder"),
        (lambda root: root.mkdir(), "0 class folders"),
        (lambda root: write_classes(root, each=1), "has one image per class"),
        (lambda root: (write_classes(root / "train", 2), write_classes(root / "val" / "x", 2)), "the class x"),
    ],
)
def test_a_folder_that_cannot_be_scored_costs_one_line(tmp_path, make, words):
    make(tmp_path / "set")
    if (tmp_path / "set" / "val" / "x").exists():
        write_classes(tmp_path / "set" / "val" / "y", each=1)
    with pytest.raises(UserError, match=words) as raised:
        read_folder(tmp_path / "set")
    assert "\n" not in str(raised.value)


def test_real_images_with_one_a_class_are_refused(data_root):
    with pytest.raises(UserError, match="one image per class"):
        read_folder(data_root / "imagenet-mini")


def test_an_image_is_resized_by_its_short_side_and_cropped_at_its_centre(tmp_path):
    pixels = np.zeros((40, 80, 3), dtype=np.uint8)
    pixels[:, 36:44, 0] = 255
    Image.fromarray(pixels).save(tmp_path / "bar.png")
    read = read_image(tmp_path / "bar.png", resize=40, crop=32)
    assert read.shape == (3, 32, 32)
    red = read[0] * IMAGENET_STD[0] + IMAGENET_MEAN[0]
    np.testing.assert_allclose(red[0], np.isin(np.arange(32), range(12, 20)), atol=1e-6)
    assert read_image(tmp_path / "bar.png", resize=48, crop=48).shape == (3, 48, 48)


# --- the task --------------------------------------------------------------------------------------------------------


def test_a_record_tells_the_protocol_and_which_images_are_right(evaluate, textures):
    record = evaluate("knn", "--k", "3")
    assert record["protocol"]["name"] == "knn-dino@1+resize=36+crop=32+k=3"
    assert record["protocol"]["parameters"]["temperature"] == 0.07
    assert (record["dataset"], record["split"], record["miniature"]) == ("textures-val", "val", True)
    units = np.load(Path(record["path"]).with_suffix(".npz"))
    assert units["image"].tolist() == [f"{kind}/{n}.png" for kind in CLASSES for n in ("01", "06")]
    assert record["metrics"] == {"top-1": pytest.approx(100 * units["top-1"].mean())}  # 3 classes: no top-5
    assert record["metrics"]["top-1"] > 50  # even random features tell these textures apart


def test_two_records_of_one_protocol_can_be_compared(evaluate, tmp_path):
    """Though one network has a [CLS] and the other has none, which the record then says."""
    with_cls = evaluate("knn", "--k", "3")
    without = evaluate("knn", "--k", "3", checkpoint=write_checkpoint(tmp_path / "selfpatch.pth", cls_token=False))
    assert with_cls["notes"] == []
    assert "mean of the patch tokens" in without["notes"][0]
    sides = ([Record.read(record["path"])] for record in (without, with_cls))
    result = compare_records(*sides, "top-1", resamples=50)
    assert result.units == 6
    assert result.delta == pytest.approx(without["metrics"]["top-1"] - with_cls["metrics"]["top-1"])


def test_features_are_computed_once_for_all_tasks(evaluate, tmp_path, monkeypatch):
    first = evaluate("knn", "--k", "3")
    monkeypatch.setattr(features, "_extract", lambda *_: pytest.fail("the features were there"))
    second = evaluate("knn", "--k", "5")
    assert first["protocol"] != second["protocol"]
    folder = tmp_path / "work_dirs" / "features" / first["checkpoint_sha256"][:12]
    assert len(list(folder.glob("*.npy"))) == 2
    identities = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    assert {identity["weights_sha256"] for identity in identities} == {first["weights_sha256"]}


def test_features_of_other_heads_are_others(evaluate, tmp_path):
    """The same file, whose network computes something else with another number of heads."""
    state = VisionTransformer(embed_dim=24, depth=1, heads=3, img_size=32, patch_size=8).state_dict()
    torch.save(state, tmp_path / "bare.pth")
    for heads in (3, 8):
        evaluate("knn", "--k", "3", "--heads", str(heads), checkpoint=tmp_path / "bare.pth")
    made = {path.stem: np.load(path) for path in tmp_path.glob("work_dirs/features/*/train-*.npy")}
    assert len(made) == 2
    three, eight = made.values()
    assert not np.allclose(three, eight)


def test_a_cut_extraction_goes_on_to_the_same_features(evaluate, tmp_path, monkeypatch):
    """It stops after 8 of 24 training images; the second attempt reads only the others."""
    read = []
    monkeypatch.setattr(features, "SAVE_EVERY", -1.0)

    def counted(path, resize, crop, pixels, stop_after):
        read.append(path)
        if len(read) > stop_after:
            raise UserError("stopped here")
        return read_image(path, resize, crop, pixels)

    monkeypatch.setattr(features, "read_image", lambda *a: counted(*a, stop_after=12))
    with pytest.raises(UserError, match="stopped here"):
        evaluate("knn", "--k", "3", "--batch", "4", "--workers", "1")
    read.clear()
    monkeypatch.setattr(features, "read_image", lambda *a: counted(*a, stop_after=1000))
    resumed = evaluate("knn", "--k", "3", "--batch", "4", "--workers", "1")
    assert len(read) < 24 + 6
    found = {path.name: np.load(path) for path in tmp_path.glob("work_dirs/features/*/*.npy")}
    undisturbed = evaluate("knn", "--k", "3", "--force", "--features", str(tmp_path / "again"), "--batch", "4")
    assert undisturbed["metrics"] == resumed["metrics"]
    for name, expected in ((path.name, np.load(path)) for path in (tmp_path / "again").glob("*/*.npy")):
        np.testing.assert_allclose(found[name], expected, atol=1e-6)
    assert not list(tmp_path.glob("work_dirs/features/*/*.part*"))


def test_a_damaged_cache_is_made_again(evaluate, tmp_path):
    first = evaluate("knn", "--k", "3")
    for path in tmp_path.glob("work_dirs/features/*/*.npy"):
        path.write_bytes(path.read_bytes()[:100])
    assert evaluate("knn", "--k", "3", "--force")["metrics"] == first["metrics"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--k", "0"], "--k 0"),
        (["--k", "25"], "--k 25: .* has 24 images"),
        (["--temperature", "0"], "--temperature"),
        (["--crop", "64"], "--resize 36 is smaller"),
        (["--workers", "0"], "--workers 0"),
    ],
)
def test_bad_options_cost_one_line_before_anything_is_computed(evaluate, tmp_path, argv, words):
    with pytest.raises(UserError, match=words):
        evaluate("knn", *argv)
    assert not (tmp_path / "work_dirs").exists()


@pytest.mark.parametrize("option", ["--out", "--features", "--records"])
def test_a_file_where_a_folder_is_wanted_costs_one_line_before_the_work(evaluate, tmp_path, monkeypatch, option):
    monkeypatch.setattr(features, "_extract", lambda *_: pytest.fail("it began"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"{option} .*file is a file; choose another folder"):
        evaluate("knn", "--k", "3", option, str(tmp_path / "file" / "below"))


@pytest.mark.parametrize("task", ["knn", "linear"])
@pytest.mark.parametrize("content", [b"no image", None])
def test_an_unreadable_image_is_named_before_anything_is_computed(evaluate, textures, tmp_path, task, content):
    image = textures / "dots" / "04.png"
    image.write_bytes(image.read_bytes()[:900] if content is None else content)
    with pytest.raises(UserError, match=r"dots/04\.png cannot be read"):
        evaluate(task)
    assert not (tmp_path / "work_dirs").exists()


def test_an_image_that_no_sample_met_is_named_as_it_is_read(evaluate, textures, monkeypatch):
    (textures / "dots" / "04.png").write_text("no image")
    monkeypatch.setattr(imagenet.checks, "sample", lambda paths, thorough, most: [])
    with pytest.raises(UserError, match=r"dots/04\.png cannot be read"):
        evaluate("knn", "--k", "3")
