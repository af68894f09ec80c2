"""MoBY: the recorded steps of its authors' code, alone and shared by processes; SelfPatch on top of it."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import golden_moby
import moby_plain as plain
import numpy as np
import pytest
import torch

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.contrastive import ContrastiveHead, KeyQueue, SyncBatchNorm, info_nce
from selfpatch.pretrain.moby import MoBYPretraining, by_view
from selfpatch.pretrain.moby_selfpatch import MoBYSelfPatchPretraining
from selfpatch.pretrain.optim import PretrainOptimWrapper
from selfpatch.pretrain.schedules import MoBYSchedule, Step
from selfpatch.pretrain.settings import arguments, check
from selfpatch.pretrain.vit import VisionTransformer

SCRIPT = Path(golden_moby.__file__)


# --- the recorded steps ----------------------------------------------------------------------------------------------


def test_golden_moby_steps(golden_moby_):
    """Losses, queues, pointer, both networks' weights and batch statistics after every recorded step."""
    recorded = np.load(golden_moby_)
    taken = golden_moby.take_steps(recorded)
    assert len(taken) == len(golden_moby.steps_of(recorded)) >= 2
    for i, step in enumerate(taken):
        np.testing.assert_allclose(step["loss"], recorded[f"step{i}/loss"], rtol=1e-5)
        np.testing.assert_array_equal(step["state"]["queue1.pointer"], recorded[f"step{i}/queue_ptr"])
        names = [name for name in recorded.files if name.startswith(f"after{i}/")]
        ours = {golden_moby.our_name(name.partition("/")[2]) for name in names}
        assert ours == step["state"].keys() - {"queue2.pointer"}
        for name in names:
            found = step["state"][golden_moby.our_name(name.partition("/")[2])]
            np.testing.assert_allclose(found, recorded[name], rtol=0, atol=1e-5, err_msg=name)


