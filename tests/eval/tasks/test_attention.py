"""The task and the command: which patches are asked, what the record holds, which pictures appear."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from selfpatch.eval import run
from selfpatch.eval.studies import attention as command
from selfpatch.eval.tasks import attention
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.vit import VisionTransformer


@pytest.fixture
def world(tmp_path):
    """Two checkpoints, a folder of images, and a small ADE20K tree with masks."""
    for name, seed in (("a", 0), ("b", 1)):
        torch.manual_seed(seed)
        model = VisionTransformer(embed_dim=24, depth=2, heads=3, img_size=32, patch_size=8)
        (tmp_path / name).mkdir()
        meta = {"method": "DINO", "arch": model.arch, "epoch": 1}
        state = {f"teacher.backbone.{key}": value for key, value in model.state_dict().items()}
        torch.save({"meta": meta, "state_dict": state}, tmp_path / name / "x.pth")
    rng = np.random.default_rng(0)
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (tmp_path / "ade" / kind / split).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(rng.integers(0, 255, (40, 56, 3), dtype=np.uint8)).save(
                tmp_path / f"ade/images/{split}/{i}.png"
            )
            labels = np.zeros((40, 56), np.uint8)
            labels[8:24, 16:40] = 1
            labels[30:, :16] = 2
            Image.fromarray(labels).save(tmp_path / f"ade/annotations/{split}/{i}.png")
    (tmp_path / "ade/classes.json").write_text(json.dumps(["wall", "sky"]))
    return tmp_path


def test_queries_lie_on_and_off_objects():
    labels = np.array([[0, 0, 1, 1], [0, 255, 1, 1], [0, 0, 2, 2]])
    chosen = attention.choose_queries(labels, labels.shape, 2)
    assert [labels.ravel()[n] != 0 for n in chosen] == [True, True, False, False]
    assert len(set(attention.choose_queries(labels, labels.shape, 50))) == 11  # all but the void one
    assert attention.choose_queries(None, (4, 4), 2).tolist() == [5, 7, 13, 15]


def test_a_record_holds_every_block_and_head_and_what_evenly_spread_attention_would_give(world):
    settings = {"data": world / "ade", "short_side": 40, "queries": 3}
    record = run.evaluate("attention", world / "a/x.pth", records=world / "records", out=world / "out", **settings)
    assert list(record.overall) == ["similarity", "own object"]
    assert len([name for name in record.metrics if name.startswith("similarity/")]) == 2 * (1 + 3)
    assert record.metrics["own object/block 1 all heads averaged"] == pytest.approx(record.metrics["own object"])
    assert 0 < record.metrics["distance px/block 0 head 1"] < np.hypot(40, 56)
    assert "spread evenly would leave" in record.notes[0]
    untrained = float(record.notes[0].split("leave ")[1].split(" %")[0])
    assert record.metrics["own object"] == pytest.approx(untrained, abs=5)  # it knows nothing of objects
    assert record.protocol.name == "attention@1+short_side=40+queries=3"


def test_a_folder_without_masks_has_no_own_object(world):
    images = world / "ade/images/training"
    record = run.evaluate(
        "attention", world / "a/x.pth", records=world / "records", out=world / "out", data=images, short_side=40
    )
    assert list(record.overall) == ["similarity"]
    assert record.dataset == "training"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"block": 7}, "--block 7: .* has 0 … 1"),
        ({"short_side": 8}, "--short-side 8 leaves 1x1 patches"),
        ({"data": "nowhere"}, "nowhere is missing"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(world, settings, told):
    with pytest.raises(UserError, match=told):
        run.evaluate(
            "attention", world / "a/x.pth", records=world / "r", out=world, **{"data": world / "ade"} | settings
        )


def test_the_command_draws_checkpoints_side_by_side_and_compares_them(world, capsys):
    hostile = "<b>&$x_1"
    names = [f"{hostile}={world}/a/x.pth", f"{world}/b/x.pth"]
    options = ["--images", world / "ade", "--short-side", 40, "--pictures", 1, "--query", "3,4", "--query", "50,39"]
    command.main([*names, *map(str, options), "--out", str(world / "out"), "--records", str(world / "records")])
    made = sorted(path.name for path in (world / "out").glob("*.png"))
    assert made == ["0.png-attention.png", "0.png-heads-_b_x_1.png", "0.png-heads-b.png", "pca.png"]
    assert f"b against {hostile}: similarity" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--query 56,0 lies outside .* which is 56x40"):
        command.main([names[1], *map(str, [*options[:4], "--query", "56,0"]), "--out", str(world / "o")])


@pytest.mark.parametrize("words", [["--query", "1;2"], ["--pictures", "0"], ["y/x.pth"]])
def test_a_mistake_costs_one_line(words, tmp_path):
    call = [sys.executable, "-m", "selfpatch.eval.studies.attention", "y/x.pth", "--images", ".", *words]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
