"""The optimiser: which parameters decay, how gradients are clipped, what holding a parameter means."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from selfpatch.pretrain.heads import DINOHead
from selfpatch.pretrain.optim import PretrainOptimWrapper, parameter_groups
from selfpatch.pretrain.vit import VisionTransformer


def test_matrices_decay_biases_and_norms_do_not():
    model = VisionTransformer(embed_dim=24, depth=1, heads=3)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, spared = ({names[id(p)] for p in group["params"]} for group in parameter_groups(model))
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= decayed
    assert {"norm.weight", "blocks.0.attn.qkv.bias", "blocks.0.norm1.weight"} <= spared
    assert decayed | spared == set(names.values())
    assert parameter_groups(model)[1]["weight_decay"] == 0


def test_the_fixed_magnitude_is_in_no_group():
    head = DINOHead(8, 16, 8, 4)
    trained = [p for group in parameter_groups(head) for p in group["params"]]
    assert all(p is not head.last_layer.weight_g for p in trained)
    assert len(trained) == len(list(head.parameters())) - 1


def wrapped(per_parameter: bool) -> tuple[nn.ParameterList, PretrainOptimWrapper]:
    model = nn.ParameterList([nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(3, 3))])
    sgd = torch.optim.SGD(parameter_groups(model), lr=1.0)
    for parameter, value in zip(model, (10.0, 0.1)):
        parameter.grad = torch.full_like(parameter, value)
    return model, PretrainOptimWrapper(sgd, clip=3.0, per_parameter=per_parameter)


def test_each_parameter_is_clipped_by_its_own_norm():
    model, wrapper = wrapped(per_parameter=True)
    wrapper.step()
    assert model[0].norm().item() == pytest.approx(3.0, rel=1e-5)  # 20 before
    assert model[1].norm().item() == pytest.approx(0.3, rel=1e-5)  # below the limit: as it was


def test_or_all_by_their_common_norm():
    model, wrapper = wrapped(per_parameter=False)
    wrapper.step()
    assert torch.stack([p.norm() for p in model]).norm().item() == pytest.approx(3.0, rel=1e-5)
    assert (model[1].norm() / model[0].norm()).item() == pytest.approx(0.3 / 20, rel=1e-4)


def test_a_held_parameter_is_not_even_decayed():
    model = nn.ParameterList([nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))])
    wrapper = PretrainOptimWrapper(torch.optim.AdamW(parameter_groups(model), lr=0.1, weight_decay=0.5), clip=3.0)
    for parameter in model:
        parameter.grad = torch.ones_like(parameter)
    wrapper.frozen = [model[0]]
    wrapper.step()
    assert torch.equal(model[0], torch.ones(2, 2))
    assert model[0] not in wrapper.optimizer.state
    assert (model[1] < 1).all()
