"""Every config in configs/pretrain: it builds, trains at a small width, and its checkpoint is scored on a video.

The folder is enumerated: a new config is tested without a new test.
"""

from __future__ import annotations

import argparse
import ast
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from selfpatch.eval.checkpoints.load import load_backbone
from selfpatch.eval.datasets.davis import write_mask
from selfpatch.eval.tasks import davis
from selfpatch.pretrain.checkpoint import plain, save_file
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.config import CONFIGS, load_config
from selfpatch.pretrain.hooks import SetStep
from selfpatch.pretrain.optim import TwoGroupConstructor
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
    options = {"type": "PretrainOptimWrapper", "optimizer": {"type": "AdamW", "eps": config.optimizer.eps}}
    clip = {"clip": config.optimizer.clip, "per_parameter": config.optimizer.clip_per_parameter}
    wrapper = TwoGroupConstructor({**options, **clip, "precision": config.precision})(method)
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

    parser = argparse.ArgumentParser()
    davis.add_arguments(parser)
    args = parser.parse_args(["--short-side", "64", "--long-multiple", "32", "--radius", "2"])
    args.data, args.force = video, False
    assert ("stage=3" in davis.protocol_of(args, backbone).name) == (config.model.backbone.type == "Swin")
    metrics = davis.evaluate(backbone, args, tmp_path / "out").metrics
    assert 0 <= metrics["J&F"] <= 100


@pytest.mark.parametrize("name", NAMES)
def test_its_docstring_says_how_to_run_it(name):
    """The exact command, with as many GPUs as the name says, and what it costs; a variant is a delta of a few lines."""
    source = (CONFIGS / "pretrain" / f"{name}.py").read_text()
    doc = ast.get_docstring(ast.parse(source))
    assert f"tools/pretrain.sh {name}" in doc
    cost = r"Cost: (an estimated \d+ GPU-hours of V100, not measured here:|about \d+ CPU minutes)"
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
    """Each value that the paper's ablations vary, all else as in the base of the grid."""
    base = load_config("selfpatch_vit-ti16_4xb64-200e_coco").to_dict()
    found = {key: {base["model"][key]} for key in CELLS}
    for name in NAMES:
        config = load_config(name).to_dict()
        changed = {key for key in base["model"] if config["model"].get(key) != base["model"][key]}
        if len(changed) == 1 and all(config[part] == base[part] for part in base if part not in ("model", "filename")):
            key = changed.pop()
            found.setdefault(key, set())
            if key in CELLS:
                found[key].add(config["model"][key])
    assert {key: found[key] for key in CELLS} == CELLS


@pytest.mark.parametrize("name", ["selfpatch_swin-t_8xb128-200e_in1k", "selfpatch-n5_vit-ti16_4xb64-200e_coco"])
def test_a_crop_whose_grid_is_smaller_than_the_neighbourhood_is_named(name):
    config = narrow(name)
    config.views.local.size = 64
    with pytest.raises(UserError, match=r"a crop of 64 pixels has a grid of .*smaller than"):
        build_method(config)
