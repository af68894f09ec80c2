"""The one ViT: published tokens, any grid, options that published families need."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from selfpatch.pretrain.positions import RotaryPositions, resized_table
from selfpatch.pretrain.vit import SIZES, DropPath, VisionTransformer


def small(**options) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(embed_dim=48, depth=3, heads=3, **options).eval()


@torch.no_grad()
def test_golden_vit(golden_vit_):
    """Tokens of every block at every recorded size, as the published get_intermediate_layers gives them."""
    recorded = np.load(golden_vit_)
    weights = {name[8:]: torch.from_numpy(recorded[name]) for name in recorded.files if name.startswith("weights/")}
    has_cls = "cls_token" in weights
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    dim = weights["pos_embed"].shape[-1]
    patch = weights["patch_embed.proj.weight"].shape[-1]
    grid = round((weights["pos_embed"].shape[1] - has_cls) ** 0.5)
    model = VisionTransformer(
        embed_dim=dim,
        depth=depth,
        heads=3,
        patch_size=patch,
        img_size=grid * patch,
        cls_token=has_cls,
        final_norm="norm.weight" in weights,
    ).eval()
    model.load_state_dict(weights)
    sizes = [name.split("/")[1] for name in recorded.files if name.startswith("image/")]
    assert sizes
    for size in sizes:
        image = torch.from_numpy(recorded[f"image/{size}"]).float()
        blocks = sorted(int(n.rsplit("block", 1)[1]) for n in recorded.files if n.startswith(f"tokens/{size}/"))
        tokens, _ = model.tokens_of(image, [block - len(blocks) for block in blocks])
        for block, found in zip(blocks, tokens):
            expected = torch.from_numpy(recorded[f"tokens/{size}/block{block}"])
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("size", "row"), SIZES.items())
def test_sizes_are_those_of_deit(size, row):
    model = VisionTransformer(size)
    assert (model.embed_dim, model.depth, model.heads) == row
    published = {"tiny": 5_524_416, "small": 21_665_664, "base": 85_798_656}  # DeiT without its classifier
    assert sum(p.numel() for p in model.parameters()) == published[size]


@pytest.mark.parametrize("cls_token", [True, False])
@pytest.mark.parametrize(("patch", "image"), [(16, (224, 224)), (16, (96, 160)), (8, (64, 40)), (14, (98, 70))])
def test_any_patch_and_image_size(cls_token, patch, image):
    model = small(patch_size=patch, cls_token=cls_token, final_norm=cls_token, img_size=14 * patch)
    feature, patches, grid = model(torch.randn(2, 3, *image))
    assert grid == (image[0] // patch, image[1] // patch)
    assert feature.shape == (2, 48)
    assert patches.shape == (2, grid[0] * grid[1], 48)
    assert all(len(tokens) == 2 for tokens in model.tokens_of(torch.randn(2, 3, *image), [0, -1])[0])


def test_without_cls_the_global_feature_is_the_mean_patch():
    feature, patches, _ = small(cls_token=False, final_norm=False)(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(feature, patches.mean(1))


def test_every_grid_gets_its_position_embeddings():
    """Also those for which interpolating by scale factor misses the grid by one."""
    model = small(img_size=224)
    for side in range(1, 80):
        assert resized_table(model.pos_embed, 14, side, 14).shape == (1, 1 + side * 14, 48)


def test_interpolation_follows_the_scale_factor_not_the_size():
    table = small(cls_token=False).pos_embed
    by_size = resized_table(table, 14, 6, 6, "bicubic")
    assert by_size.shape == (1, 36, 48)
    assert (resized_table(table, 14, 6, 6) - by_size).abs().max() > 1e-3
    assert (resized_table(table, 14, 6, 6, "antialiased") - by_size).abs().max() > 1e-3
    assert torch.equal(resized_table(table, 14, 14, 14, "bicubic"), table)


def test_rotary_positions_turn_patches_and_no_prefix():
    """Each pair of channels keeps its length, and a patch's turn depends on its place in the image, not on the grid."""
    rotary = RotaryPositions(16)
    cos, sin = rotary(4, 6, num_prefix=5)
    assert cos.shape == sin.shape == (5 + 24, 16)
    torch.testing.assert_close(cos.square() + sin.square(), torch.ones_like(cos))
    assert torch.equal(cos[:5], torch.ones(5, 16))
    assert torch.equal(sin[:5], torch.zeros(5, 16))
    middle = rotary(3, 3, num_prefix=0)[0][4]  # the centre of the image is the origin
    torch.testing.assert_close(middle, torch.ones(16))
    with pytest.raises(ValueError, match="multiple of 4"):
        RotaryPositions(6)


def test_rotary_positions_and_gated_mlps_are_options():
    model = small(img_size=64, rope=True, swiglu=True, mlp_width=40, layer_scale=1.0, register_tokens=4, eps=1e-5)
    names = model.state_dict()
    assert names["rope_embed.periods"].shape == (4,)
    assert names["blocks.0.mlp.w12.weight"].shape == (80, 48)
    assert "pos_embed" not in names
    assert model(torch.randn(1, 3, 32, 48))[1].shape == (1, 6, 48)
    with pytest.raises(ValueError, match="antialiased"):
        small(positions="nearest")


def test_registers_and_layer_scale():
    model = small(register_tokens=4, layer_scale=0.5)
    assert model.num_prefix == 5
    tokens, (h, w) = model.tokens_of(torch.randn(1, 3, 64, 64), [-1])
    assert tokens[0].shape[1] == 5 + h * w
    assert model.arch["registers"] == 4
    assert model.arch["layer_scale"]


def test_drop_path_follows_its_noise_and_keeps_the_mean():
    drop = DropPath(0.25).train()
    branch = torch.ones(4, 2, 3)
    dropped = drop(branch, torch.tensor([0.0, 0.24, 0.25, 0.9]))
    assert dropped[:, 0, 0].tolist() == [0, 0, pytest.approx(4 / 3), pytest.approx(4 / 3)]
    assert drop.eval()(branch) is branch


def test_drop_path_grows_from_zero_to_its_rate():
    assert [block.drop_path.rate for block in small(drop_path_rate=0.2).blocks] == pytest.approx([0, 0.1, 0.2])


def test_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = small(checkpointing=checkpointing).train()
        torch.manual_seed(1)
        model(torch.randn(2, 3, 64, 64))[1].square().sum().backward()
        gradients.append(model.patch_embed.proj.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("wrong", [{"img_size": 225}, {"size": "huge"}, {"heads": 5}])
def test_an_impossible_network_is_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        VisionTransformer(**wrong)


@torch.no_grad()
@pytest.mark.parametrize("norm", [True, False])
def test_intermediates_are_maps_of_the_patch_tokens(norm):
    model, images = small(register_tokens=2), torch.randn(1, 3, 64, 96)
    maps = model.forward_intermediates(images, [0, -1], norm)
    tokens, grid = model.tokens_of(images, [0, -1], norm)
    for found, expected in zip(maps, tokens, strict=True):
        assert found.shape == (1, model.widths[0], *grid)
        assert torch.equal(found.flatten(2).mT, expected[:, model.num_prefix :])
    assert torch.equal(maps[-1].flatten(2).mT, model(images)[1]) == norm
