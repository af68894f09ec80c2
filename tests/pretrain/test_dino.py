"""DINO: the published loss, centre and schedules, and what the teacher may and may not do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.dino import DINOPretraining
from selfpatch.pretrain.losses import (
    crop_pair_cross_entropy,
    move_center,
    patch_cross_entropy,
    teacher_probabilities,
)
from selfpatch.pretrain.schedules import DINOSchedule, Step, cosine, temperature_at

RECIPE = {"lr": 5e-4, "lr_batch": 256, "min_lr": 1e-6, "weight_decay": 0.04, "weight_decay_end": 0.4}
RECIPE |= {"momentum": 0.996, "momentum_end": 1.0, "teacher_temp_start": 0.04, "teacher_temp": 0.07}
RECIPE |= {"teacher_temp_warmup_epochs": 3, "freeze_last_layer_epochs": 1, "epochs": 12, "warmup_epochs": 3}


def test_golden_loss_and_centre(golden_dino_loss):
    """Four epochs in a row: the loss of each, and the centre that it leaves for the next."""
    recorded = np.load(golden_dino_loss)
    epochs = sorted({int(n.split("/")[0][5:]) for n in recorded.files if n.startswith("epoch")})
    centre = torch.zeros(recorded["epoch0/teacher"].shape[1])
    for epoch in epochs:
        student = torch.from_numpy(recorded[f"epoch{epoch}/student"])
        teacher = torch.from_numpy(recorded[f"epoch{epoch}/teacher"])
        images = len(teacher) // 2
        targets = teacher_probabilities(teacher, centre, temperature_at(epoch, 0.04, 0.07, 3))
        loss = crop_pair_cross_entropy(
            student.unflatten(0, (-1, images)), targets.unflatten(0, (2, images)), temperature=0.1
        )
        move_center(centre, teacher.mean(0))
        assert loss.item() == pytest.approx(float(recorded[f"epoch{epoch}/loss"]), rel=1e-5, abs=1e-5)
        np.testing.assert_allclose(centre, recorded[f"epoch{epoch}/center_after"].ravel(), rtol=1e-5, atol=1e-5)


def test_golden_schedules(golden_dino_loss):
    recorded = np.load(golden_dino_loss)
    schedule = DINOSchedule(7, 256, **RECIPE)
    steps = [schedule.at(i) for i in range(84)]
    assert len(recorded["schedule/lr"]) == 84
    for ours, theirs in (("lr", "lr"), ("weight_decay", "wd"), ("momentum", "momentum")):
        found = [getattr(step, ours) for step in steps]
        np.testing.assert_allclose(found, recorded[f"schedule/{theirs}"], rtol=0, atol=1e-9)


def test_learning_rate_scales_with_the_batch():
    at = DINOSchedule(7, 1024, **RECIPE).at
    assert max(at(i).lr for i in range(84)) == pytest.approx(5e-4 * 4)


def test_last_layers_are_frozen_in_the_first_epoch_only():
    at = DINOSchedule(7, 256, **RECIPE).at
    assert [at(i).last_layers_frozen for i in (0, 6, 7)] == [True, True, False]


@pytest.mark.parametrize("warmup", [0, 1, 5])
def test_warmup_begins_at_zero_and_meets_the_cosine(warmup):
    values = [cosine(i, 1.0, 0.1, 20, warmup) for i in range(20)]
    assert values[0] == (1.0 if warmup == 0 else 0.0)
    assert values[warmup] == 1.0
    assert values == sorted(values[:warmup]) + sorted(values[warmup:], reverse=True)


@pytest.mark.parametrize(("crops", "teachers", "batch"), [(2, 2, 1), (10, 2, 3), (5, 1, 2)])
def test_crop_pairs_against_a_loop(crops, teachers, batch):
    student, targets = torch.randn(crops, batch, 7), torch.randn(teachers, batch, 7).softmax(-1)
    terms = [
        -(targets[q] * (student[v] / 0.1).log_softmax(-1)).sum(-1).mean()
        for q in range(teachers)
        for v in range(crops)
        if v != q
    ]
    torch.testing.assert_close(crop_pair_cross_entropy(student, targets, 0.1), torch.stack(terms).mean())


@pytest.mark.parametrize("patches", [6, 32, 150])  # fewer than, as many as and more than are taken at a time
def test_patches_against_autograd(patches):
    student, teacher = torch.randn(patches, 5, requires_grad=True), torch.randn(patches, 5)
    centre, weights = torch.randn(5), torch.rand(patches)
    found = patch_cross_entropy(student, teacher, centre, weights, 0.1, 0.04)
    (gradient,) = torch.autograd.grad(3 * found, student)
    targets = ((teacher - centre) / 0.04).softmax(-1)
    expected = (-(targets * (student / 0.1).log_softmax(-1)).sum(-1) * weights).sum()
    torch.testing.assert_close(found, expected)
    expected_gradient = torch.autograd.grad(3 * expected, student)[0]
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-4)  # of values up to 30


def test_losses_are_float32_under_autocast():
    student, targets = torch.randn(4, 3, 500), torch.randn(2, 3, 500).softmax(-1)
    patches, teacher, centre, weights = torch.randn(40, 500), torch.randn(40, 500), torch.randn(500), torch.rand(40)

    def losses() -> tuple[torch.Tensor, ...]:
        patch_level = patch_cross_entropy(patches, teacher, centre, weights, 0.1, 0.04)
        return crop_pair_cross_entropy(student, targets, 0.1), patch_level

    with torch.autocast("cpu", torch.bfloat16):
        found = losses()
    assert found == losses()


def dino(**backbone) -> DINOPretraining:
    torch.manual_seed(0)
    network = {"type": "VisionTransformer", "embed_dim": 24, "depth": 2, "heads": 3, "img_size": 64, **backbone}
    return DINOPretraining(network, out_dim=32, hidden_dim=32, bottleneck_dim=8).train()


CROPS = [torch.randn(2, 3, 3, 64, 64), torch.randn(2, 3, 3, 32, 32)]


def test_the_teacher_starts_equal_gets_no_gradient_and_moves_by_momentum():
    method = dino()
    before = {name: value.clone() for name, value in method.student.state_dict().items()}
    assert all(torch.equal(before[name], value) for name, value in method.teacher.state_dict().items())
    method.set_step(0, 0, Step(lr=0, weight_decay=0, momentum=0.9, teacher_temp=0.04))
    method(CROPS)["loss"].backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter += 1
    method.after_step()
    for name, value in method.teacher.state_dict().items():
        torch.testing.assert_close(value, before[name] + 0.1, msg=name)


def test_a_batch_is_centred_by_the_batches_before_it():
    method = dino()
    method.set_step(0, 0, Step(lr=0, weight_decay=0, momentum=1, teacher_temp=0.04))
    first = method(CROPS)["loss"].item()
    assert method.cls_center.abs().sum() > 0
    assert method(CROPS)["loss"].item() != first
    method.cls_center.zero_()
    assert method(CROPS)["loss"].item() == first


def test_drop_path_depends_on_seed_and_iteration_alone():
    method = dino(drop_path_rate=0.5)

    def loss(seed: int, iteration: int) -> float:
        method.cls_center.zero_()
        method.set_step(seed, iteration, Step(lr=0, weight_decay=0, momentum=1, teacher_temp=0.04))
        return method(CROPS)["loss"].item()

    first = loss(0, 0)
    torch.rand(100)  # torch's own generator has no say
    assert loss(0, 0) == first
    assert len({first, loss(0, 1), loss(1, 0)}) == 3


def test_what_is_frozen_at_first_are_the_trained_parts_of_the_last_layers():
    method = dino()
    names = {id(p): name for name, p in method.named_parameters()}
    assert [names[id(p)] for p in method.frozen_at_first()] == ["student.cls_head.last_layer.weight_v"]


@pytest.mark.parametrize(
    ("sizes", "local", "told"),
    [
        ([64, 48], [32], "global crops of 48 and 64 pixels: the teacher's must be of one size"),
        ([64], [], "1 global and 0 local crops"),
        ([], [32, 32], "0 global and 2 local crops"),
        ([64, 64], [8], "a crop of 8 pixels is smaller than a patch of 16"),
    ],
)
def test_crops_that_it_cannot_compare_are_named(sizes, local, told):
    with pytest.raises(UserError, match=told):
        dino().check_crops(sizes, local)


def test_crops_that_it_can_compare():
    for sizes, local in (([64, 64], []), ([64, 64], [64, 32]), ([64], [32])):
        dino().check_crops(sizes, local)


def test_only_global_crops_are_the_teachers():
    """Local crops as large as the global ones are a group of their own, and no targets."""
    method = dino()
    method.set_step(0, 0, Step(lr=0, weight_decay=0, momentum=1, teacher_temp=0.04))
    seen = []
    method.teacher["backbone"].register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    method([torch.randn(2, 3, 3, 64, 64), torch.randn(4, 3, 3, 64, 64)])
    assert seen == [2 * 3]


def test_a_state_of_before_the_buffers_new_names_loads():
    method = dino()
    old = {name.replace("center", "centre"): value + 1 for name, value in method.state_dict().items()}
    assert "cls_centre" in old
    method.load_state_dict(old)
    assert torch.equal(method.cls_center, torch.ones(32))
