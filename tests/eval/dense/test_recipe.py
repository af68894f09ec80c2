"""What decides a training's figures is checked before anything runs: one line for each mistake, wherever it is made."""

import dataclasses
from pathlib import Path

import pytest
import torch

from selfpatch.eval.checkpoints.families import FAMILIES
from selfpatch.eval.checkpoints.load import load_backbone
from selfpatch.eval.dense import recipe
from selfpatch.eval.dense import trainer as training
from selfpatch.eval.dense.recipe import TrainingSettings
from selfpatch.pretrain.checkpoint import save_file
from selfpatch.pretrain.cli import UserError, command_parser
from selfpatch.pretrain.settings import add_options, from_options
from selfpatch.pretrain.vit import VisionTransformer

ROOT = Path(__file__).resolve().parents[3]


class Backbone:
    """What a recipe asks of a loaded checkpoint."""

    with torch.device("meta"):
        model = VisionTransformer()
    arch, checkpoint, tap_norm = {**model.arch, "name": "vit-s16"}, Path("x.pth"), False


def options(*argv: str) -> TrainingSettings:
    parser = command_parser("")
    add_options(parser, TrainingSettings)
    return from_options(TrainingSettings, parser.parse_args(argv))


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        ("--weight-decay -1", "--weight-decay -1: must be 0 or more"),
        ("--seed -1", "--seed -1: must be 0 or more"),
        ("--warmup-iters -5", "--warmup-iters -5: must be 0 or more"),
        ("--warmup-start 0", "--warmup-start 0: must be above 0 and at most 1"),
        ("--iters -5", "--iters -5: must be 0 or more"),
        ("--iters 0", "either iters or epochs"),
        ("--iters 5 --epochs 1", "either iters or epochs"),
        ("--lr nan", "--lr nan: must be finite"),
        ("--steps 2", "--steps 2: must be above 0 and below 1"),
        ("--steps 0.9,0.5", "--steps 0.9,0.5: must be shares of the run, between 0 and 1 and rising"),
        ("--steps x", "--steps x: expected numbers"),
        ("--frozen-blocks 40", "--frozen-blocks 40: x.pth has 12"),
        ("--taps 3,5,7,12", "--taps 3,5,7,12: must be from 0 to below 12"),
        ("--taps 3,5,7,-1", "--taps 3,5,7,-1: must be from 0 to below 12"),
    ],
)
def test_a_parameter_out_of_range_is_refused(argv, reason):
    with pytest.raises(UserError, match=reason):
        recipe.read("coco", "mask-rcnn-mini", options(*argv.split()), Backbone)


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        ("--workers -1", "--workers -1: must be 0 or more"),
        ("--gpus 0", "--gpus 0: must be 1 or more"),
        ("--accumulate 0", "--accumulate 0: must be 1 or more"),
        ("--launcher pytorch", "WORLD_SIZE is not set, so torchrun did not start this process"),
        ("--launcher slurm", "SLURM_NTASKS is not set, so srun did not start this process"),
    ],
)
def test_a_way_of_running_that_cannot_be_is_refused(argv, reason, monkeypatch):
    for name in ("WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=reason):
        training.processes_of(options(*argv.split()))


BASE = f"_base_ = ['{ROOT}/configs/coco/mask-rcnn-mini.py']\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = (", "is no config that can be read .SyntaxError"),
        ("_base_ = ['nowhere.py']", "is no config that can be read .FileNotFoundError"),
        ("x = 1 / 0", "is no config that can be read .ZeroDivisionError"),
        ("a = 1", "has no recipe=dict"),
        ("recipe = 3", "has no recipe=dict"),
        ("recipe = dict(lr=0.1)", "has no recipe=dict.version="),
        (BASE + "insists = 3", "has no recipe=dict|insists"),
        (BASE + "recipe = dict(name='x')", "mine.py: unknown config key recipe.name"),
        (BASE + "recipe = dict(lr='fast')", "recipe.lr='fast': expected a number"),
        (BASE + "recipe = dict(iters=1.5)", "recipe.iters=1.5: expected a whole number"),
        (BASE + "recipe = dict(batch_size=True)", "recipe.batch_size=True: expected a whole number"),
        (BASE + "recipe = dict(frozen=1)", "recipe.frozen=1: expected True or False"),
        (BASE + "recipe = dict(steps=0.8)", "recipe.steps=0.8: expected numbers in brackets"),
        (BASE + "recipe = dict(taps=(1, 2, 3, 'x'))", "recipe.taps=.*: expected whole numbers in brackets"),
        (BASE + "recipe = dict(precision=16)", "recipe.precision=16: choose fp32 or bf16"),
    ],
)
def test_a_config_that_cannot_be_used_costs_one_line(text, reason, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text + "\n")
    with pytest.raises(UserError, match=reason) as error:
        recipe.read("coco", str(path), options())
    assert "\n" not in str(error.value)
    assert "mine" in str(error.value)


@pytest.mark.parametrize(
    ("task", "protocol"), [(task, name) for task in ("coco", "ade20k") for name in recipe.protocols(task)]
)
def test_every_config_of_ours_is_sound(task, protocol):
    assert recipe.read(task, protocol, options())[0].startswith(f"{protocol}@")


@pytest.mark.parametrize(
    ("protocol", "argv", "suffix"),
    [
        ("semantic-fpn-40k", (), "+tap_norm=True"),
        ("semantic-fpn-40k", ("--no-tap-norm",), ""),
        ("semantic-fpn-mini", (), ""),  # it has a norm of its own
    ],
)
@pytest.mark.parametrize("authors_do", [True, False])
def test_taps_are_normalised_where_the_authors_do_and_the_name_says_so(tmp_path, protocol, argv, suffix, authors_do):
    torch.manual_seed(0)
    model = VisionTransformer(embed_dim=32, depth=4, heads=2)
    state = {f"teacher.backbone.{name}": tensor for name, tensor in model.state_dict().items()}
    save_file({"state_dict": state, "meta": {"method": "x", "arch": model.arch, "epoch": 0}}, tmp_path / "vit.pth")
    backbone = dataclasses.replace(load_backbone(tmp_path / "vit.pth"), tap_norm=authors_do)
    name, found, _ = recipe.read("ade20k", protocol, options(*argv), backbone)
    assert name.partition("@")[2][1:] == (suffix if authors_do else "")
    assert found.tap_norm == (authors_do and bool(suffix))


def test_the_authors_of_dinov2_and_dinov3_normalise_their_taps_and_no_others():
    normed = {family.name for family in FAMILIES if family.tap_norm}
    assert normed >= {"dinov2", "dinov2-backbone"}
    assert normed == {family.name for family in FAMILIES if family.method in ("DINOv2", "DINOv3")}
