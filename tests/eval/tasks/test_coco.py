"""COCO: scores that two scorers agree on, checks before compute, and a training that a kill -9 cannot change."""

import importlib.util
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
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from pycocotools import mask as rle

from selfpatch.eval import run
from selfpatch.eval.checkpoints.load import load_backbone
from selfpatch.eval.dense import detection, recipe
from selfpatch.eval.dense import trainer as training
from selfpatch.eval.dense.coco_metric import TOLERANCE, InstanceMetric, score
from selfpatch.eval.dense.image_stream import Batches, ImageStream
from selfpatch.eval.tasks import coco
from selfpatch.pretrain.checkpoint import load_file, save_file
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.settings import from_options
from selfpatch.pretrain.swin import Swin
from selfpatch.pretrain.vit import VisionTransformer
from selfpatch.reports.detections import Detections, average_precision

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("disc", "square", "bar")
H, W = 96, 128


def blob(rng: np.random.Generator) -> np.ndarray:
    """A random box as a mask (H, W)."""
    mask = np.zeros((H, W), dtype=np.uint8)
    h, w = rng.integers(12, 60, 2)
    y, x = rng.integers(0, H - h), rng.integers(0, W - w)
    mask[y : y + h, x : x + w] = 1
    return mask


def instance(mask: np.ndarray, image: int, category: int, number: int, crowd: int = 0) -> dict:
    code = rle.encode(np.asfortranarray(mask))
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": rle.toBbox(code).tolist(),
        "area": float(rle.area(code)),
        "iscrowd": crowd,
        "segmentation": {"size": [H, W], "counts": code["counts"].decode()},
    }


def truth_of(seed: int, images: int = 6, first_id: int = 0) -> dict:
    """An annotation file's content whose ids start at ``first_id``, with one crowd."""
    rng = np.random.default_rng(seed)
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": W, "height": H} for i in range(images)],
        "categories": [{"id": 10 * (i + 1), "name": name} for i, name in enumerate(NAMES)],
        "annotations": [],
    }
    for image in range(images):
        for _ in range(rng.integers(1, 4)):
            number = first_id + len(content["annotations"])
            category = 10 * int(rng.integers(1, 3 if image else 4))
            content["annotations"].append(instance(blob(rng), image, category, number, crowd=int(number == 5)))
    return content


def detections_of(truth: dict, seed: int) -> list[dict]:
    """Ground truth moved by a few pixels, some of it lost, some invented, with scores that tie."""
    rng = np.random.default_rng(seed)
    found = []
    for annotation in truth["annotations"]:
        for _ in range(rng.integers(0, 4)):
            mask = rle.decode(annotation["segmentation"])
            if rng.random() < 0.3:
                mask = blob(rng)
            mask = np.roll(mask, tuple(rng.integers(-4, 5, 2)), (0, 1))
            code = rle.encode(np.asfortranarray(mask))
            category = annotation["category_id"] if rng.random() < 0.8 else 10 * int(rng.integers(1, 4))
            found.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": category,
                    "score": float(rng.integers(1, 8)) / 8,
                    "bbox": rle.toBbox(code).tolist(),
                    "segmentation": code,
                }
            )
    return found


# --- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("first_id", [0, 1])
def test_two_scorers_agree_on_every_figure(seed, first_id):
    """``score`` itself compares them to 1e-6 and raises where they differ."""
    truth = truth_of(seed, first_id=first_id)
    metrics = score(truth, detections_of(truth, seed + 100), exhaustive=True).metrics
    assert {"bbox AP", "bbox AP50", "bbox AP75", "bbox APs", "mask AP", "mask APm", "mask AP/disc"} <= metrics.keys()
    assert 0 < metrics["mask AP"] < 100


@pytest.mark.parametrize("exhaustive", [False, True])
def test_disagreement_of_the_scorers_is_an_error(monkeypatch, exhaustive):
    from selfpatch.eval.dense import coco_metric

    right = coco_metric.COCOeval if exhaustive else coco_metric.faster.COCOeval_faster

    class Wrong(right):
        def accumulate(self, p=None):
            super().accumulate(p) if exhaustive else super().accumulate()
            self.eval["precision"] = self.eval["precision"] + 2 * TOLERANCE / 100

    where = (coco_metric, "COCOeval") if exhaustive else (coco_metric.faster, "COCOeval_faster")
    monkeypatch.setattr(*where, Wrong)
    truth = truth_of(0)
    by = "pycocotools" if exhaustive else "the matches that are kept"
    with pytest.raises(UserError, match=rf"scorers disagree: bbox AP is .* by {by}"):
        score(truth, detections_of(truth, 1), exhaustive)


