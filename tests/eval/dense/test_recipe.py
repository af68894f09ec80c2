"""What decides a training's figures is checked before anything runs: one line for each mistake, wherever it is made."""

import argparse
from pathlib import Path

import pytest
import torch

from selfpatch.eval.dense import recipe
from selfpatch.eval.dense import trainer as training
from selfpatch.pretrain.cli import UserError, command_parser
from selfpatch.pretrain.vit import VisionTransformer

ROOT = Path(__file__).resolve().parents[3]


class Backbone:
    """What a recipe asks of a loaded checkpoint."""

    with torch.device("meta"):
        model = VisionTransformer()
    arch, checkpoint = {**model.arch, "name": "vit-s16"}, Path("x.pth")


def options(*argv: str) -> argparse.Namespace:
    parser = command_parser("")
    recipe.add_arguments(parser, "coco", "mask-rcnn-mini")
    training.add_arguments(parser)
    return parser.parse_args(list(argv))


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        ("--weight-decay -1", "--weight-decay -1: must be 0 or more"),
        ("--seed -1", "--seed -1: must be 0 or more"),
        ("--warmup-iters -5", "--warmup-iters -5: must be 0 or more"),
        ("--warmup-start 0", "--warmup-start 0: must be above 0"),
        ("--iters -5", "either iters or epochs"),
        ("--lr nan", "lr=nan of its recipe is not a number"),
        ("--steps 2", "--steps 2: must be shares of the run"),
        ("--steps 0.9,0.5", "--steps 0.9,0.5: must be shares of the run, between 0 and 1 and rising"),
        ("--steps x", "invalid numbers value: 'x'"),
        ("--frozen-blocks 40", "--frozen-blocks 40: x.pth has 12"),
        ("--taps 3,5,7,12", "--taps 3,5,7,12: count in 12 blocks"),
        ("--taps 3,5,7,-1", "must be numbers of blocks"),
    ],
)
def test_a_parameter_out_of_range_is_refused(argv, reason):
    with pytest.raises(UserError, match=reason):
        recipe.read("coco", options(*argv.split()), Backbone)


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
        training.check(options(*argv.split()))


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
        (BASE + "recipe = dict(name='x')", "unknown in its recipe: name"),
        (BASE + "recipe = dict(lr='fast')", "lr='fast' of its recipe is not a number"),
        (BASE + "recipe = dict(iters=1.5)", "iters=1.5 of its recipe is not a whole number"),
        (BASE + "recipe = dict(batch_size=True)", "batch_size=True of its recipe is not a whole number"),
        (BASE + "recipe = dict(frozen=1)", "frozen=1 of its recipe is not True or False"),
        (BASE + "recipe = dict(steps=0.8)", "steps=0.8 of its recipe is not a tuple of numbers"),
        (BASE + "recipe = dict(taps=(1, 2, 3, 'x'))", "of its recipe is not a tuple of whole numbers"),
        (BASE + "recipe = dict(precision=16)", "precision=16 of its recipe is not a text"),
    ],
)
def test_a_config_that_cannot_be_used_costs_one_line(text, reason, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text + "\n")
    with pytest.raises(UserError, match=reason) as error:
        recipe.read("coco", options("--protocol", str(path)))
    assert "\n" not in str(error.value)
    assert "mine" in str(error.value)


@pytest.mark.parametrize(
    ("task", "protocol"), [(task, name) for task in ("coco", "ade20k") for name in recipe.protocols(task)]
)
def test_every_config_of_ours_is_sound(task, protocol):
    args = options()
    args.protocol = protocol
    assert recipe.read(task, args)[0].startswith(f"{protocol}@")
