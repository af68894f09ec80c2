"""What a pretraining is watched by: entropies of known targets, spread of known tokens, and when a run is warned."""

import logging
import math
from types import SimpleNamespace

import pytest
import torch

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.config import load_config
from selfpatch.pretrain.hooks import WatchTargets, entropy, spread
from selfpatch.pretrain.runner import ReadLosses
from selfpatch.pretrain.train import build_method

UNIFORM = torch.full((8, 16), 1 / 16)
SPREAD_OUT = torch.eye(16)[:8]
ONE_OUTPUT = torch.eye(16)[[3] * 8]


def test_entropy_and_spread_of_what_is_known():
    assert entropy(UNIFORM).tolist() == pytest.approx([math.log(16)] * 8)
    assert entropy(ONE_OUTPUT).abs().max() == 0
    assert spread(torch.ones(5, 7)) == pytest.approx(0, abs=1e-6)
    assert spread(torch.eye(4)) == pytest.approx(1 - 1 / 4)
    assert spread(torch.cat([torch.eye(4), -torch.eye(4)])) == pytest.approx(1)


def watch(targets, caplog, iterations=(9, 19), warmup=0) -> tuple[dict, list[str]]:
    """What the hook logs and warns of at these iterations, with given targets."""
    logged = {}
    method = SimpleNamespace(
        data_preprocessor=lambda data: data, diagnose=lambda images: (torch.eye(4)[None], {"cls": targets})
    )
    hub = SimpleNamespace(update_scalar=logged.__setitem__)
    hook = WatchTargets(interval=10, warmup=warmup)
    for number in iterations:
        runner = SimpleNamespace(model=method, iter=number, message_hub=hub, logger=logging.getLogger("watched"))
        hook.after_train_iter(runner, 0, {"crops": [torch.zeros(2, 4, 3, 8, 8)]})
    return logged, [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("targets", "share", "groups", "told"),
    [
        (UNIFORM, 1, 1, "the teacher's cls targets have grown uniform (entropy 1.00 of ln 16)"),
        (ONE_OUTPUT, 0, 1, "the teacher's cls targets have collapsed: all images have the same one"),
        (SPREAD_OUT, 0, 8, None),
    ],
)
def test_uniform_and_collapsed_targets_are_named_once(caplog, targets, share, groups, told):
    logged, lines = watch(targets, caplog)
    assert logged == {
        "train/token_spread": pytest.approx(0.75),
        "train/cls_entropy": pytest.approx(share),
        "train/cls_groups": pytest.approx(groups),
    }
    assert [line.startswith(told) for line in lines] == ([True] if told else [])


def test_targets_that_start_uniform_are_no_warning(caplog):
    assert watch(UNIFORM, caplog, warmup=20)[1] == []


def test_nothing_is_looked_at_between_the_lines_of_the_log(caplog):
    assert watch(UNIFORM, caplog, iterations=(0, 5, 8))[0] == {}


@pytest.mark.parametrize("name", ["dino_toy", "selfpatch_toy", "moby_toy"])
def test_every_method_can_be_watched(name):
    torch.manual_seed(0)
    method = build_method(load_config(name))
    tokens, targets = method.diagnose(torch.randn(2, 3, 64, 64))
    assert tokens.shape == (2, 64, 96)
    assert not tokens.requires_grad
    assert set(targets) == {"dino_toy": {"cls"}, "selfpatch_toy": {"cls", "patch"}, "moby_toy": set()}[name]
    for probabilities in targets.values():
        torch.testing.assert_close(probabilities.sum(1), torch.ones(len(probabilities)))


class OnGPU(torch.Tensor):
    """Stands in for a number of a GPU."""

    is_cuda = True


def steps_of(hook: ReadLosses, losses: list[float], logged: list[tuple[str, float]]) -> None:
    hub = SimpleNamespace(update_scalar=lambda name, value: logged.append((name, value)))
    for number, loss in enumerate(losses):
        runner = SimpleNamespace(
            iter=number,
            message_hub=hub,
            work_dir="nowhere",
            train_dataloader=range(100),
            optim_wrapper=SimpleNamespace(grad_norm=torch.tensor(2.0)),
        )
        hook.after_train_iter(runner, number, outputs={"loss": torch.tensor(loss).as_subclass(OnGPU)})


def test_a_gpu_is_asked_for_its_losses_only_when_they_are_logged():
    logged, hook = [], ReadLosses(interval=3, advice="be steady")
    steps_of(hook, [1.0, 2.0], logged)
    assert not logged
    steps_of(hook, [1.0, 2.0, 3.0], logged := [])
    assert [value for name, value in logged if name == "train/loss"] == [1, 2, 1, 2, 3]
    assert logged[-1] == ("train/grad_norm", 2)


def test_the_first_loss_that_is_not_finite_is_named():
    logged = []
    with pytest.raises(UserError, match=r"not finite at iteration 2: no checkpoint .*; be steady"):
        steps_of(ReadLosses(interval=3, advice="be steady"), [1.0, math.nan, math.inf], logged)
    assert [value for name, value in logged if name == "train/loss"] == [1]
