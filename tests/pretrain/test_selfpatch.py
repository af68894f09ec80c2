"""SelfPatch: the recorded step of the authors' code, and the parts that the config can change."""

from __future__ import annotations

import inspect
import os
import socket
import subprocess
import sys
from pathlib import Path

import golden_step
import numpy as np
import pytest
import torch

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.moby_selfpatch import MoBYSelfPatchPretraining
from selfpatch.pretrain.selfpatch import (
    PatchAggregation,
    SelfPatchPretraining,
    match_positives,
    neighbours,
)
from selfpatch.pretrain.settings import arguments, check

SCRIPT = Path(golden_step.__file__)


def close(found, expected, name: str, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=rtol, atol=atol, err_msg=name)


@pytest.fixture(scope="module")
def steps(device):
    """On each device: recorded step -> the step that this project takes, once for all tests."""
    taken = {}

    def step(path):
        if path not in taken:
            taken[path] = golden_step.take_step(np.load(path), device=device)
        return taken[path]

    return step


def test_golden_losses_and_centres(golden_selfpatch_step_, steps):
    recorded, taken = np.load(golden_selfpatch_step_), steps(golden_selfpatch_step_)
    for ours, theirs in (("loss", "total"), ("cls", "cls"), ("patch", "patch")):
        close(taken["loss"][ours], recorded[f"loss/{theirs}"], theirs)
    close(taken["cls_center"], recorded["after/center"].ravel(), "center")
    close(taken["patch_center"], recorded["after/patch_center"].ravel(), "patch_center")


