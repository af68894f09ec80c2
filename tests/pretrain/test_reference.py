"""The plain formulation in tests/reference and this project's step are the same mathematics."""

from __future__ import annotations

import copy

import pytest
import selfpatch_plain
import torch

from selfpatch.pretrain.optim import PretrainOptimWrapper, parameter_groups
from selfpatch.pretrain.schedules import Step
from selfpatch.pretrain.selfpatch import SelfPatchPretraining


@pytest.mark.parametrize("frozen", [True, False])
def test_two_steps_leave_the_same_losses_centres_and_weights(frozen):
    torch.manual_seed(0)
    backbone = {"type": "VisionTransformer", "embed_dim": 24, "depth": 2, "heads": 3, "img_size": 64}
    heads = {"out_dim": 40, "patch_out_dim": 24, "hidden_dim": 32, "bottleneck_dim": 8}
    ours = SelfPatchPretraining({**backbone, "cls_token": False, "final_norm": False}, **heads).train()
    plain = copy.deepcopy(ours)
    step = Step(lr=1e-3, weight_decay=0.1, momentum=0.9, teacher_temp=0.04, last_layers_frozen=frozen)
    adamw = {"lr": step.lr, "weight_decay": step.weight_decay}
    wrapper = PretrainOptimWrapper(torch.optim.AdamW(parameter_groups(ours), **adamw), clip=0.05)
    wrapper.frozen = ours.frozen_at_first() if frozen else []
    optimizer = torch.optim.AdamW(parameter_groups(plain), **adamw, foreach=False)
    for iteration in range(2):
        crops = [torch.randn(2, 3, 3, 64, 64), torch.randn(3, 3, 3, 48, 48)]
        ours.set_step(0, iteration, step)
        parts = ours(crops)
        expected = selfpatch_plain.plain_step(plain, crops, optimizer, step, clip=0.05)
        wrapper.update_params(parts["loss"])
        ours.after_step()
        assert [parts[name].item() for name in ("loss", "cls", "patch")] == pytest.approx(expected, rel=1e-5)
    biases = ("attn.k.bias", "attn.qkv.bias")  # a key bias has no gradient: AdamW turns rounding into steps
    for name, value in plain.state_dict().items():
        if not name.endswith(biases):
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=2e-5, msg=name)
