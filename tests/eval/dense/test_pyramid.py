"""The feature pyramid: published shapes for every patch, the checkpoint's own features, and proof of its weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from selfpatch.eval.checkpoints.load import LoadedBackbone, load_backbone
from selfpatch.eval.dense.pyramid import CertifyBackbone, SelfPatchPyramid
from selfpatch.pretrain.checkpoint import save_file
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.swin import Swin
from selfpatch.pretrain.vit import VisionTransformer


def write_checkpoint(path: Path, model: nn.Module) -> str:
    state = {f"teacher.backbone.{name}": tensor for name, tensor in model.state_dict().items()}
    save_file({"state_dict": state, "meta": {"method": "Random", "arch": model.arch, "epoch": 0, "seed": 0}}, path)
    return str(path)


@pytest.fixture
def vit(tmp_path):
    """A function that gives a checkpoint of a small ViT, loaded."""

    def write(**options) -> LoadedBackbone:
        torch.manual_seed(0)
        options = {"embed_dim": 32, "depth": 4, "heads": 2, "img_size": 8 * options.get("patch_size", 16), **options}
        return load_backbone(write_checkpoint(tmp_path / "vit.pth", VisionTransformer(**options)))

    return write


@pytest.fixture
def swin(tmp_path) -> LoadedBackbone:
    torch.manual_seed(0)
    model = Swin(embed_dim=8, depths=(1, 2, 1, 1), heads=(1, 2, 4, 8))
    return load_backbone(write_checkpoint(tmp_path / "swin.pth", model))


@pytest.mark.parametrize("patch", [8, 14, 16, 32])
@pytest.mark.parametrize("size", [(64, 96), (224, 160)])
def test_strides_are_4_8_16_32_for_every_patch(vit, patch, size):
    maps = SelfPatchPyramid(vit(patch_size=patch))(torch.randn(2, 3, *size))
    assert [tuple(m.shape) for m in maps] == [(2, 32, size[0] // s, size[1] // s) for s in (4, 8, 16, 32)]


@pytest.mark.parametrize("patch", [8, 14, 16])
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (100, 250)])
def test_any_image_size_is_padded_right_and_below(vit, patch, size):
    pyramid = SelfPatchPyramid(vit(patch_size=patch)).eval()
    image = torch.randn(1, 3, *size)
    cell = 8 if patch == 8 else 16  # the stride of the published pyramid's identity level
    padded = nn.functional.pad(image, (0, -size[1] % cell, 0, -size[0] % cell))
    for level, (odd, even) in enumerate(zip(pyramid(image), pyramid(padded))):
        torch.testing.assert_close(odd, even)
        assert odd.shape[2] == -(-padded.shape[2] // (4 * 2**level))


@pytest.mark.parametrize("pyramid", [True, False])
def test_maps_are_contiguous(vit, swin, pyramid):
    images = torch.randn(2, 3, 64, 96)
    for loaded in (vit(cls_token=True), swin, vit(cls_token=False, final_norm=False)):
        assert all(level.is_contiguous() for level in SelfPatchPyramid(loaded, pyramid=pyramid)(images))


@pytest.mark.parametrize("options", [{}, {"cls_token": False, "final_norm": False}])
def test_a_tap_can_be_normalised_without_parameters(vit, options):
    images = torch.randn(1, 3, 64, 64)
    plain, normed = (SelfPatchPyramid(vit(**options), pyramid=False, tap_layernorm=on)(images) for on in (False, True))
    for before, after in zip(plain, normed):
        wanted = nn.functional.layer_norm(before.permute(0, 2, 3, 1), [32], eps=1e-6).permute(0, 3, 1, 2)
        torch.testing.assert_close(after, wanted, atol=1e-5, rtol=1e-5)


def test_levels_are_built_as_published(vit):
    kinds = [
        [type(m).__name__ for m in level.modules() if not list(m.children())]
        for level in SelfPatchPyramid(vit(patch_size=16)).scales
    ]
    assert kinds == [
        ["ConvTranspose2d", "BatchNorm2d", "GELU", "ConvTranspose2d"],
        ["ConvTranspose2d"],
        ["Identity"],
        ["MaxPool2d"],
    ]
    kinds = [type(level).__name__ for level in SelfPatchPyramid(vit(patch_size=8)).scales]
    assert kinds == ["ConvTranspose2d", "Identity", "MaxPool2d", "MaxPool2d"]


def test_resampling_to_another_stride_keeps_places(vit):
    """A map that says where it lies must still say so after patch 14 has become stride 16."""
    resample = SelfPatchPyramid(vit(patch_size=14)).scales[2][0]
    centres = (torch.arange(37.0) + 0.5) * 14
    columns = resample(centres.expand(1, 1, 37, 37))[0, 0, 0]
    torch.testing.assert_close(columns[1:], ((torch.arange(32.0) + 0.5) * 16)[1:])  # the first lies beyond a centre


@pytest.mark.parametrize(
    ("depth", "published", "expected"),
    [
        (12, (3, 5, 7, 11), [3, 5, 7, 11]),
        (24, (3, 5, 7, 11), [7, 11, 15, 23]),
        (6, (3, 5, 7, 11), [1, 2, 3, 5]),
        (4, (3, 5, 7, 11), [0, 1, 2, 3]),
        (24, (2, 5, 8, 11), [5, 11, 17, 23]),
        (2, (3, 5, 7, 11), [0, 0, 0, 1]),
    ],
)
def test_taps_scale_with_depth(depth, published, expected):
    with torch.device("meta"):
        model = VisionTransformer(embed_dim=6, heads=3, depth=depth)
    assert model.scaled_out_indices(published) == expected


@pytest.mark.parametrize("norm", [False, True])
def test_taps_are_the_patch_tokens_of_their_blocks(vit, norm):
    pyramid = SelfPatchPyramid(vit(cls_token=True, register_tokens=2), taps=[1, 3], pyramid=False, tap_norm=norm).eval()
    image = torch.randn(1, 3, 64, 96)
    tokens, (h, w) = pyramid.loaded.model.tokens_of(image, [1, 3], norm=norm)
    for found, expected in zip(pyramid(image), tokens):
        torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected[:, 3:])
        assert found.shape[2:] == (h, w)


def test_golden_tokens_come_out_at_the_taps(golden_vit, tmp_path):
    recorded = np.load(golden_vit)
    state = {k.removeprefix("weights/"): torch.from_numpy(recorded[k]) for k in recorded if k.startswith("weights/")}
    norm = "cls_token" in state  # DINO publishes its features so: the final norm on each
    path = tmp_path / "golden.pth"
    torch.save(state, path)
    depth = 1 + max(int(k.split(".")[1]) for k in state if k.startswith("blocks."))
    pyramid = SelfPatchPyramid(load_backbone(path, heads=3), taps=range(depth), tap_norm=norm, pyramid=False).eval()
    for name in (k for k in recorded if k.startswith("image/")):
        with torch.no_grad():
            maps = pyramid(torch.from_numpy(recorded[name]).float())
        for block, found in enumerate(maps):
            expected = recorded[f"{name.replace('image', 'tokens')}/block{block}"]
            tokens = found.flatten(2).transpose(1, 2).numpy()
            np.testing.assert_allclose(tokens, expected[:, -tokens.shape[1] :], atol=1e-4)


def test_swin_gives_its_stages_under_fresh_norms(swin):
    pyramid = SelfPatchPyramid(swin).eval()
    image = torch.randn(1, 3, 64, 96)
    maps = pyramid(image)
    assert [tuple(m.shape) for m in maps] == [(1, 8 * 2**i, 16 // 2**i, 24 // 2**i) for i in range(4)]
    assert pyramid.out_channels == pyramid.loaded.model.widths == [8, 16, 32, 64]
    stages = pyramid.loaded.model.stages(image)
    for found, stage in zip(maps, stages):
        expected = nn.functional.layer_norm(stage, stage.shape[-1:])
        torch.testing.assert_close(found.permute(0, 2, 3, 1), expected)


def test_weights_enter_again_in_init_weights(vit):
    pyramid = SelfPatchPyramid(vit())
    pyramid.certify()
    pyramid.encoder.init_weights()  # what a framework does to every module after it is built
    with pytest.raises(UserError, match="not what was loaded"):
        pyramid.certify()
    pyramid.init_weights()
    pyramid.certify()


@pytest.mark.parametrize("name", ["blocks.2.attn.qkv.weight", "pos_embed", "norm.bias", "patch_embed.proj.weight"])
def test_a_single_changed_tensor_is_caught_before_training(vit, name):
    detector = nn.Module()
    detector.backbone = MODELS.build({"type": "SelfPatchPyramid", "loaded": vit()})

    class Runner:
        model, iter = detector, 0
        logger = type("Logger", (), {"info": staticmethod(lambda *_: None)})

    CertifyBackbone().before_train(Runner)
    with torch.no_grad():
        dict(detector.backbone.encoder.named_parameters())[name].view(-1)[0] += 1e-3
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        CertifyBackbone().before_train(Runner)
    Runner.iter = 1  # a run that goes on has trained them
    CertifyBackbone().before_train(Runner)


def gradients(pyramid: SelfPatchPyramid) -> set[str]:
    sum(m.square().sum() for m in pyramid(torch.randn(2, 3, 64, 64))).backward()
    return {name for name, parameter in pyramid.named_parameters() if parameter.grad is not None}


def test_everything_that_trains_gets_a_gradient(vit, swin):
    """DDP waits for the gradient of every parameter that asks for one."""
    for loaded, options in ((vit(), {}), (vit(), {"taps": [0, 0, 1, 2]}), (vit(), {"tap_norm": True}), (swin, {})):
        pyramid = SelfPatchPyramid(loaded, **options)
        assert gradients(pyramid) == {name for name, p in pyramid.named_parameters() if p.requires_grad}


def test_frozen_parts_do_not_train(vit):
    whole = SelfPatchPyramid(vit(), frozen=True, drop_path=0.5)
    assert not any(name.startswith("encoder") for name in gradients(whole))
    assert not whole.encoder.training
    assert whole.scales.training
    part = SelfPatchPyramid(vit(), frozen_blocks=2)
    trained = {name.split(".")[2] for name in gradients(part) if name.startswith("encoder.blocks")}
    assert trained == {"2", "3"}
    assert not part.encoder.pos_embed.requires_grad


def test_checkpointing_changes_no_gradient(vit):
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(1)
        pyramid = SelfPatchPyramid(vit(), checkpointing=checkpointing, drop_path=0.3)
        torch.manual_seed(2)
        gradients(pyramid)
        found.append(pyramid.encoder.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(*found)


def test_drop_path_grows_to_its_rate(vit, swin):
    for loaded in (vit(), swin):
        rates = [block.drop_path.rate for block in SelfPatchPyramid(loaded, drop_path=0.2).encoder.blocks]
        assert rates == pytest.approx(np.linspace(0, 0.2, len(rates)).tolist())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"taps": [0, 1, 2, 4]}, "can be tapped from 0 to 3"),
        ({"taps": [0, 1]}, "needs as many taps"),
    ],
)
def test_impossible_options_are_refused(vit, options, reason):
    with pytest.raises(UserError, match=reason):
        SelfPatchPyramid(vit(), **options)


def test_a_missing_final_norm_is_not_invented(vit, swin):
    for loaded in (vit(final_norm=False), swin):
        with pytest.raises(UserError, match="no final norm"):
            SelfPatchPyramid(loaded, tap_norm=True)