def test_perfect_detections_score_100():
    truth = truth_of(0)
    found = [{**a, "score": 0.9} for a in truth["annotations"] if not a["iscrowd"]]
    metrics = score(truth, found).metrics
    assert {name: value for name, value in metrics.items() if value < 100 - 1e-9} == {}


@pytest.mark.parametrize("exhaustive", [False, True])
def test_no_detection_at_all_is_ap_0_with_a_warning(exhaustive):
    scores = score(truth_of(0), [], exhaustive)
    assert set(scores.metrics.values()) == {0.0}
    assert {"bbox AP", "mask AP", "bbox AP50", "mask AP/disc"} <= scores.metrics.keys()
    assert "no detection" in scores.notes[0]


@pytest.mark.parametrize("key", ["iscrowd", "area"])
@pytest.mark.parametrize("polygons", [False, True])
def test_what_an_annotation_may_leave_out_is_filled_in(key, polygons):
    truth = truth_of(0)
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = 0
        if polygons:
            x, y, w, h = annotation["bbox"]
            annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    found = detections_of(truth_of(0), 1)
    expected = score(truth, found, exhaustive=True).metrics
    for annotation in truth["annotations"]:
        del annotation[key]
    assert score(truth, found, exhaustive=True).metrics == pytest.approx(expected)


def test_crowds_alone_have_no_figures():
    truth = truth_of(0)
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = 1
    scores = score(truth, detections_of(truth_of(0), 1))
    assert not scores.metrics
    assert "nothing to find" in scores.notes[0]


def test_what_cannot_be_scored_is_left_out():
    truth = truth_of(0)
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] == 10 and a["area"] < 32**2]
    metrics = score(truth, detections_of(truth, 0)).metrics
    assert "mask AP/disc" in metrics
    assert not {"mask AP/bar", "mask APl", "bbox APm"} & metrics.keys()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["bbox", "mask"])
def test_ap_can_be_built_again_from_the_units(seed, kind):
    truth = truth_of(seed)
    scores = score(truth, detections_of(truth, seed))
    rebuilt = 100 * average_precision(Detections.from_units(scores.units, kind))[0]
    assert rebuilt == pytest.approx(scores.metrics[f"{kind} AP"], abs=1e-9)


# --- recipes ---------------------------------------------------------------------------------------------------------


def options(*argv: str) -> coco.Settings:
    return from_options(coco.Settings, run._parser(coco).parse_args(["x.pth", *argv]))


def read(*argv: str) -> tuple:
    return recipe.read("coco", "mask-rcnn-1x", options(*argv))


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        ([], "mask-rcnn-1x@1"),
        (["--lr", "2e-4"], "mask-rcnn-1x@1+lr=0.0002"),
        (["--iters", "5000"], "mask-rcnn-1x@1+iters=5000"),
        (["--epochs", "12"], "mask-rcnn-1x@1"),
        (["--batch-size", "32", "--seed", "1"], "mask-rcnn-1x@1+batch_size=32+seed=1"),
        (["--tap-norm", "--steps", "0.5,0.9"], "mask-rcnn-1x@1+steps=0.5,0.9+tap_norm=True"),
        (["--gpus", "8", "--accumulate", "2", "--checkpointing"], "mask-rcnn-1x@1"),
    ],
)
def test_a_departure_from_the_published_recipe_renames_the_protocol(argv, name):
    assert read(*argv)[0] == name


def test_the_published_recipe_is_what_the_config_says():
    _, published, _ = read()
    assert published.iterations(117_266) == 87_950
    warmup, steps = published.schedulers(87_950)
    assert (warmup["end"], steps["milestones"]) == (1000, [58_633, 80_621])  # after epochs 8 and 11
    assert (published.scaled_lr, published.weight_decay, published.drop_path) == (1e-4, 0.05, 0.05)
    assert published.taps == (3, 5, 7, 11)
    assert published.model_copy(update={"batch_size": 8}).scaled_lr == 0.5e-4


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--protocol", "mask-rcnn-2x"], "choose one of mask-rcnn-1x"),
        (["--precision", "fp8"], "choose fp32 or bf16"),
        (["--lr", "0"], "must be above 0"),
        (["--drop-path", "1"], "from 0 to below 1"),
        (["--gpus", "0"], "must be 1 or more"),
    ],
)
def test_options_out_of_range_are_refused(argv, reason):
    with pytest.raises(UserError, match=reason):
        coco.open(options(*argv))


