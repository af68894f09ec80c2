"""The Swin backbone: the recorded features of MoBY's Swin, any image size, and mmdet's names for its weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mmdet.models.backbones.swin import SwinTransformer

from selfpatch.pretrain.swin import SIZES, Swin, WindowAttention, from_mmdet, shift_mask, to_mmdet

FOLLOWS = ("attn_mask", "relative_position_index")  # published files hold them, the window size gives them


def small(**options) -> Swin:
    torch.manual_seed(0)
    model = Swin(embed_dim=24, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8), **options)
    for name, parameter in model.named_parameters():  # norms and merges with something to tell apart
        if "norm" in name:
            torch.nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.2)
    return model.eval()


def recorded_model(recorded) -> tuple[Swin, dict[str, torch.Tensor]]:
    """Our network with the recorded weights, its sizes read off them, and those weights."""
    names = [name for name in recorded.files if name.startswith("weights/") and not name.endswith(FOLLOWS)]
    weights = {name.removeprefix("weights/"): torch.from_numpy(recorded[name]) for name in names}
    tables = [weights[f"layers.{i}.blocks.0.attn.relative_position_bias_table"] for i in range(4)]
    blocks = [name.split(".")[1:4:2] for name in weights if name.startswith("layers.") and ".blocks." in name]
    model = Swin(
        embed_dim=len(weights["patch_embed.proj.bias"]),
        depths=tuple(1 + max(int(block) for stage, block in blocks if stage == str(i)) for i in range(4)),
        heads=tuple(table.shape[1] for table in tables),
        window=(math.isqrt(len(tables[0])) + 1) // 2,
    ).eval()
    model.load_state_dict(weights)
    return model, weights


@torch.no_grad()
def test_golden_swin(golden_swin_):
    """What enters every stage (every 7th token) and the pooled output."""
    recorded = np.load(golden_swin_)
    model, _ = recorded_model(recorded)
    image = torch.from_numpy(recorded["image"]).float()
    feature, tokens, (h, w) = model(image)
    np.testing.assert_allclose(feature, recorded["pooled"], rtol=0, atol=1e-4)
    torch.testing.assert_close(tokens.mean(1), feature)
    assert (h, w) == (image.shape[2] // 32, image.shape[3] // 32)

    stages = model.stages(image)
    inputs = [model.patch_embed(image), *(layer.downsample(x) for layer, x in zip(model.layers, stages[:3]))]
    for i, x in enumerate(inputs):
        np.testing.assert_allclose(x.flatten(1, 2)[:, ::7], recorded[f"stage_input/{i}"], rtol=0, atol=1e-4)


def mmdet_swin(model: Swin, weights: dict[str, torch.Tensor], **options) -> SwinTransformer:
    """mmdet's network of the same sizes with these weights; the buffers and norms that only it has stay its own."""
    theirs = SwinTransformer(
        embed_dims=model.widths[0],
        depths=model.depths,
        num_heads=model.stage_heads,
        window_size=model.window,
        **options,
    )
    own = {name: t for name, t in theirs.state_dict().items() if "position_index" in name or name[:5] in OWN_NORMS}
    theirs.load_state_dict({**to_mmdet(weights), **own})
    theirs.eval()  # returns None
    return theirs


OWN_NORMS = ("norm0", "norm1", "norm2")


