"""Calibration: verdicts of known records, an untrained twin, what is refused; and that the small protocols measure."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch

from selfpatch.eval.checkpoints.load import load_backbone
from selfpatch.eval.dense import recipe
from selfpatch.eval.studies import calibrate
from selfpatch.eval.studies.calibrate import Instrument, instruments, to_markdown
from selfpatch.pretrain.checkpoint import save_file
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.vit import VisionTransformer
from selfpatch.reports.record import Record

TEXTS = ("dataset_fingerprint", "split", "checkpoint", "checkpoint_sha256", "weights_sha256", "device", "started")


def record_of(folder: Path, method: str, scores: np.ndarray) -> Record:
    """A DAVIS record of sequences with these J&F, in 0..1."""
    names = np.repeat([f"s{i}" for i in range(len(scores))], 3)
    values = np.repeat(scores, 3)
    units = {"sequence": names, "object": np.ones(len(names), int), "frame": np.tile([1, 2, 3], len(scores))}
    fields = dict.fromkeys(TEXTS, method) | {"dataset_fingerprint": "x", "split": "val"}
    fields |= {"certificate": [], "notes": [], "versions": {}, "config": None, "seed": 0, "pretrain_epochs": 1}
    fields |= {"task": "davis", "dataset": "small", "method": method, "arch": {"name": "vit"}, "seconds": 2.0}
    fields |= {"protocol": {"name": "p@1", "parameters": {}}, "miniature": True}
    fields |= {"metrics": {"J&F": 100 * float(scores.mean())}}
    return Record.model_validate(fields).write(folder, {**units, "J": values, "F": values})


@pytest.mark.parametrize(
    ("good", "verdict"),
    [
        ([0.6, 0.7, 0.8, 0.7], "measures"),
        ([0.1, 0.2, 0.3, 0.2], "upside down"),
        ([0.1, 0.7, 0.3, 0.6], "cannot tell"),
    ],
)
def test_each_protocol_gets_its_verdict(tmp_path, monkeypatch, good, verdict):
    records = {
        "good.pth": record_of(tmp_path / "a", "good", np.array(good)),
        "other.pth": record_of(tmp_path / "b", "Random", np.array([0.4, 0.4, 0.5, 0.5])),
    }
    monkeypatch.setattr(calibrate, "score", lambda instrument, path, args: records[path.name])
    (row,) = calibrate.calibrate(Instrument("davis"), Path("good.pth"), Path("other.pth"), argparse.Namespace())
    assert row["verdict"] == verdict
    assert row["difference"] == pytest.approx(100 * (np.mean(good) - 0.45))
    cells = [cell.strip() for cell in to_markdown([row]).splitlines()[-1].split("|")[1:-1]]
    assert cells[:5] == ["`p@1`", "small", "J&F", f"{100 * np.mean(good):.1f}", "45.0"]
    assert cells[6:] == [verdict, "2 + 2"]


def checkpoint(path: Path, **options) -> Path:
    torch.manual_seed(1)
    model = VisionTransformer(**{"embed_dim": 32, "depth": 2, "heads": 2, "img_size": 64, **options})
    state = {f"teacher.backbone.{name}": tensor for name, tensor in model.state_dict().items()}
    save_file({"state_dict": state, "meta": {"method": "DINO", "arch": model.arch, "epoch": 9, "seed": 1}}, path)
    return path


@pytest.mark.parametrize("options", [{}, {"cls_token": False, "final_norm": False}, {"layer_scale": 0.1}])
def test_the_untrained_twin_is_of_the_same_architecture_and_holds_other_weights(tmp_path, options):
    good = load_backbone(checkpoint(tmp_path / "good.pth", **options))
    twin = load_backbone(calibrate.save_untrained(good, tmp_path))
    calibrate.check_pair(good, twin)
    assert (twin.method, twin.epoch) == ("Random", 0)
    fixed = [name for name in good.state if "norm" in name or name.endswith("bias") or "cls_token" in name]
    for name in good.state.keys() - set(fixed):
        assert not torch.equal(good.state[name], twin.state[name]), name
    assert calibrate.untrained(good).state_dict().keys() == good.state.keys()
    again = calibrate.untrained(good).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in twin.state.items())


def test_networks_of_different_architectures_are_one_line(tmp_path):
    good, other = checkpoint(tmp_path / "good.pth"), checkpoint(tmp_path / "other.pth", depth=3)
    words = [str(good), str(other), "--davis", str(tmp_path), "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match=r"of different architectures \(depth 2 and 3\)"):
        calibrate.check_pair(load_backbone(good), load_backbone(other))
    with pytest.raises(UserError):
        calibrate.main(words)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--protocols", "ade20k/semantic"], "--protocols ade20k/semantic: choose from davis, "),
        ([], "there is no data to calibrate on"),
        (["--protocols", "davis", "--davis", "empty"], "empty"),
        (["--protocols", "ade20k/semantic-fpn-mini", "--ade20k", "empty"], "empty"),
    ],
)
def test_what_cannot_be_calibrated_is_one_line(tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=told) as raised:
        calibrate.main([str(checkpoint(tmp_path / "good.pth")), *words])
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "work_dirs").exists()


def test_every_small_protocol_is_an_instrument():
    names = [instrument.name for instrument in instruments("mini")]
    assert {"davis", "ade20k/semantic-fpn-mini", "ade20k/upernet-mini", "ade20k/linear-mini"} <= set(names)
    assert {"coco/mask-rcnn-mini", "knn", "linear"} <= set(names)
    assert "coco/mask-rcnn-fast" in [instrument.name for instrument in instruments("fast")]


@pytest.mark.parametrize("size", ["mini", "fast"])
def test_small_protocols_train_nothing_of_the_backbone_and_norm_the_taps_of_all_families_alike(size):
    trained = [one for one in instruments(size) if one.protocol in recipe.protocols(one.task)]
    assert len(trained) >= 2
    for one in trained:
        _, found, _ = recipe.read(one.task, one.protocol, recipe.TrainingSettings())
        assert (found.frozen, found.tap_layernorm, found.tap_norm) == (True, True, False), one.name


SHORT = [  # one protocol a task, small enough for a test
    Instrument("davis", None, ("--short-side", "140", "--sequences", "blackswan,car-shadow,libby")),
    Instrument("ade20k", "dense-knn", ("--crop", "112")),
    Instrument("coco", "mask-rcnn-mini", ("--iters", "25", "--warmup-iters", "3")),
]


@pytest.mark.parametrize("instrument", SHORT, ids=lambda instrument: instrument.task)
def test_a_short_protocol_of_each_task_ranks_real_weights_above_untrained_ones(instrument, data_root, tmp_path):
    good = data_root / "vit-s14/model.safetensors"
    twin = calibrate.save_untrained(load_backbone(good), tmp_path)
    places = {"davis": "davis-mini", "ade20k": "ade-mini", "coco": "coco-mini"}
    args = argparse.Namespace(out=tmp_path, images=data_root / "davis-mini/JPEGImages/480p")
    vars(args).update({name: data_root / folder for name, folder in places.items()})
    rows = calibrate.calibrate(instrument, good, twin, args)
    assert [row["verdict"] for row in rows[:1]] == ["measures"], to_markdown(rows)
