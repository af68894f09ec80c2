"""Every config in configs/pretrain: it builds, trains at a small width, and its checkpoint is scored on a video.

The folder is enumerated: a new config is tested without a new test.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import selfpatch.pretrain
from selfpatch.eval.checkpoints.load import load_backbone
from selfpatch.eval.datasets.davis import write_mask
from selfpatch.eval.tasks import davis
from selfpatch.pretrain.checkpoint import plain, save_file
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.config import CONFIGS, load_config
from selfpatch.pretrain.hooks import SetStep
from selfpatch.pretrain.optim import optimiser_of
from selfpatch.pretrain.train import build_method, checkpoint_meta

NAMES = sorted(path.stem for path in (CONFIGS / "pretrain").glob("*.py"))
NARROW = {
    "VisionTransformer": {"embed_dim": 24, "depth": 2, "heads": 3, "img_size": 96},
    "Swin": {"embed_dim": 24, "depths": [2, 2, 2, 2], "heads": [1, 2, 4, 8]},
}
SMALL_HEADS = {"out_dim": 16, "hidden_dim": 32, "bottleneck_dim": 8, "patch_out_dim": 8, "queue": 5, "patch_queue": 5}
CELLS = {  # what the paper varies, at ViT-Ti/16 on COCO -> the values that must be there
    "neighbourhood": {3, 5, "all"},
    "aggregation": {"attention", "mean"},
    "k": {1, 2, 4, 8},
    "patch_loss_weight": {0.0, 0.05, 0.1, 0.2, 0.5, 1.0},
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """These tensors are small: a second thread costs more than it gains."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """A DAVIS tree with one sequence of four small frames and one object."""
    root, rng = tmp_path_factory.mktemp("davis"), np.random.default_rng(0)
    for folder in ("ImageSets/2017", "JPEGImages/480p/one", "Annotations/480p/one"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("one\n")
    scene = rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)
    labels = np.zeros((64, 96), np.uint8)
    labels[10:50, 10:60] = 1
    for t in range(4):
        Image.fromarray(np.roll(scene, t, 1)).save(root / f"JPEGImages/480p/one/{t:05d}.jpg")
        write_mask(root / f"Annotations/480p/one/{t:05d}.png", np.roll(labels, t, 1))
    return root


def narrow(name: str):
    """A config at a width, a depth and with crops that take no time."""
    full = load_config(name)
    options = {f"model.backbone.{key}": value for key, value in NARROW[full.model.backbone.type].items()}
    options |= {f"model.{key}": value for key, value in SMALL_HEADS.items() if key in full.model}
    options |= {f"views.{view}.size": 96 for view in full.views}
    if "local" in full.views:
        options["views.local.count"] = 1
    return load_config(name, options)


def trained(config):
    """The method after two optimisation steps on noise, as the runner's hooks take them; losses are finite."""
    method = build_method(config).train()
    wrapper = optimiser_of(method, config, lr=1e-3)
    hook = SetStep(method.schedule_class(2, 3, **config.schedule))
    views = sum(view.get("count", 1) for view in config.views.values())
    for iteration in range(2):
        runner = SimpleNamespace(model=method, optim_wrapper=wrapper, iter=iteration, seed=config.seed)
        hook.before_train_iter(runner, iteration)
        crops = torch.randint(0, 256, (views, 3, 3, 96, 96), dtype=torch.uint8)  # (V, B, 3, S, S)
        parts = method.train_step({"crops": [crops], "unreadable": []}, wrapper)
        hook.after_train_iter(runner, iteration)
        assert all(value.isfinite().all() for value in parts.values())
    return method


@pytest.mark.parametrize("name", NAMES)
def test_trains_and_its_checkpoint_is_scored(name, video, tmp_path):
    config = narrow(name)
    fresh = {key: tensor.clone() for key, tensor in build_method(config).student.state_dict().items()}
    method = trained(config)
    assert any(not torch.equal(fresh[key], tensor) for key, tensor in method.student.state_dict().items())

    path = tmp_path / "checkpoint.pth"
    meta = {**checkpoint_meta(method, config), "epoch": 1, "iter": 2, "seed": config.seed}
    save_file({"meta": plain(meta), "state_dict": method.state_dict()}, path)
    backbone = load_backbone(path)
    assert backbone.method == method.display_name
    assert backbone.which == method.downstream == ("student" if config.method.startswith("moby") else "teacher")
    assert {key: value for key, value in backbone.arch.items() if key != "name"} == plain(method.backbone.arch)
    assert all(torch.equal(backbone.state[key], tensor) for key, tensor in method.backbone.state_dict().items())

    settings = davis.Settings(data=video, short_side=64, long_multiple=32, radius=2)
    assert ("stage=3" in davis.protocol(settings, backbone).name) == (config.model.backbone.type == "Swin")
    metrics = davis.evaluate(backbone, davis.open(settings), settings, tmp_path / "out").metrics
    assert 0 <= metrics["J&F"] <= 100