def test_golden_gradient_norms(golden_selfpatch_step_, steps):
    recorded, taken = np.load(golden_selfpatch_step_), steps(golden_selfpatch_step_)
    names = [name for name in recorded.files if name.startswith("grad_norm/")]
    assert names
    for name in names:
        close(taken["grad_norm"][golden_step.our_name(name.removeprefix("grad_norm/"))], recorded[name], name)


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_golden_weights_after_the_step(golden_selfpatch_step_, steps, network):
    recorded, taken = np.load(golden_selfpatch_step_), steps(golden_selfpatch_step_)
    names = [name for name in recorded.files if name.startswith(f"after/{network}/")]
    assert len(names) == len(taken[network])
    for name in names:
        published = name.removeprefix(f"after/{network}/")
        found = taken[network][golden_step.our_name(published)].numpy().ravel()
        found, expected = found[:: max(1, len(found) // 256)][:256], recorded[name]
        if published.endswith(("attn.k.bias", "attn.qkv.bias")):
            # the exact gradient of a key bias is zero, and AdamW turns the noise that is left into steps
            key = np.zeros(len(found), bool)
            length = len(taken[network][golden_step.our_name(published)])
            position = np.arange(length)[:: max(1, length // 256)][:256]
            key[:] = True if published.endswith("k.bias") else (position >= length // 3) & (position < 2 * length // 3)
            close(found[key], expected[key], name, rtol=0, atol=1e-3 if network == "student" else 4e-6)
            found, expected = found[~key], expected[~key]
        close(found, expected, name)


@torch.no_grad()
def test_golden_aggregated_tokens_and_positives(golden_selfpatch_step_):
    recorded = np.load(golden_selfpatch_step_)
    method, crops = golden_step.recorded_method(recorded), golden_step.recorded_crops(recorded)
    _, x, (h, w) = method.teacher["backbone"](crops[0][0, :1])
    close(x, recorded["teacher/global_patch_features"], "features", rtol=0, atol=1e-4)
    table = neighbours(h, w)
    np.testing.assert_array_equal(table, recorded["neighbours_14x14"])
    aggregation = method.teacher["aggregation"]
    positives, valid = match_positives(x, table, aggregation.k)
    ranks = torch.from_numpy(recorded["teacher/global_topk"]).long()
    assert torch.equal(positives, table.expand(len(x), -1, -1).gather(2, ranks))
    assert valid.all()
    tokens = aggregation.keys_values(x)
    cls, targets = aggregation.pool_all(tokens), aggregation.aggregate(x, tokens, positives, valid)
    tokens = torch.cat([cls.unsqueeze(1), targets], dim=1)
    close(tokens, recorded["teacher/global_cls_and_aggregated"], "aggregated", rtol=0, atol=1e-4)


def test_golden_step_shared_by_processes(golden_selfpatch_step_, steps, tmp_path):
    """Processes with a share of the batch each give the losses, centres and gradients of one with all of it."""
    batch = int(np.load(golden_selfpatch_step_)["meta"][2])
    world = next((n for n in range(2, batch + 1) if batch % n == 0), None)
    if world is None:
        pytest.skip("a batch of one image cannot be shared")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(world):
        place = {"RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in place.items()}}
        command = [sys.executable, str(SCRIPT), str(golden_selfpatch_step_), str(tmp_path / "taken.pt")]
        processes.append(subprocess.Popen(command, env=environment))
    assert [process.wait(timeout=240) for process in processes] == [0] * world
    shared, alone = torch.load(tmp_path / "taken.pt", weights_only=True), steps(golden_selfpatch_step_)
    for part in ("cls", "patch"):  # these are logged as means over processes
        close(shared["loss"][part], alone["loss"][part], part)
    for centre in ("cls_center", "patch_center"):
        close(shared[centre], alone[centre], centre)
    for name, norm in alone["grad_norm"].items():
        close(shared["grad_norm"][name], norm, name)


@pytest.mark.parametrize("window", [3, 5])
def test_wrapped_neighbours_are_a_full_window(window):
    table = neighbours(6, 7, window)
    assert table.shape == (42, window**2 - 1)
    assert (table.diff(dim=1) > 0).all()  # ascending, hence distinct
    reach = window // 2
    for patch in range(42):
        row, column = divmod(patch, 7)
        for other in table[patch].tolist():
            assert other != patch
            down, right = (other // 7 - row) % 6, (other % 7 - column) % 7
            assert min(down, 6 - down) <= reach
            assert min(right, 7 - right) <= reach


def test_without_wrap_the_window_ends_at_the_edge():
    table = neighbours(4, 4, 3, wrap=False)
    assert table[0].tolist() == [1, 4, 5, -1, -1, -1, -1, -1]
    assert table[5].tolist() == [0, 1, 2, 4, 6, 8, 9, 10]


def test_all_means_every_other_patch():
    table = neighbours(2, 3, "all")
    assert table[2].tolist() == [0, 1, 3, 4, 5]


def test_positives_are_the_nearest_by_cosine_whatever_their_length():
    x = torch.randn(2, 36, 8)
    table = neighbours(6, 6)
    positives, _ = match_positives(x, table, 4)
    scaled, _ = match_positives(x * torch.rand(2, 36, 1) * 5 + 0, table, 4)
    assert torch.equal(positives, scaled)
    similarity = torch.nn.functional.cosine_similarity(x[:, :, None], x[:, table], dim=-1)  # (2, 36, 8)
    assert torch.equal(positives, table.expand(2, -1, -1).gather(2, similarity.topk(4).indices))


def test_missing_candidates_are_never_positives():
    x = torch.randn(1, 16, 8)
    _, valid = match_positives(x, neighbours(4, 4, wrap=False), 4)
    assert valid[0, 0].tolist() == [True, True, True, False]  # a corner has three neighbours
    assert valid.sum() == 16 * 4 - 4


@torch.no_grad()
def test_aggregation_is_attention_over_cls_and_positives():
    """Against the plain formulation: gather first, then full attention of [c, positives] in every block."""
    torch.manual_seed(0)
    module = PatchAggregation(24, 3, 3, True, 4, "attention")
    x = torch.randn(2, 9, 24)
    positives = torch.randint(0, 9, (2, 9, 4))
    found = module.aggregate(x, module.keys_values(x), positives, torch.ones(2, 9, 4, dtype=torch.bool))
    for image in range(2):
        for patch in range(9):
            c = module.cls_token[0]  # (1, C)
            for block in module.blocks:
                z = block.norm1(torch.cat([c, x[image, positives[image, patch]]]))
                q, k, v = (getattr(block.attn, name)(z).view(5, 3, 8).transpose(0, 1) for name in "qkv")
                mixed = ((q[:, :1] @ k.mT) / 8**0.5).softmax(-1) @ v  # (heads, 1, d)
                c = c + block.attn.proj(mixed.transpose(0, 1).reshape(1, 24))
                c = c + block.mlp(block.norm2(c))
            torch.testing.assert_close(found[image, patch], module.norm(c)[0])


def test_a_positive_that_is_not_valid_has_no_say():
    torch.manual_seed(0)
    module = PatchAggregation(24, 3, 3, True, 4, "attention")
    x, positives = torch.randn(1, 9, 24), torch.randint(0, 9, (1, 9, 4))
    valid, tokens = torch.ones(1, 9, 4, dtype=torch.bool), module.keys_values(x)
    valid[..., 3] = False
    torch.testing.assert_close(
        module.aggregate(x, tokens, positives, valid),
        module.aggregate(x, tokens, positives[..., :3], valid[..., :3]),
    )


def test_mean_aggregation_is_the_normalised_mean_of_the_valid_positives():
    x, positives = torch.randn(2, 9, 5), torch.rand(2, 9, 9).argsort(-1)[..., :3]
    valid = torch.ones(2, 9, 3, dtype=torch.bool)
    module = PatchAggregation(5, 1, 3, True, 3, "mean")
    for count in (3, 2):
        valid[..., count:] = False
        expected = torch.stack([x[b][positives[b, :, :count]].mean(1) for b in range(2)])
        torch.testing.assert_close(module.aggregate(x, [], positives, valid), module.norm(expected))


def tiny(**options) -> SelfPatchPretraining:
    torch.manual_seed(0)
    backbone = {"type": "VisionTransformer", "embed_dim": 24, "depth": 2, "heads": 3, "img_size": 64}
    heads = {"out_dim": 32, "patch_out_dim": 16, "hidden_dim": 32, "bottleneck_dim": 8}
    vit = {**backbone, "cls_token": False, "final_norm": False}
    return SelfPatchPretraining(**{"backbone": vit, **heads, **options}).train()


CROPS = [torch.randn(2, 3, 3, 64, 64), torch.randn(2, 3, 3, 48, 48)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"neighbourhood": "all", "k": 8},
        {"wrap": False},
        {"aggregation": "mean"},
        {"aggregation": "mean", "wrap": False},
        {"k": 1},
        {"patch_loss_weight": 0.5},
    ],
    ids=str,
)
def test_every_variant_trains_its_patch_level(options):
    method = tiny(**options)
    parts = method(CROPS)
    assert parts["loss"].item() == pytest.approx((parts["cls"] + method.patch_loss_weight * parts["patch"]).item())
    parts["loss"].backward()
    assert method.student["patch_head"].mlp[0].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in method.teacher.parameters())
    assert method.patch_center.abs().sum() > 0


def test_weight_zero_leaves_dino_with_aggregation():
    method = tiny(patch_loss_weight=0.0)
    assert method.display_name == "DINO+Agg"
    assert set(method(CROPS)) == {"loss", "cls"}
    assert "patch_head" not in method.student


@pytest.mark.parametrize(("options", "word"), [({"neighbourhood": 4}, "neighbourhood=4"), ({"k": 9}, "k=9")])
def test_impossible_settings_are_named(options, word):
    with pytest.raises(UserError, match=word):
        tiny(**options)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("k", 0, "must be 1 or more"),
        ("k", 2.5, "expected a whole number"),
        ("neighbourhood", 1, "must be 3 or more"),
        ("neighbourhood", "some", "expected a whole number or all"),
        ("aggregation", "max", "choose attention or mean"),
        ("patch_loss_weight", -1.0, "must be 0 or more"),
        ("patch_teacher_temp", 0.0, "must be above 0"),
    ],
)
@pytest.mark.parametrize("method", [SelfPatchPretraining, MoBYSelfPatchPretraining])
def test_arguments_out_of_range_are_named(method, key, value, told):
    if key in inspect.signature(method).parameters:
        with pytest.raises(UserError, match=f"model.{key}={value!r}: {told}"):
            check(arguments(method), {"backbone": {}, key: value}, "model.")


def test_a_crop_smaller_than_the_neighbourhood_is_named():
    with pytest.raises(UserError, match="48 pixels has a grid of 3x3"):
        tiny(neighbourhood=5).check_crops([96], [48])
    tiny(neighbourhood=3).check_crops([96], [48])


def test_swin_fills_up_a_crop_that_its_stages_do_not_divide():
    small = {"type": "Swin", "embed_dim": 24, "depths": (2, 2, 2, 2), "heads": (1, 2, 4, 8), "final_norm": False}
    method = tiny(backbone=small)
    method.check_crops([96], [80])
    assert method.student["backbone"](torch.zeros(1, 3, 80, 80))[2] == (3, 3)
    with pytest.raises(UserError, match="64 pixels has a grid of 2x2"):
        method.check_crops([96], [64])