def test_a_warm_up_longer_than_the_run_is_refused():
    _, short, _ = read("--iters", "100")
    with pytest.raises(UserError, match="warm-up of 1000 iterations does not fit into a run of 100"):
        short.iterations(50)


def test_an_unknown_parameter_of_a_config_is_refused(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"_base_ = ['{ROOT}/configs/coco/mask-rcnn-1x.py']\nrecipe = dict(learning_rate=1)\n")
    with pytest.raises(UserError, match=r"mine\.py: unknown config key recipe\.learning_rate"):
        recipe.read("coco", str(path), options())


# --- configs ---------------------------------------------------------------------------------------------------------


def write_checkpoint(path: Path, model: torch.nn.Module) -> Path:
    state = {f"teacher.backbone.{name}": tensor for name, tensor in model.state_dict().items()}
    save_file({"state_dict": state, "meta": {"method": "Random", "arch": model.arch, "epoch": 0, "seed": 0}}, path)
    return path


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """A small checkpoint of each family."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    vit = VisionTransformer(embed_dim=32, depth=4, heads=2, cls_token=False, final_norm=False)
    swin = Swin(embed_dim=8, depths=(1, 1, 1, 1), heads=(1, 2, 4, 8))
    return {
        "vit": write_checkpoint(folder / "vit.pth", vit),
        "swin": write_checkpoint(folder / "swin.pth", swin),
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A set in COCO's format: coloured boxes on noise; 8 images to train on and 5 to test on."""
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "annotations").mkdir()
    for split, images in (("train", 8), ("val", 5)):
        content = truth_of(seed=images, images=images)
        (folder / f"{split}2017").mkdir()
        rng = np.random.default_rng(images)
        for image in content["images"]:
            pixels = rng.integers(0, 80, (H, W, 3)).astype(np.uint8)
            for a in content["annotations"]:
                if a["image_id"] == image["id"]:
                    pixels[rle.decode(a["segmentation"]) > 0, a["category_id"] // 10 - 1] = 255
            Image.fromarray(pixels).save(folder / f"{split}2017" / image["file_name"])
        (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> Path:
    """A protocol of a few small steps."""
    path = tmp_path_factory.mktemp("configs") / "short.py"
    path.write_text(
        f"_base_ = ['{ROOT}/configs/coco/mask-rcnn-mini.py']\n"
        "recipe = dict(iters=6, warmup_iters=1, batch_size=2)\n"
        "model = dict(test_cfg=dict(rcnn=dict(score_thr=0.0)))\n"
    )
    return path


@pytest.mark.parametrize("protocol", recipe.protocols("coco"))
def test_every_config_builds_its_detector_for_the_data(protocol, checkpoints, data):
    family = "swin" if "swin" in protocol else "vit"
    settings = options("--data", str(data), "--protocol", protocol)
    dataset, backbone = coco.open(settings), load_backbone(checkpoints[family])
    plan = coco.plan(backbone, dataset, settings, InstanceMetric(dataset.truth))
    init_default_scope("mmdet")
    model = MODELS.build(ConfigDict(plan.model))
    model.init_weights()
    model.backbone.certify()
    assert model.roi_head.bbox_head.num_classes == model.roi_head.mask_head.num_classes == len(NAMES)
    images = training._data_set(plan.train_data)
    assert images.metainfo["classes"] == NAMES
    assert {i["bbox_label"] for n in range(len(images)) for i in images.get_data_info(n)["instances"]} <= {0, 1, 2}
    rates = {"lr": 1e-4, "base_batch": plan.recipe.batch_size, "backbone_lr": 0.1, "weight_decay": 0.05}
    wrapper = training.optimiser_of(model, plan.recipe.model_copy(update=rates), parts=1)
    names = {id(p): n for n, p in model.named_parameters()}
    groups = [(g["lr"], g["weight_decay"], [names[id(p)] for p in g["params"]]) for g in wrapper.optimizer.param_groups]
    assert sorted(n for *_, own in groups for n in own) == sorted(
        n for n, p in model.named_parameters() if p.requires_grad
    )
    for lr, decay, own in groups:
        assert {n.startswith("backbone.encoder.") for n in own} == {lr < 1e-4}
        assert lr == pytest.approx(1e-5 if lr < 1e-4 else 1e-4)
        if decay:
            assert not any("norm" in n or "pos_embed" in n for n in own)
        else:
            assert all("norm" in n or "pos_embed" in n or "bias_table" in n or ".scales." in n for n in own)


def test_regions_do_not_depend_on_the_order_in_memory():
    extractor = detection.RegionExtractor({"type": "RoIAlign", "output_size": 7, "sampling_ratio": 0}, 8, [4])
    level, rois = torch.randn(2, 8, 20, 30), torch.tensor([[0, 8.0, 8, 60, 50], [1, 20, 10, 90, 70]])
    expected = extractor((level,), rois)
    torch.testing.assert_close(
        extractor((level.to(memory_format=torch.channels_last),), rois), expected, rtol=0, atol=0
    )


def test_a_config_may_insist_on_an_architecture(checkpoints):
    with pytest.raises(UserError, match="insists on family swin"):
        coco.protocol(options("--protocol", "mask-rcnn-swin-1x"), load_backbone(checkpoints["vit"]))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("num_classes = 80", "has 3 classes, but .* insists on 80"),
        ("learning_rate = 1", "unknown key learning_rate"),
    ],
)
def test_a_config_that_does_not_fit_the_data_or_the_program_is_refused(line, reason, data, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"_base_ = ['{ROOT}/configs/coco/mask-rcnn-1x.py']\n{line}\n")
    with pytest.raises(UserError, match=reason):
        coco.open(options("--data", str(data), "--protocol", str(path)))