def run_processes(world: int, *arguments: str) -> None:
    """Run ``golden_moby.py`` in as many processes, joined by gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(world):
        place = {"RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in place.items()}}
        processes.append(subprocess.Popen([sys.executable, str(SCRIPT), *arguments], env=environment))
    assert [process.wait(timeout=240) for process in processes] == [0] * world


def test_golden_moby_steps_shared_by_two_processes(golden_moby_, tmp_path):
    """Half a batch each: the same losses, queues (in the same order), weights and batch statistics as one process."""
    recorded = np.load(golden_moby_)
    if len(recorded["step0/view1"]) % 2:
        pytest.skip("an odd batch cannot be shared by two")
    run_processes(2, str(golden_moby_), str(tmp_path / "taken.pt"))
    shared, alone = torch.load(tmp_path / "taken.pt", weights_only=True), golden_moby.take_steps(recorded)
    for ours, one in zip(shared, alone):
        assert ours["loss"] == pytest.approx(one["loss"], rel=1e-5)
        for name, expected in one["state"].items():
            torch.testing.assert_close(ours["state"][name], expected, rtol=0, atol=1e-5, msg=name)


# --- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 8, 11])  # of a queue of 8: dividing it or not, longer than it
def test_a_queue_holds_the_latest_keys_whatever_the_batch(batch):
    queue, seen = KeyQueue(dim=2, length=8), list(range(-8, 0))
    queue.keys.copy_(torch.tensor([seen, seen]))
    for step in range(5):
        keys = torch.arange(step * batch, (step + 1) * batch).float()
        queue.push(keys.unsqueeze(1).expand(-1, 2))
        seen += keys.tolist()
        assert queue.pointer.item() == len(seen) % 8
        assert queue.keys[0].roll(-queue.pointer.item()).tolist() == seen[-8:]  # the oldest is next to go


def test_a_queue_starts_as_unit_columns():
    torch.testing.assert_close(KeyQueue(16, 32).keys.norm(dim=0), torch.ones(32))


def test_info_nce_is_the_cross_entropy_of_the_positive():
    q, k = (torch.nn.functional.normalize(torch.randn(5, 6), dim=1) for _ in range(2))
    negatives = torch.nn.functional.normalize(torch.randn(6, 9), dim=0)
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ negatives], dim=1) / 0.2
    expected = torch.nn.functional.cross_entropy(logits, torch.zeros(5, dtype=torch.long))
    torch.testing.assert_close(info_nce(q, k, negatives, 0.2), expected)


def test_the_head_normalises_its_hidden_layer_alone():
    head = ContrastiveHead(4, 8, 3)
    assert [type(part) for part in head.children()] == [torch.nn.Linear, SyncBatchNorm, torch.nn.Linear]
    assert (head.norm.eps, head.norm.momentum) == (1e-5, 0.1)


def test_the_schedule_is_the_published_one():
    schedule = MoBYSchedule(
        10, 256, epochs=30, warmup_epochs=5, lr=1e-3, lr_batch=512, warmup_lr=5e-7, min_lr=5e-6, weight_decay=0.05,
        momentum=0.99, momentum_end=1.0,
    )  # fmt: skip

    def s(t):  # at half the batch, half the rates
        if t < 50:
            return 2.5e-7 + t * (5e-4 - 2.5e-7) / 50
        return 2.5e-6 + 0.5 * (5e-4 - 2.5e-6) * (1 + math.cos(math.pi * t / 300))

    for i in range(300):
        step = schedule.at(i)
        assert step.lr == pytest.approx(s(max(0, i - 1)), rel=1e-12)
        assert step.momentum == pytest.approx(1 - 0.01 * (math.cos(math.pi * i / 300) + 1) / 2, rel=1e-12)
        assert step.weight_decay == 0.05


# --- the method ------------------------------------------------------------------------------------------------------

VIEWS = [torch.randn(2, 3, 3, 64, 64)]
BACKBONE = {"type": "VisionTransformer", "embed_dim": 24, "depth": 2, "heads": 3, "img_size": 64}
HEADS = {"hidden_dim": 32, "out_dim": 8, "queue": 7}


def moby(**options) -> MoBYPretraining:
    torch.manual_seed(0)
    return MoBYPretraining({**BACKBONE, "drop_path_rate": 0.2}, **{**HEADS, **options}).train()


def moby_selfpatch(**options) -> MoBYSelfPatchPretraining:
    torch.manual_seed(0)
    backbone = {**BACKBONE, "cls_token": False, "final_norm": False}
    return MoBYSelfPatchPretraining({**backbone, **options.pop("backbone", {})}, **{**HEADS, **options}).train()


def step(momentum: float) -> Step:
    return Step(lr=0.0, weight_decay=0.0, momentum=momentum, teacher_temp=1.0)


def test_steps_equal_the_plain_formulation():
    """Three steps with clipping: losses, queues and weights."""
    method = moby(queue=6)
    method.student["backbone"].blocks[1].drop_path.rate = 0.0
    options = {name: value for name, value in BACKBONE.items() if name != "type"}
    model = plain.PlainMoBY(VisionTransformer(**options), total=10, **{**HEADS, "queue": 6}).train()
    model.encoder.load_state_dict(method.student["backbone"].state_dict())
    model.encoder_k.load_state_dict(method.teacher["backbone"].state_dict())
    for theirs, ours in (
        (model.projector, method.student["projector"]),
        (model.projector_k, method.teacher["projector"]),
        (model.predictor, method.student["predictor"]),
    ):
        theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values())))
    model.queue1.copy_(method.queue1.keys)
    model.queue2.copy_(method.queue2.keys)
    # plain SGD: AdamW would make steps of the noise that a gradient of zero leaves
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = PretrainOptimWrapper(torch.optim.SGD(method.student.parameters(), lr=0.1), clip=0.5, per_parameter=False)
    for i in range(3):
        views = torch.randn(2, 3, 3, 64, 64)
        method.set_step(0, i, step(1 - 0.01 * (math.cos(math.pi * i / 10) + 1) / 2))
        loss = method([views])["loss"]
        wrapper.update_params(loss)
        expected = plain.plain_step(model, optimiser, *views, clip=0.5)
        torch.testing.assert_close(loss.detach(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(method.queue1.keys, model.queue1, rtol=0, atol=1e-5)
        torch.testing.assert_close(method.queue2.keys, model.queue2, rtol=0, atol=1e-5)
    for (name, ours), theirs in zip(method.student["backbone"].named_parameters(), model.encoder.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5, msg=name)


def test_the_key_network_is_a_copy_without_predictor_and_drop_path():
    method = moby()
    assert set(method.teacher) == {"backbone", "projector"}
    assert method.backbone is method.student["backbone"]
    state = method.student.state_dict()
    for name, tensor in method.teacher.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert [block.drop_path.rate for block in method.student["backbone"].blocks] == pytest.approx([0, 0.2])
    assert all(block.drop_path.rate == 0 for block in method.teacher["backbone"].blocks)
    assert not any(p.requires_grad for p in method.teacher.parameters())
    assert method.teacher.training  # its batch norms see their own batch


def test_keys_move_before_they_are_computed():
    """With momentum 0 the key network is the online one: without drop path, k equals the online projection."""
    method = moby()
    torch.nn.init.normal_(method.student["backbone"].patch_embed.proj.weight, std=0.05)  # the two differ now
    method.set_step(0, 0, step(momentum=0.0))
    method(VIEWS)
    expected = method.keys(by_view(method.teacher["backbone"](VIEWS[0].flatten(0, 1))[0], VIEWS[0]))[0]
    for part in ("backbone", "projector"):
        ours, theirs = method.teacher[part].parameters(), method.student[part].parameters()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs))
    torch.testing.assert_close(method.queue1.keys[:, :3].T, expected)


def test_only_parameters_move_with_momentum():
    method = moby()
    before = method.teacher["projector"].norm.running_mean.clone()
    method.set_step(0, 0, step(momentum=1.0))
    method(VIEWS)
    assert method.teacher["projector"].norm.num_batches_tracked == 2  # one pass a view
    assert method.student["predictor"].norm.num_batches_tracked == 2
    assert not torch.equal(method.teacher["projector"].norm.running_mean, before)


def test_drop_path_is_drawn_from_an_address():
    method = moby()
    method.set_step(0, 5, step(1.0))
    first, again = (method.noise(VIEWS[0], 0) for _ in range(2))
    assert torch.equal(first, again)
    method.set_step(0, 6, step(1.0))
    assert not torch.equal(first, method.noise(VIEWS[0], 0))


def test_views_of_two_sizes_are_compared():
    method = moby()
    parts = method([torch.randn(1, 3, 3, 64, 64), torch.randn(1, 3, 3, 48, 48)])
    parts["loss"].backward()
    assert parts["loss"].isfinite()


def test_anything_but_two_views_is_named():
    with pytest.raises(UserError, match=r"two views .* give 3"):
        moby().check_crops([224, 224], [96])
    moby().check_crops([224, 224])


@pytest.mark.parametrize("negatives", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"aggregation": "mean"}, {"neighbourhood": "all", "k": 8}, {"patch_loss_weight": 0.5}], ids=str
)
def test_selfpatch_on_moby_trains_its_patch_level(negatives, options):
    method = moby_selfpatch(negatives=negatives, patch_queue=10, **options)
    assert method.display_name == f"MoBY+SelfPatch ({'with negatives' if negatives else 'positives only'})"
    method.set_step(0, 0, step(0.99))
    parts = method(VIEWS)
    assert set(parts) == {"loss", "image", "patch"}
    assert parts["loss"].item() == pytest.approx((parts["image"] + method.patch_loss_weight * parts["patch"]).item())
    parts["loss"].backward()
    for name, parameter in method.student.named_parameters():
        assert parameter.grad is not None, name  # DDP would wait for it
    assert method.student["patch_projector"].out.weight.grad.abs().sum() > 0
    assert set(method.teacher) == {"backbone", "projector", "aggregation", "patch_projector"}
    assert all(p.grad is None for p in method.teacher.parameters())


def test_patch_keys_enter_a_queue_a_view():
    method = moby_selfpatch(negatives=True, patch_queue=10, patch_keys=2)
    method.set_step(0, 0, step(0.99))
    before = method.patch_queue1.keys.clone()
    method(VIEWS)
    assert method.patch_queue1.pointer == method.patch_queue2.pointer == 6  # 3 images x 2 patches
    assert torch.equal(method.patch_queue1.keys[:, 6:], before[:, 6:])
    assert not torch.equal(method.patch_queue1.keys[:, :6], method.patch_queue2.keys[:, :6])


def test_patch_keys_are_the_same_however_the_batch_is_shared(monkeypatch):
    method = moby_selfpatch(negatives=True, patch_keys=3)
    method.set_step(7, 11, step(0.99))
    keys = torch.randn(4, 16, 8)
    whole = method.drawn_keys(keys, salt=0)
    assert len(whole.flatten(0, 1).unique(dim=0)) == 4 * 3  # an image's are different patches
    assert not torch.equal(whole, method.drawn_keys(keys, salt=1))
    for rank in range(2):
        monkeypatch.setattr("selfpatch.pretrain.moby_selfpatch.get_dist_info", lambda rank=rank: (rank, 2))
        assert torch.equal(method.drawn_keys(keys[rank::2], salt=0), whole[rank::2])


def test_positives_only_is_zero_where_the_prediction_is_the_target():
    rows = torch.nn.functional.normalize(torch.randn(6, 8), dim=1)
    method = moby_selfpatch()
    assert method.contrast_patches([rows, rows], [rows, rows], images=3).item() == pytest.approx(0, abs=1e-6)
    assert method.contrast_patches([rows, rows], [rows, -rows], images=3).item() == pytest.approx(2)


def test_targets_are_of_the_same_view():
    """A view's targets come from that view alone: here the mean of each patch's eight neighbours in it."""
    method = moby_selfpatch(aggregation="mean", k=8)
    _, targets = method.key_features(VIEWS)
    _, swapped = method.key_features([VIEWS[0].flip(0)])
    torch.testing.assert_close(targets[0], swapped[1])
    _, x, _ = method.teacher["backbone"](VIEWS[0][0])
    others = torch.stack([x[:, [j for j in range(16) if j != i and near(i, j)]].mean(1) for i in range(16)], dim=1)
    expected = method.teacher["aggregation"].norm(others).flatten(0, 1)
    torch.testing.assert_close(targets[0], expected)


def near(i: int, j: int, side: int = 4) -> bool:
    """Whether two patches of a square grid are neighbours, round the edges."""
    return all(min((a - b) % side, (b - a) % side) <= 1 for a, b in zip(divmod(i, side), divmod(j, side)))


def test_weight_zero_leaves_moby_with_aggregation():
    method = moby_selfpatch(patch_loss_weight=0.0)
    assert method.display_name == "MoBY+Agg"
    assert set(method(VIEWS)) == {"loss", "image"}
    assert not any(name.startswith("patch") for name in method.student)


def test_a_view_smaller_than_the_neighbourhood_is_named():
    with pytest.raises(UserError, match="64 pixels has a grid of 4x4"):
        moby_selfpatch(neighbourhood=5).check_crops([64, 64])


@pytest.mark.parametrize(("key", "value"), [("queue", 0), ("temperature", 0.0), ("patch_queue", 0), ("patch_keys", 0)])
def test_arguments_out_of_range_are_named(key, value):
    with pytest.raises(UserError, match=f"model.{key}={value}: must be "):
        check(arguments(MoBYSelfPatchPretraining), {"backbone": {}, key: value}, "model.")
