"""The linear probe: the optimum of a convex problem, a penalty chosen without the scored images, a record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from labelled_textures import write_classes

from selfpatch.eval.tasks import linear
from selfpatch.pretrain.cli import UserError


def blobs(each: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.eye(3, 5)
    return (
        torch.cat([centre + torch.randn(each, 5, generator=generator) for centre in centres]),
        torch.arange(3).repeat_interleave(each),
    )


@pytest.mark.parametrize("decay", [1e-1, 1e-3])
@pytest.mark.parametrize("rows", [10, 1 << 20])
def test_the_fit_is_where_the_gradient_vanishes(monkeypatch, decay, rows):
    monkeypatch.setattr(linear, "LOGITS", rows)
    inputs, labels = blobs(30)
    weights = linear.fit(inputs, labels, torch.zeros(6, 3), decay)
    plain = weights.double().requires_grad_()
    scores = inputs.double() @ plain[:-1] + plain[-1]
    (F.cross_entropy(scores, labels) + decay / 2 * plain[:-1].square().sum()).backward()
    assert plain.grad.abs().max() < 5e-4  # what float32 leaves differs between processors
    assert weights.abs().max() > 0.1


def test_the_start_does_not_matter():
    inputs, labels = blobs(30)
    one = linear.fit(inputs, labels, torch.zeros(6, 3), 1e-2)
    other = linear.fit(inputs, labels, torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), 1e-2)
    torch.testing.assert_close(
        linear.logits(inputs, one).softmax(1), linear.logits(inputs, other).softmax(1), atol=1e-3, rtol=0
    )


def test_the_penalty_is_chosen_on_held_out_images_and_of_equals_the_strongest():
    inputs, labels = blobs(40)
    easy, _, said = linear.choose(50 * inputs.round(), labels, torch.zeros(6, 3))
    assert easy in linear.DECAYS
    assert "held-out" in said
    separate = F.one_hot(labels, 3).float()
    assert linear.choose(separate, labels, torch.zeros(4, 3))[0] == linear.DECAYS[0]


def test_a_record_tells_the_protocol_and_the_chosen_penalty(evaluate):
    record = evaluate("linear")
    assert record["protocol"]["name"] == "linear-logistic@1+resize=36+crop=32"
    assert record["protocol"]["parameters"]["weight_decay"] == list(linear.DECAYS)
    assert record["notes"][0].startswith("weight decay ")
    units = np.load(Path(record["path"]).with_suffix(".npz"))
    assert record["metrics"] == {"top-1": pytest.approx(100 * units["top-1"].mean())}
    assert record["metrics"]["top-1"] > 80


def test_a_given_penalty_is_part_of_the_protocol(evaluate):
    record = evaluate("linear", "--decay", "0.01")
    assert record["protocol"]["name"].endswith("+decay=0.01")
    assert record["notes"] == []


def test_more_than_five_classes_give_top_5(evaluate, tmp_path):
    for number in range(3):
        write_classes(tmp_path / "many" / str(number), each=4, seed=number)
    for number, folder in enumerate(sorted((tmp_path / "many").glob("*/*"))):
        folder.rename(tmp_path / "many" / f"class{number}")
    for number in range(3):
        (tmp_path / "many" / str(number)).rmdir()
    metrics = evaluate("linear", "--decay", "0.1", data=tmp_path / "many")["metrics"]
    assert metrics.keys() == {"top-1", "top-5"}
    assert metrics["top-5"] >= metrics["top-1"]


@pytest.mark.parametrize("decay", ["0", "-1", "inf"])
def test_a_penalty_out_of_range_costs_one_line(evaluate, decay):
    with pytest.raises(UserError, match="--decay"):
        evaluate("linear", f"--decay={decay}")


def test_one_training_image_a_class_needs_a_given_penalty(evaluate, tmp_path):
    data = write_classes(tmp_path / "pairs", each=2)
    with pytest.raises(UserError, match="give a --decay"):
        evaluate("linear", data=data)
    assert evaluate("linear", "--decay", "0.1", data=data)["metrics"]