def test_a_file_without_area_can_be_trained_on(data, tmp_path):
    shutil.copytree(data, tmp_path / "set")
    listing = tmp_path / "set/annotations/instances_train2017.json"
    content = json.loads(listing.read_text())
    for annotation in content["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    listing.write_text(json.dumps(content))
    init_default_scope("mmdet")
    config = {"type": "InstanceSet", "ann_file": str(listing), "data_prefix": {"img": "x"}, "pipeline": []}
    config["metainfo"] = {"classes": NAMES}
    images = training._data_set(config)
    assert sum(len(images.get_data_info(i)["instances"]) for i in range(len(images))) == len(content["annotations"])
    del content["annotations"][0]["bbox"]  # the doctor does not parse the largest files
    listing.write_text(json.dumps(content))
    with pytest.raises(UserError, match="annotation 0 has no mask or no box"):
        training._data_set(config)


@pytest.mark.parametrize(
    ("family", "option", "reason"),
    [
        ("swin", ("--taps", "1,2,3,4"), "for ViTs"),
        ("vit", ("--tap-norm",), "has no final norm"),
    ],
)
def test_options_that_do_not_fit_the_backbone_are_refused(family, option, reason, checkpoints):
    with pytest.raises(UserError, match=reason):
        coco.protocol(options(*option), load_backbone(checkpoints[family]))


def test_trained_weights_belong_to_a_number_of_heads(data, tmp_path):
    torch.save(VisionTransformer(embed_dim=32, depth=4, heads=2).state_dict(), tmp_path / "bare.pth")
    folders = set()
    for heads in (2, 4):
        settings, backbone = options("--data", str(data)), load_backbone(tmp_path / "bare.pth", heads=heads)
        folders.add(coco.plan(backbone, coco.open(settings), settings, None).folder(tmp_path))
    assert len(folders) == 2


def test_the_default_protocol_is_the_familys(checkpoints):
    for family, name in (("vit", "mask-rcnn-1x@1"), ("swin", "mask-rcnn-swin-1x@1")):
        assert coco.protocol(options(), load_backbone(checkpoints[family])).name == name


# --- data ------------------------------------------------------------------------------------------------------------


def spoil(folder: Path, how: str) -> None:
    listing = folder / "annotations/instances_val2017.json"
    content = json.loads(listing.read_text())
    if how == "image missing":
        (folder / "val2017/0.png").unlink()
    elif how == "no annotations":
        content["annotations"] = []
    elif how == "another set":
        for image in content["images"]:
            image["file_name"] = f"other_{image['file_name']}"
    elif how == "unlisted image":
        content["annotations"][0]["image_id"] = 999
    elif how == "other classes":
        content["categories"].append({"id": 40, "name": "ring"})
    listing.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("image missing", r"0\.png"),
        ("no annotations", "0 annotations"),
        ("another set", "are not in"),
        ("unlisted image", "image 999, which is not listed"),
        ("other classes", "different categories"),
    ],
)
def test_bad_data_is_found_before_any_compute(how, reason, data, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(data, folder)
    coco.open(options("--data", str(folder)))
    spoil(folder, how)
    with pytest.raises(UserError, match=reason) as error:
        coco.open(options("--data", str(folder)))
    assert "\n" not in str(error.value)


def test_other_annotations_or_photographs_are_another_data_set(data, tmp_path):
    settings, root = options("--data", str(tmp_path / "set")), tmp_path / "set"
    shutil.copytree(data, root)
    before = coco.open(settings).identity.sha256
    assert coco.open(settings).identity.sha256 == before
    found = {before}
    for photograph in ("val2017/0.png", "train2017/3.png"):
        Image.new("RGB", (W, H)).save(root / photograph)
        found.add(coco.open(settings).identity.sha256)
    listing = root / "annotations/instances_train2017.json"
    listing.write_text(listing.read_text() + "\n")
    assert len(found | {coco.open(settings).identity.sha256}) == 4
    assert coco.open(settings).identity.miniature


# --- the stream of images --------------------------------------------------------------------------------------------


class Numbers:
    """A data set whose images are random numbers."""

    def full_init(self):
        pass

    def __len__(self):
        return 7

    def get_data_info(self, i):
        return {"height": 2 if i % 3 else 1, "width": 1 if i % 3 else 2}

    def __getitem__(self, i):
        return {"index": i, "drawn": (np.random.rand(), torch.rand(1).item())}


def batches(processes=1, parts=1, start=0, grouped=True):
    """The images of each iteration, in order, as one process after the other gets them."""
    from unittest import mock

    found = []
    for rank in range(processes):
        stream = ImageStream(Numbers(), seed=3, grouped=grouped)
        sampler = Batches(stream, batch_size=4, parts=parts, iterations=9)
        sampler.start = start
        with (
            mock.patch("selfpatch.eval.dense.image_stream.get_rank", return_value=rank),
            mock.patch("selfpatch.eval.dense.image_stream.get_world_size", return_value=processes),
        ):
            found.append([stream[address] for batch in sampler for address in batch])
    size = 4 // processes
    return [[item for own in found for item in own[i * size : (i + 1) * size]] for i in range(9 - start)]


@pytest.mark.parametrize(("processes", "parts"), [(1, 2), (2, 1), (2, 2), (4, 1)])
def test_processes_and_parts_change_nothing(processes, parts):
    assert batches(processes, parts) == batches()


@pytest.mark.parametrize("start", [1, 4, 8])
def test_a_run_goes_on_with_the_images_it_would_have_had(start):
    assert batches(start=start) == batches()[start:]


def test_every_image_comes_once_an_epoch_and_pairs_share_an_orientation():
    stream = ImageStream(Numbers(), seed=0, grouped=True)
    orders = [stream.order(epoch) for epoch in range(20)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert len({tuple(order) for order in orders}) > 10
    for order in orders:
        pairs = stream.tall[order[:4]].reshape(-1, 2)  # 3 wide and 4 tall: at least the first two pairs are pure
        assert (pairs[:, 0] == pairs[:, 1]).all()


# --- training --------------------------------------------------------------------------------------------------------


def command(checkpoint: Path, data: Path, protocol: Path, folder: Path, *more: str) -> list[str]:
    places = ["--out", str(folder / "out"), "--records", str(folder / "records"), "--save-every", "2"]
    return ["coco", str(checkpoint), "--data", str(data), "--protocol", str(protocol), *places, *more]


def record_of(folder: Path) -> dict:
    (path,) = (folder / "records").glob("*.json")
    return json.loads(path.read_text())


def started(argv: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "selfpatch.eval.run", *argv], env=environment, cwd=ROOT)


@pytest.fixture(scope="module")
def trained(checkpoints, data, short, tmp_path_factory) -> Path:
    """A folder with one whole run and its record."""
    folder = tmp_path_factory.mktemp("trained")
    run.main(command(checkpoints["vit"], data, short, folder))
    return folder


def test_a_record_holds_figures_and_what_they_are_built_from(trained):
    record = record_of(trained)
    assert record["task"] == "coco"
    assert record["miniature"]
    assert record["protocol"]["name"] == "short@2"
    assert record["protocol"]["parameters"]["taps"] == [0, 1, 2, 3]
    with np.load(trained / "records" / record["units"]) as units:
        for kind in ("bbox", "mask"):
            rebuilt = 100 * average_precision(Detections.from_units(dict(units), kind))[0]
            assert rebuilt == pytest.approx(record["metrics"][f"{kind} AP"], abs=1e-9)


def test_a_recorded_result_is_shown_not_computed(trained, checkpoints, data, short, capsys):
    before = time.perf_counter()
    run.main(command(checkpoints["vit"], data, short, trained))
    assert "already recorded" in capsys.readouterr().out
    assert time.perf_counter() - before < 20


def test_training_goes_on_past_a_photograph_that_cannot_be_read_only_if_told_to(
    checkpoints, data, short, tmp_path, monkeypatch, capsys
):
    spoiled = tmp_path / "set"
    shutil.copytree(data, spoiled)
    broken = sorted((spoiled / "train2017").iterdir())[2]
    broken.write_bytes(broken.read_bytes()[:200])
    monkeypatch.setattr("selfpatch.eval.datasets.checks.sample", lambda items, *_: items[:2])  # it is no part of it
    with pytest.raises(UserError, match=broken.name):
        run.main(command(checkpoints["vit"], spoiled, short, tmp_path))
    run.main(command(checkpoints["vit"], spoiled, short, tmp_path, "--skip-unreadable"))
    assert f"warning: skipped: {broken}" in capsys.readouterr().out
    assert record_of(tmp_path)["protocol"]["name"] == "short@2+skip_unreadable"


@pytest.mark.skipif(not importlib.util.find_spec("mlflow"), reason="no MLflow here")
def test_mlflows_file_store_holds_curves_and_figures_of_one_run(checkpoints, data, short, tmp_path):
    assert started([*command(checkpoints["vit"], data, short, tmp_path, "--log-to", "mlflow")]).wait() == 0
    (curve,) = tmp_path.rglob("mlruns/*/*/metrics/loss")
    assert curve.read_text().splitlines()
    figures = record_of(tmp_path)["metrics"]
    for kind in ("bbox AP", "mask AP"):
        (line,) = (curve.parent / f"test/{kind}").read_text().splitlines()
        assert float(line.split()[1]) == pytest.approx(figures[kind])


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
    assert record_of(tmp_path)["metrics"] == pytest.approx(record_of(trained)["metrics"], abs=1e-3)
    ends = [load_file(next(folder.glob("out/*/checkpoint.pth")))["state_dict"] for folder in (tmp_path, trained)]
    for name, tensor in ends[0].items():
        # a bias whose exact gradient is zero takes steps of rounding noise
        torch.testing.assert_close(tensor, ends[1][name], atol=1e-4, rtol=1e-3)


def test_two_processes_test_and_train_as_one(checkpoints, data, short, tmp_path):
    """Two processes share a batch; what they train, one process tests with the same figures."""
    argv = command(checkpoints["vit"], data, short, tmp_path)
    assert started([*argv, "--gpus", "2"]).wait() == 0
    both = record_of(tmp_path)["metrics"]
    (tmp_path / "records" / next((tmp_path / "records").glob("*.json")).name).unlink()
    run.main(argv)
    assert record_of(tmp_path)["metrics"] == pytest.approx(both, abs=1e-6)


def test_weights_that_are_initialised_again_stop_the_run(checkpoints, data, short, tmp_path, monkeypatch):
    """As a framework would: after the backbone has loaded them, in the model that trains."""
    from mmdet.models import MaskRCNN

    original = MaskRCNN.init_weights

    def again(self):
        original(self)
        self.backbone.encoder.init_weights()

    monkeypatch.setattr(MaskRCNN, "init_weights", again)
    with pytest.raises(UserError, match="initialised its weights again"):
        run.main(command(checkpoints["vit"], data, short, tmp_path))
    assert not (tmp_path / "records").exists()


def test_another_process_in_the_folder_is_noticed(trained, checkpoints, data, short):
    (folder,) = (trained / "out").iterdir()
    with training.locked(folder), pytest.raises(UserError, match="another process is at work"):
        run.main(command(checkpoints["vit"], data, short, trained, "--force"))


def test_a_batch_that_processes_cannot_share_is_refused(checkpoints, data, short, tmp_path):
    with pytest.raises(UserError, match="cannot be shared by 1 processes with --accumulate 3"):
        run.main(command(checkpoints["vit"], data, short, tmp_path, "--accumulate", "3"))


def test_a_dry_run_tells_the_cost_and_leaves_nothing(checkpoints, data, short, tmp_path, capsys):
    run.main(command(checkpoints["vit"], data, short, tmp_path, "--dry-run"))
    said = capsys.readouterr().out
    for part in ("type='MaskRCNN'", "6 iterations of 2", "GPU-hours", "MB for checkpoints"):
        assert part in said
    assert not list(tmp_path.iterdir())
