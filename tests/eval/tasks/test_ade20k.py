"""ADE20K: IoU that follows from pixels, the published recipes, checks before compute, and a training that goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DATASETS, MODELS, init_default_scope
from PIL import Image

from selfpatch.eval import run
from selfpatch.eval.checkpoints.load import load_backbone
from selfpatch.eval.datasets.ade20k import listed_names
from selfpatch.eval.dense import recipe
from selfpatch.eval.dense import segmentation as seg
from selfpatch.eval.dense import trainer as training
from selfpatch.eval.dense.pixels import metrics_of
from selfpatch.eval.tasks import ade20k
from selfpatch.pretrain.checkpoint import load_file, save_file
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.settings import from_options
from selfpatch.pretrain.swin import Swin
from selfpatch.pretrain.vit import VisionTransformer

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("sky", "road", "never", "tree")
H, W = 40, 56


def labels(rng: np.random.Generator) -> np.ndarray:
    """A label map (H, W) in rectangles: 0 is nothing, 3 never occurs."""
    mask = np.full((H, W), rng.choice([1, 2]), np.uint8)
    for value in (0, 2, 4, 4):
        y, x = rng.integers(0, H - 16), rng.integers(0, W - 16)
        mask[y : y + 16, x : x + 16] = value
    return mask


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A set in ADE20K's format, each class a colour in noise; 6 images to train on and 5 to test on."""
    root = tmp_path_factory.mktemp("set")
    for split, count in (("training", 6), ("validation", 5)):
        rng = np.random.default_rng(count)
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            mask = labels(rng)
            pixels = mask[..., None] * np.array([50, 20, 5]) + rng.integers(0, 40, (H, W, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(root / f"images/{split}/{i}.png")
            Image.fromarray(mask).save(root / f"annotations/{split}/{i}.png")
    (root / "classes.json").write_text(json.dumps(NAMES))
    return root


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """A small checkpoint of each family."""
    torch.manual_seed(0)
    models = {
        "vit": VisionTransformer(embed_dim=32, depth=4, heads=2, cls_token=False, final_norm=False),
        "swin": Swin(embed_dim=8, depths=(1, 1, 1, 1), heads=(1, 2, 4, 8)),
    }
    folder = tmp_path_factory.mktemp("checkpoints")
    for family, model in models.items():
        state = {f"teacher.backbone.{name}": tensor for name, tensor in model.state_dict().items()}
        meta = {"method": "Random", "arch": model.arch, "epoch": 0, "seed": 0}
        save_file({"state_dict": state, "meta": meta}, folder / f"{family}.pth")
    return {family: folder / f"{family}.pth" for family in models}


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> Path:
    """A protocol of a few small steps."""
    path = tmp_path_factory.mktemp("configs") / "short.py"
    path.write_text(
        f"_base_ = ['{ROOT}/configs/ade20k/semantic-fpn-mini.py']\n"
        "crop = 32\nrecipe = dict(iters=6, warmup_iters=1, batch_size=2)\n"
        "model = dict(neck=dict(out_channels=16), decode_head=dict(in_channels=[16, 16, 16, 16], channels=16))\n"
    )
    return path


def options(*argv: str) -> ade20k.Settings:
    return from_options(ade20k.Settings, run._parser(ade20k).parse_args(["x.pth", *argv]))


# --- figures ---------------------------------------------------------------------------------------------------------


def maps(seed: int, classes: int = 4) -> list[tuple[np.ndarray, np.ndarray]]:
    """Predictions and ground truth of three images of different sizes; the last class is never shown."""
    rng = np.random.default_rng(seed)
    shapes = [(7, 9), (12, 5), (8, 8)]
    truths = [rng.choice([0, 1, classes - 1, 255], shape) for shape in shapes]
    return [(rng.integers(0, classes - seed % 2, truth.shape), truth) for truth in truths]


def counts(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int = 4) -> dict[str, np.ndarray]:
    arrays = map(np.stack, zip(*(seg.pixel_counts(p, t, classes) for p, t in pairs)))
    return {"image": np.arange(len(pairs)).astype(str), **dict(zip(("intersection", "union", "label"), arrays))}


@pytest.mark.parametrize("seed", range(4))
def test_metrics_equal_those_counted_pixel_by_pixel(seed):
    pairs = maps(seed)
    found = metrics_of(counts(pairs), NAMES)
    pixels = [(int(p), int(t)) for pred, truth in pairs for p, t in zip(pred.ravel(), truth.ravel()) if t != 255]
    iou, accuracy = {}, {}
    for c, name in enumerate(NAMES):
        hit = sum(p == t == c for p, t in pixels)
        either, true = sum(c in pixel for pixel in pixels), sum(t == c for _, t in pixels)
        if either:
            iou[name] = 100 * hit / either
        if true:
            accuracy[name] = 100 * hit / true
    expected = {f"IoU/{name}": value for name, value in iou.items()}
    expected |= {"mIoU": np.mean(list(iou.values())), "mAcc": np.mean(list(accuracy.values()))}
    expected["aAcc"] = 100 * np.mean([p == t for p, t in pixels])
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_metrics_equal_those_of_mmseg(seed):
    from mmseg.evaluation.metrics import IoUMetric

    metric = IoUMetric()
    metric.dataset_meta = {"classes": NAMES}
    for predicted, truth in maps(seed):
        tensors = {"pred_sem_seg": predicted, "gt_sem_seg": truth}
        sample = {key: {"data": torch.from_numpy(value)[None]} for key, value in tensors.items()}
        metric.process({}, [sample])
    expected = metric.compute_metrics(metric.results)
    found = metrics_of(counts(maps(seed)), NAMES)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=0.0051)  # theirs are rounded


def test_an_image_that_comes_twice_counts_once():
    metric = seg.ImageIoU(NAMES)
    results = [(f"{i}", *seg.pixel_counts(p, t, 4), b"") for i, (p, t) in enumerate(maps(0))]
    metric.compute_metrics([*results, results[0]])
    once = metric.scores.metrics
    metric.compute_metrics(results)
    assert metric.scores.metrics == once
    assert metric.scores.units["image"].tolist() == ["0", "1", "2"]
    assert metric.scores.units["intersection"].shape == (3, 4)


# --- recipes and configs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("upernet-160k", {"iters": 160_000, "batch_size": 16, "lr": 6e-5, "weight_decay": 0.01, "drop_path": 0.1}),
        ("upernet-swin-160k", {"iters": 160_000, "batch_size": 16, "lr": 6e-5, "weight_decay": 0.01, "drop_path": 0.3}),
        (
            "semantic-fpn-40k",
            {"iters": 40_000, "batch_size": 32, "lr": 6e-5, "weight_decay": 0.01, "taps": (2, 5, 8, 11)},
        ),
        ("linear-40k", {"iters": 40_000, "batch_size": 16, "frozen": True, "taps": (11,)}),
    ],
)
def test_recipes_are_the_published_ones(protocol, expected):
    _, found, config = recipe.read("ade20k", protocol, options())
    assert {key: getattr(found, key) for key in expected} == expected
    warmup, decay = found.schedulers(found.iters)
    assert (warmup["end"], warmup["start_factor"], decay["power"], decay["begin"]) == (1500, 1e-6, 1.0, 1500)
    assert config.crop == 512


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        ([], "upernet-160k@1"),
        (
            ["--protocol", "semantic-fpn-40k", "--iters", "200", "--crop", "128"],
            "semantic-fpn-40k@1+iters=200+crop=128",
        ),
        (["--crop", "512", "--gpus", "8"], "upernet-160k@1"),
        (["--multi-scale"], "upernet-160k@1+multi-scale"),
    ],
)
def test_a_departure_from_the_published_recipe_renames_the_protocol(argv, name, checkpoints):
    assert ade20k.protocol(options(*argv), load_backbone(checkpoints["vit"])).name == name