def unshift(theirs: SwinTransformer, image: torch.Tensor) -> None:
    """Correct mmdet's shifting: none on a grid that is no larger than a window."""
    for i, stage in enumerate(theirs.stages):
        for block in stage.blocks:
            if -(-min(image.shape[2:]) // (4 * 2**i)) <= block.attn.window_size:
                block.attn.shift_size = 0


@torch.no_grad()
def test_golden_swin_through_mmdet(golden_swin_):
    """The recorded weights under mmdet's names give the recorded output, once its shifting is corrected."""
    recorded = np.load(golden_swin_)
    model, weights = recorded_model(recorded)
    image = torch.from_numpy(recorded["image"]).float()
    theirs = mmdet_swin(model, weights, out_indices=(3,))
    unshift(theirs, image)
    np.testing.assert_allclose(theirs(image)[0].mean((2, 3)), recorded["pooled"], rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("size", [(256, 256), (96, 96), (250, 330)])
def test_every_stage_equals_mmdets(size):
    """Also where grids are odd and windows are filled up."""
    model, image = small(), torch.randn(1, 3, *size)
    theirs = mmdet_swin(model, model.state_dict())
    unshift(theirs, image)
    for i, (ours, expected) in enumerate(zip(model.stages(image), theirs(image))):
        norm = model.norm if i == 3 else getattr(theirs, f"norm{i}")
        torch.testing.assert_close(norm(ours).permute(0, 3, 1, 2), expected, rtol=0, atol=1e-4)


def test_mmdets_names_and_order_lead_back():
    state = small().state_dict()
    renamed = to_mmdet(state)
    assert "stages.0.blocks.1.attn.w_msa.qkv.weight" in renamed
    assert not torch.equal(renamed["stages.0.downsample.norm.weight"], state["layers.0.downsample.norm.weight"])
    back = from_mmdet(renamed)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize("side", [7, 6, 3])
def test_windows_stay_where_the_grid_is_no_larger_than_one(side):
    torch.manual_seed(0)
    shifted, plain = (WindowAttention(8, 2, window=7, shifted=shifted).eval() for shifted in (True, False))
    plain.load_state_dict(shifted.state_dict())
    x = torch.randn(2, side, side, 8)
    torch.testing.assert_close(shifted(x), plain(x))
    x = torch.randn(2, 8, 8, 8)
    assert not torch.allclose(shifted(x), plain(x))


def test_shifted_windows_see_no_further_than_the_image_goes():
    """With windows of 2 shifted by 1 on 4 x 4: the window of the four corners keeps all of them apart."""
    mask = shift_mask(4, 4, 2, 1)
    assert mask.shape == (4, 4, 4)
    assert (mask[0] == 0).all()
    assert (mask[3] == -100 * (1 - torch.eye(4))).all()


@pytest.mark.parametrize(("size", "parameters"), [("tiny", 27_519_354), ("small", 48_837_258), ("base", 86_743_224)])
def test_sizes_are_the_published_ones(size, parameters):
    with torch.device("meta"):  # no memory for weights that are only counted
        model = Swin(size)
    assert sum(p.numel() for p in model.parameters()) == parameters  # Swin's tables less their 1000-way classifiers
    assert model.widths[0] == SIZES[size][0]
    assert (model.embed_dim, model.heads, model.stride) == (8 * model.widths[0], model.stage_heads[3], 32)


@torch.no_grad()
@pytest.mark.parametrize("image", [(224, 224), (96, 96), (64, 160), (100, 33)])
def test_any_image_size(image):
    model = small()
    feature, tokens, (h, w) = model(torch.randn(2, 3, *image))
    assert (h, w) == (-(-image[0] // 32), -(-image[1] // 32))  # a border narrower than a patch is filled up
    assert feature.shape == (2, 192)
    assert tokens.shape == (2, h * w, 192)


@torch.no_grad()
@pytest.mark.parametrize("stage", [0, 1, 2, 3, -1])
def test_tokens_of_any_stage(stage):
    model, images = small(), torch.randn(1, 3, 64, 96)
    (tokens,) = model.forward_intermediates(images, [stage])
    stride = model.strides[stage]
    assert tokens.shape == (1, model.widths[stage], 64 // stride, 96 // stride)
    (bare,) = model.forward_intermediates(images, [stage], norm=False)
    if stage % 4 == 3:
        torch.testing.assert_close(tokens.flatten(2).mT, model(images)[1])
        assert not torch.allclose(tokens, bare)
    else:
        assert torch.equal(tokens, bare)


def test_without_a_final_norm():
    model = small(final_norm=False)
    assert not model.arch["final_norm"]
    assert not any(name.startswith("norm.") for name in model.state_dict())


def test_drop_path_grows_over_all_stages_and_follows_its_noise():
    model = small(drop_path_rate=0.7).train()
    assert [block.drop_path.rate for block in model.blocks] == pytest.approx([i / 10 for i in range(8)])
    assert model.num_branches == 16
    images, noise = torch.randn(3, 3, 64, 64), torch.rand(16, 3)
    first, again, other = (model(images, n)[0] for n in (noise, noise, 1 - noise))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    torch.testing.assert_close(model(images[:1], noise[:, :1])[0], first[:1])  # an image has its own column


def test_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = small(checkpointing=checkpointing, drop_path_rate=0.5).train()
        torch.manual_seed(1)
        _, tokens, _ = model(torch.randn(1, 3, 32, 32), torch.rand(16, 1))
        tokens.square().sum().backward()
        gradients.append(model.patch_embed.proj.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("wrong", "word"), [({"size": "huge"}, "huge"), ({"depths": (2, 2)}, "four|4"), ({"heads": (1, 2, 5, 8)}, "heads")]
)
def test_an_impossible_network_is_refused(wrong, word):
    with pytest.raises(ValueError, match=word):
        Swin(**{"embed_dim": 24, "depths": (2, 2, 2, 2), "heads": (1, 2, 4, 8), **wrong})
