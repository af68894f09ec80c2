"""The README's examples of a new method, task and checkpoint family are whole: each is written out here and works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import selfpatch.eval.tasks
import selfpatch.pretrain
from selfpatch.eval import evaluate
from selfpatch.eval.checkpoints import families, load, tensors
from selfpatch.pretrain.config import CONFIGS, load_config
from selfpatch.pretrain.train import train
from selfpatch.pretrain.vit import VisionTransformer

README = Path(__file__).resolve().parents[1] / "README.md"
EXAMPLES = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", README.read_text(), re.DOTALL))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Two classes of eight images: dark noise and bright noise."""
    root = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(0)
    for low in (0, 128):
        (root / f"from{low}").mkdir()
        for i in range(8):
            pixels = torch.randint(low, low + 128, (72, 72, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(root / f"from{low}" / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A small ViT in the layout of the README's family."""
    torch.manual_seed(0)
    model = VisionTransformer(size="tiny", depth=12, patch_size=16, cls_token=True, final_norm=True)
    names = {name: name.replace(".attn.", ".attention.") for name in model.state_dict()}
    state = {f"net.{names[name]}": tensor for name, tensor in model.state_dict().items()}
    path = tmp_path_factory.mktemp("foreign") / "checkpoint.pth"
    torch.save({**state, "predictor.weight": torch.zeros(1)}, path)
    return path


@pytest.fixture
def own_family(monkeypatch):
    """The README's entry before all others."""
    entry = eval(EXAMPLES["eval/checkpoints/families.py"].strip(), vars(families).copy())
    for module in (families, tensors):
        if hasattr(module, "FAMILIES"):
            monkeypatch.setattr(module, "FAMILIES", (entry, *families.FAMILIES))


def test_no_example_is_longer_than_25_lines():
    assert len(EXAMPLES) == 5
    assert all(len(list(filter(str.strip, text.splitlines()))) <= 25 for text in EXAMPLES.values())


def test_a_method_is_a_file_and_a_config(photos, tmp_path, monkeypatch):
    (tmp_path / "cosine.py").write_text(EXAMPLES["pretrain/cosine.py"])
    monkeypatch.setattr(selfpatch.pretrain, "__path__", [*selfpatch.pretrain.__path__, str(tmp_path)])
    text = EXAMPLES["configs/pretrain/cosine_toy.py"].replace("../_base_", str(CONFIGS / "_base_"))
    (tmp_path / "cosine_toy.py").write_text(text)
    options = {"schedule.epochs": 1, "schedule.warmup_epochs": 0, "data.batch_size": 8, "data.workers": 0}
    config = load_config(str(tmp_path / "cosine_toy.py"), {**options, "model.backbone.depth": 2})
    config.data.root = str(photos)
    loaded = load.load_backbone(train(config, tmp_path / "run"), heads=None)
    assert (loaded.method, loaded.epoch) == ("Cosine", 1)


def test_a_family_is_an_entry(checkpoint, own_family):
    loaded = load.load_backbone(checkpoint)
    assert (loaded.family, loaded.method, loaded.arch["heads"]) == ("mymethod", "MyMethod", 3)


def test_a_task_is_a_file(checkpoint, own_family, photos, tmp_path, monkeypatch):
    (tmp_path / "class_mean.py").write_text(EXAMPLES["eval/tasks/class_mean.py"])
    monkeypatch.setattr(selfpatch.eval.tasks, "__path__", [*selfpatch.eval.tasks.__path__, str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    record = evaluate("class_mean", checkpoint, data=photos, resize=32, crop=32)
    assert record.metrics["top-1"] == 100.0  # dark from bright
    assert record.protocol.name == "class-mean@1+resize=32+crop=32"