@pytest.mark.parametrize("name", NAMES)
def test_its_docstring_says_how_to_run_it(name):
    """The exact command, with as many GPUs as the name says, and what it costs; a variant is a delta of a few lines."""
    source = (CONFIGS / "pretrain" / f"{name}.py").read_text()
    doc = ast.get_docstring(ast.parse(source))
    assert f"tools/pretrain.sh {name}" in doc
    cost = r"Cost: (an estimated \d+ GPU-hours of V100, not measured here:|about \d+ CPU minutes?)"
    assert re.search(cost, " ".join(doc.split()))
    gpus = re.search(r"_(\d+)xb(\d+)-(\d+)e_", name)
    if gpus:
        config = load_config(name)
        assert f"--gpus {gpus[1]}" in doc
        assert (config.data.batch_size, config.schedule.epochs) == (int(gpus[2]), int(gpus[3]))
    assert len(source.splitlines()) - len(doc.splitlines()) <= 25


@pytest.mark.parametrize("name", [name for name in NAMES if "xb" in name])
def test_it_is_what_its_name_says(name):
    """Method, size and patch, and the data set, by the parts of the name."""
    method, arch, _, data = name.split("_")
    config = load_config(name)
    display = build_method(narrow(name)).display_name
    family = method.partition("-")[0]
    assert display.startswith({"dino": "DINO", "selfpatch": "DINO+SelfPatch", "moby": "MoBY"}[family])
    assert ("SelfPatch" in display) == ("selfpatch" in method)
    size, patch = re.fullmatch(r"(?:vit|swin)-(ti|s|b|t)(\d*)", arch).groups()
    backbone = config.model.backbone
    assert backbone.size == {"ti": "tiny", "t": "tiny", "s": "small", "b": "base"}[size]
    assert backbone.type == ("Swin" if arch.startswith("swin") else "VisionTransformer")
    assert str(backbone.get("patch_size", "")) == patch
    assert {"in1k": "imagenet", "coco": "coco"}[data] in config.data.root


def test_the_papers_grid_is_there():
    """Each value that the paper's ablations vary is a cell of a sweep over the base of the grid, all else as there."""
    found = {}
    for path in (CONFIGS / "sweeps").glob("paper_*.yaml"):
        sweep = yaml.safe_load(path.read_text())
        for key, values in sweep["axes"].items():
            if len(sweep["axes"]) == 1 and key != "config":
                assert sweep["config"] == "selfpatch_vit-ti16_4xb64-200e_coco"
                for value in values:
                    load_config(sweep["config"], {key: value})
                found[key.removeprefix("model.")] = set(values)
    assert {key: found[key] for key in CELLS} == CELLS


@pytest.mark.parametrize(
    ("name", "window"), [("selfpatch_swin-t_8xb128-200e_in1k", 3), ("selfpatch_vit-ti16_4xb64-200e_coco", 5)]
)
def test_a_crop_whose_grid_is_smaller_than_the_neighbourhood_is_named(name, window):
    config = narrow(name)
    config.views.local.size, config.model.neighbourhood = 64, window
    with pytest.raises(UserError, match=r"a crop of 64 pixels has a grid of .*smaller than"):
        build_method(config)


METHOD = '''
"""Keeps the student's tokens near the teacher's."""

from typing import Annotated

from pydantic import Field

from selfpatch.pretrain.backbone import build_backbone
from selfpatch.pretrain.method import Method, move_average
from selfpatch.pretrain.schedules import DINOSchedule


class Mimic(Method):
    display_name, schedule_class = "Mimic", DINOSchedule

    def __init__(self, backbone: dict, weight: Annotated[float, Field(gt=0, le=2)] = 1.0):
        super().__init__()
        self.weight = weight
        self.add(backbone=build_backbone(backbone))

    def loss(self, crops):
        loss = 0
        for salt, views in enumerate(crops):
            images = views.flatten(0, 1)
            found = self.student["backbone"](images, self.noise(views, salt))[1]
            loss = loss + (found - self.teacher["backbone"](images)[1]).square().mean() * self.weight
        return {"loss": loss}

    def after_step(self):
        move_average(self.teacher, self.student, self.step.momentum)
'''
METHOD_CONFIG = f"""
_base_ = "{CONFIGS}/_base_/toy.py"
method = "mimic"
model = dict(_delete_=True, weight=0.5, backbone=dict(type="VisionTransformer", embed_dim=24, depth=2, heads=3))
"""


def test_a_method_is_one_file_and_one_config(tmp_path, monkeypatch):
    """Dropped into pretrain/ and configs/, it trains, and its arguments are checked; nothing else knows of it."""
    (tmp_path / "mimic.py").write_text(METHOD)
    (tmp_path / "mimic_toy.py").write_text(METHOD_CONFIG)
    monkeypatch.setattr(selfpatch.pretrain, "__path__", [*selfpatch.pretrain.__path__, str(tmp_path)])
    config = load_config(str(tmp_path / "mimic_toy.py"))
    path = tmp_path / "checkpoint.pth"
    method = trained(config)
    save_file({"meta": plain({**checkpoint_meta(method, config), "epoch": 1}), "state_dict": method.state_dict()}, path)
    assert (load_backbone(path).method, load_backbone(path).which) == ("Mimic", "teacher")
    for key, value, told in (
        ("weight", 3.0, "must be above 0 and at most 2"),
        ("wieght", 1.0, "did you mean model.weight"),
    ):
        with pytest.raises(UserError, match=told):
            load_config(str(tmp_path / "mimic_toy.py"), {f"model.{key}": value})