def test_the_default_protocol_is_the_familys(checkpoints):
    assert ade20k.protocol(options(), load_backbone(checkpoints["swin"])).name == "upernet-swin-160k@1"


def test_a_config_may_insist_on_an_architecture(checkpoints):
    with pytest.raises(UserError, match="insists on family swin"):
        ade20k.protocol(options("--protocol", "upernet-swin-160k"), load_backbone(checkpoints["vit"]))


@pytest.mark.parametrize("protocol", recipe.protocols("ade20k"))
def test_every_config_builds_its_segmentor_for_the_data_and_learns(protocol, checkpoints, data):
    settings = options("--data", str(data), "--protocol", protocol, "--crop", "64")
    ade20k.open(settings)
    backbone = load_backbone(checkpoints["swin" if "swin" in protocol else "vit"])
    _, chosen, config = ade20k._read(settings, backbone)
    init_default_scope("mmseg")
    model = MODELS.build(ConfigDict(ade20k.model_config(config, chosen, backbone, settings, len(NAMES))))
    model.init_weights()
    model.backbone.certify()
    rates = {"lr": 1e-3, "base_batch": chosen.batch_size, "backbone_lr": 1.0, "weight_decay": 0.01, "precision": "fp32"}
    wrapper = training.optimiser_of(model, chosen.model_copy(update=rates), parts=1)
    images = DATASETS.build(
        seg.data_config(data, "training", NAMES, seg.train_pipeline(64, len(NAMES), config.augment))
    )
    assert images.metainfo["classes"] == NAMES
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    items = [images[0], images[1]]
    batch = {key: [item[key] for item in items] for key in ("inputs", "data_samples")}
    assert {int(v) for s in batch["data_samples"] for v in s.gt_sem_seg.data.unique()} <= {0, 1, 3, 255}
    model.train_step(batch, wrapper)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("decode_head.conv_seg") for name in changed)
    assert chosen.frozen != any(name.startswith("backbone.encoder") for name in changed)
    if chosen.frozen:
        assert not model.backbone.encoder.training


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("num_classes = 150", "has 4 classes, but .* insists on 150"),
        ("crop_size = 512", "unknown key crop_size"),
        ("recipe = dict(learning_rate=1)", r"unknown config key recipe\.learning_rate"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(text, reason, data, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"_base_ = ['{ROOT}/configs/ade20k/upernet-160k.py']\n{text}\n")
    with pytest.raises(UserError, match=reason):
        ade20k.open(options("--data", str(data), "--protocol", str(path)))


# --- data ------------------------------------------------------------------------------------------------------------


def put(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask).save(path)


MASK = "annotations/validation/2.png"
FAULTS = {
    "labels out of range": (
        lambda r: put(r / MASK, np.full((H, W), 5, np.uint8)),
        f"{MASK} has label 5 but .* 4 classes",
    ),
    "wrong number of classes": (
        lambda r: (r / "classes.json").write_text('["sky", "road"]'),
        "label 4 but .* 2 classes",
    ),
    "one class": (lambda r: (r / "classes.json").write_text('["sky"]'), "label|one class"),
    "mask missing": (lambda r: (r / MASK).unlink(), r"images/validation/2\.png has no mask"),
    "image missing": (lambda r: (r / "images/training/0.png").unlink(), r"annotations/training/0\.png has no image"),
    "other size": (lambda r: put(r / MASK, np.ones((H, W + 1), np.uint8)), f"{MASK} is 57x40 but its image 56x40"),
    "no such set": (lambda r: shutil.rmtree(r), "is missing: download"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_data_is_found_before_any_compute(fault, data, tmp_path):
    spoiled, (spoil, reason) = tmp_path / "set", FAULTS[fault]
    shutil.copytree(data, spoiled)
    spoil(spoiled)
    with pytest.raises(UserError, match=reason) as error:
        ade20k.open(options("--data", str(spoiled)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("pipeline", ["train", "test"])
def test_a_label_that_the_doctors_sample_missed_stops_the_training_by_name(pipeline, data, tmp_path):
    spoiled = tmp_path / "set"
    shutil.copytree(data, spoiled)
    put(spoiled / "annotations/validation/0.png", np.full((H, W), 7, np.uint8))
    init_default_scope("mmseg")
    steps = seg.train_pipeline(32, 4, {"ratios": (1.0, 1.0), "cat_max_ratio": 1.0, "flip": 0.0, "photometric": False})
    steps = steps if pipeline == "train" else seg.test_pipeline(32, 4, False)
    images = DATASETS.build(seg.data_config(spoiled, "validation", NAMES, steps))
    with pytest.raises(UserError, match=r"validation/0\.png has label 7 but there are 4 classes"):
        images[0]


def test_batch_norms_want_two_images_at_a_time(checkpoints, data, tmp_path):
    places = ["--data", str(data), "--out", str(tmp_path), "--records", str(tmp_path)]
    short_run = ["--iters", "4", "--warmup-iters", "1", "--batch-size", "4", "--crop", "32"]
    with pytest.raises(UserError, match="need two images"):
        run.main(["ade20k", str(checkpoints["vit"]), *places, *short_run, "--accumulate", "4"])
    assert not list(tmp_path.iterdir())


# --- training --------------------------------------------------------------------------------------------------------


def command(checkpoint: Path, data: Path, protocol: Path, folder: Path, *more: str) -> list[str]:
    places = ["--out", str(folder / "out"), "--records", str(folder / "records"), "--save-every", "2"]
    return ["ade20k", str(checkpoint), "--data", str(data), "--protocol", str(protocol), *places, *more]


def records_of(folder: Path) -> dict[str, dict]:
    """Records by the name of their protocol."""
    records = [json.loads(path.read_text()) for path in sorted((folder / "records").glob("*.json"))]
    return {record["protocol"]["name"]: record for record in records}


def started(argv: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "selfpatch.eval.run", *argv], env=environment, cwd=ROOT)


@pytest.fixture(scope="module")
def trained(checkpoints, data, short, tmp_path_factory) -> Path:
    """A folder with one whole run, its record and its predictions."""
    folder = tmp_path_factory.mktemp("trained")
    run.main(command(checkpoints["vit"], data, short, folder, "--save-predictions"))
    return folder


def test_recorded_figures_follow_from_the_units_and_from_the_saved_predictions(trained, data):
    record = records_of(trained)["short@2"]
    assert record["miniature"]
    assert any("never" in note for note in record["notes"]) == ("IoU/never" not in record["metrics"])
    with np.load(trained / "records" / record["units"]) as units:
        assert units["image"].tolist() == [str(i) for i in range(5)]
        again = metrics_of(units, NAMES)
    assert again == pytest.approx(record["metrics"], abs=1e-9)

    (predictions,) = trained.glob("out/*/predictions")
    pixels = []
    for path in sorted(predictions.glob("*.png")):
        truth = np.array(Image.open(data / "annotations/validation" / path.name))
        pixels.append(np.stack([np.array(Image.open(path)), truth])[:, truth > 0])
    predicted, truth = np.concatenate(pixels, axis=1)
    iou = [
        100 * ((predicted == c) & (truth == c)).sum() / either
        for c in range(1, len(NAMES) + 1)
        if (either := ((predicted == c) | (truth == c)).sum())
    ]
    assert record["metrics"]["mIoU"] == pytest.approx(np.mean(iou), abs=1e-9)
    assert record["metrics"]["aAcc"] == pytest.approx(100 * (predicted == truth).mean(), abs=1e-9)


def test_classes_that_colour_tells_apart_are_learned(checkpoints, data, short, tmp_path):
    """Labels belong to their pixels through crop, resize, flip and test: else this stays at chance."""
    path = tmp_path / "colours.py"
    path.write_text(f"_base_ = ['{short}']\naugment = dict(photometric=False)\n")
    longer = ["--iters", "120", "--lr", "0.002", "--batch-size", "4", "--save-every", "120"]
    run.main([*command(checkpoints["vit"], data, path, tmp_path), *longer])
    ((_, record),) = records_of(tmp_path).items()
    assert record["metrics"]["aAcc"] > 65


def test_a_recorded_result_is_shown_not_computed(trained, checkpoints, data, short, capsys):
    before = time.perf_counter()
    run.main(command(checkpoints["vit"], data, short, trained))
    assert "already recorded" in capsys.readouterr().out
    assert time.perf_counter() - before < 20


def test_other_data_is_another_result(trained, checkpoints, data, tmp_path):
    other = tmp_path / "set"
    shutil.copytree(data, other)
    before = ade20k.open(options("--data", str(data))).identity
    put(other / MASK, np.ones((H, W), np.uint8))
    assert ade20k.open(options("--data", str(other))).identity.sha256 != before.sha256


def test_several_scales_test_the_same_weights_under_another_name(trained, checkpoints, data, short):
    (weights,) = trained.glob("out/*/checkpoint.pth")
    written = weights.stat().st_mtime_ns
    run.main(command(checkpoints["vit"], data, short, trained, "--multi-scale"))
    assert [path.stat().st_mtime_ns for path in trained.glob("out/*/checkpoint.pth")] == [written]
    records = records_of(trained)
    assert records.keys() == {"short@2", "short@2+multi-scale"}
    assert records["short@2"]["metrics"] != records["short@2+multi-scale"]["metrics"]


def test_views_of_one_scale_give_what_one_view_gives(trained, checkpoints, data, short, monkeypatch):
    """Averaging the flipped and the plain view is symmetric: flipping the image flips the labels, and nothing else."""
    monkeypatch.setattr(seg, "RATIOS", (1.0,))
    settings = options("--data", str(data), "--protocol", str(short))
    backbone = load_backbone(checkpoints["vit"])
    _, chosen, config = ade20k._read(settings, backbone)
    init_default_scope("mmseg")
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(ade20k.model_config(config, chosen, backbone, settings, len(NAMES)))).eval()
    one = DATASETS.build(seg.data_config(data, "validation", NAMES, seg.test_pipeline(32, 4, False)))[0]
    views = DATASETS.build(seg.data_config(data, "validation", NAMES, seg.test_pipeline(32, 4, True)))[0]
    assert [sample.get("flip", False) for sample in views["data_samples"]] == [False, True]
    pair = {key: [[value] for value in views[key]] for key in views}
    (single,) = model.test_step({key: [value] for key, value in one.items()})
    for view in pair:  # the plain view twice: the mean of equals
        pair[view][1] = pair[view][0]
    (double,) = model.test_step(pair)
    assert torch.equal(single.pred_sem_seg.data, double.pred_sem_seg.data)


def test_training_goes_on_past_a_picture_that_cannot_be_read_only_if_told_to(
    checkpoints, data, short, tmp_path, monkeypatch, capsys
):
    spoiled = tmp_path / "set"
    shutil.copytree(data, spoiled)
    broken = spoiled / "images/training/2.png"
    broken.write_bytes(broken.read_bytes()[:200])
    monkeypatch.setattr("selfpatch.eval.datasets.checks.sample", lambda items, *_: items[:2])  # it is no part of it
    with pytest.raises(UserError, match=r"images/training/2\.png"):
        run.main(command(checkpoints["vit"], spoiled, short, tmp_path))
    run.main(command(checkpoints["vit"], spoiled, short, tmp_path, "--skip-unreadable"))
    assert f"warning: skipped: {broken}" in capsys.readouterr().out
    (record,) = records_of(tmp_path).values()
    assert record["protocol"]["name"] == "short@2+skip_unreadable"
    assert record["metrics"]["mIoU"] >= 0


def test_killed_training_goes_on_to_the_same_weights(trained, checkpoints, data, short, tmp_path):
    argv = command(checkpoints["vit"], data, short, tmp_path)
    process = started(argv)
    while not list(tmp_path.glob("out/*/checkpoint.pth")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (checkpoint,) = tmp_path.glob("out/*/checkpoint.pth")
    assert load_file(checkpoint)["meta"]["iter"] < 6
    run.main(argv)
    assert list(records_of(tmp_path)) == ["short@2"]
    ends = [load_file(next(folder.glob("out/*/checkpoint.pth")))["state_dict"] for folder in (tmp_path, trained)]
    for name, tensor in ends[0].items():
        # a bias whose exact gradient is zero takes steps of rounding noise
        torch.testing.assert_close(tensor, ends[1][name], atol=1e-4, rtol=1e-3)


def test_a_training_that_diverges_tells_how_to_go_on(checkpoints, data, short, tmp_path):
    with pytest.raises(UserError, match=r"not finite .*; the same command goes on from there; with a lower --lr"):
        run.main(command(checkpoints["vit"], data, short, tmp_path, "--lr", "1e30"))
    assert not (tmp_path / "records").exists()


def test_two_processes_train_and_test_what_one_tests_with_the_same_figures(checkpoints, data, short, tmp_path):
    """Five test images on two processes: one comes twice. The batch statistics of the two are not the same."""
    argv = command(checkpoints["vit"], data, short, tmp_path, "--batch-size", "4")
    assert started([*argv, "--gpus", "2"]).wait() == 0
    both = records_of(tmp_path)
    shutil.rmtree(tmp_path / "records")
    run.main(argv)
    one = records_of(tmp_path)
    assert one.keys() == both.keys() == {"short@2+batch_size=4"}
    assert one["short@2+batch_size=4"]["metrics"] == both["short@2+batch_size=4"]["metrics"]


# --- dense k-NN ------------------------------------------------------------------------------------------------------


def looked_up(checkpoint: Path, data: Path, folder: Path, *more: str) -> None:
    places = ["--out", str(folder / "out"), "--records", str(folder / "records")]
    words = ["ade20k", str(checkpoint), "--data", str(data), "--protocol", "dense-knn", "--crop", "64", *places, *more]
    run.main(words)


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_dense_knn_finds_the_colours_and_is_the_same_every_time(family, checkpoints, data, tmp_path):
    for folder in (tmp_path / "one", tmp_path / "two"):
        looked_up(checkpoints[family], data, folder, "--save-predictions", "--k", "5")
    one, two = (records_of(tmp_path / name)["dense-knn@1+k=5+crop=64"] for name in ("one", "two"))
    assert one["metrics"] == two["metrics"]
    assert one["metrics"]["mIoU"] > (20 if family == "vit" else 0)
    (first,) = (tmp_path / "one/out").glob("*/predictions/0.png")
    assert set(np.unique(np.asarray(Image.open(first)))) <= {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--protocol", "dense-knn", "--lr", "1"], "--lr is no option of dense-knn"),
        (["--protocol", "dense-knn", "--multi-scale"], "--multi-scale is no option of dense-knn"),
        (["--protocol", "upernet-mini", "--k", "5"], "--k is an option of --protocol dense-knn"),
        (["--protocol", "dense-knn", "--k", "0"], "--k 0"),
    ],
)
def test_options_of_another_protocol_are_one_line(argv, told, data):
    with pytest.raises(UserError, match=told):
        ade20k.open(options("--data", str(data), *argv))


def test_more_neighbours_than_patches_are_one_line(checkpoints, data, tmp_path):
    with pytest.raises(UserError, match="--k 97: 6 training images of 16 patches give only 96 neighbours"):
        looked_up(checkpoints["vit"], data, tmp_path, "--k", "97")
    assert not (tmp_path / "records").exists()


def test_ade20ks_own_names_are_read_from_its_list(tmp_path):
    rows = ["Idx\tRatio\tTrain\tVal\tName", "1\t0.1\t5\t6\twall", "2\t0.1\t5\t6\tbuilding, edifice"]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(rows))
    assert listed_names(tmp_path)[:3] == ["wall", "building", "3"]
    assert len(listed_names(tmp_path / "nowhere")) == 150
