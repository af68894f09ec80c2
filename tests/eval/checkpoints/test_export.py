"""Exports load strictly in their target, give the checkpoint's features there, and come back through the door."""

import dataclasses
from pathlib import PurePosixPath

import pytest
import torch
from safetensors.torch import load_file as load_safetensors

from selfpatch.eval.checkpoints import load as convert
from selfpatch.eval.checkpoints.convert import main
from selfpatch.eval.checkpoints.export import TARGETS, export
from selfpatch.eval.checkpoints.load import load_backbone
from selfpatch.eval.checkpoints.sources import Source
from selfpatch.eval.dense.pyramid import SelfPatchPyramid
from selfpatch.pretrain.checkpoint import load_file, save_file
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.swin import Swin, from_mmdet
from selfpatch.pretrain.vit import VisionTransformer

VIT = {"embed_dim": 48, "depth": 4, "heads": 3, "patch_size": 16, "img_size": 64}
BACKBONES = {
    "dino": lambda: VisionTransformer(**VIT),
    "selfpatch": lambda: VisionTransformer(**VIT, cls_token=False, final_norm=False),
    "registers": lambda: VisionTransformer(**VIT, layer_scale=1.0, register_tokens=4),
    "swin": lambda: Swin(embed_dim=8, depths=(1, 2, 1, 1), heads=(1, 2, 4, 8)),
}


@pytest.fixture(scope="module")
def loaded(request, tmp_path_factory):
    """Each backbone as a file with non-trivial weights, through the door."""
    torch.manual_seed(0)
    network = BACKBONES[request.param]()
    state = {name: 0.2 * torch.randn_like(tensor) for name, tensor in network.state_dict().items()}
    if request.param == "registers":
        state["mask_token"] = torch.zeros(1, 48)  # as DINOv2's
    path = tmp_path_factory.mktemp("checkpoints") / f"{request.param}.pth"
    torch.save({"model": state} if request.param == "swin" else state, path)
    return load_backbone(path, heads=None if request.param == "swin" else 3)


every_backbone = pytest.mark.parametrize("loaded", BACKBONES, indirect=True)


FILES = [target for target in TARGETS if target != "hf"]  # a folder: tests/interop
FORMATS = [(target, suffix) for target in FILES for suffix in ("pth", "safetensors")]


@pytest.mark.parametrize(("target", "suffix"), FORMATS)
@every_backbone
def test_every_export_comes_back_with_its_heads_and_name(loaded, target, suffix, tmp_path):
    named = dataclasses.replace(loaded, method="Mine", method_told=True, epoch=7, seed=3, config={"lr": 0.1})
    export(named, target, tmp_path / f"out.{suffix}")
    again = load_backbone(tmp_path / f"out.{suffix}")
    assert (again.method, again.method_told, again.epoch, again.seed, again.config) == ("Mine", True, 7, 3, {"lr": 0.1})
    assert again.arch == loaded.arch
    torch.testing.assert_close(again.tokens, loaded.tokens, atol=1e-5, rtol=1e-5)
    if not (target == "timm" and loaded.arch.get("registers")):  # there [CLS] holds its position
        assert again.weights_sha256 == loaded.weights_sha256


@pytest.mark.parametrize(("target", "suffix"), FORMATS)
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_a_student_comes_back_too(family, target, suffix, tmp_path):
    torch.manual_seed(0)
    if family == "vit":
        networks = [VisionTransformer(**VIT, cls_token=False, final_norm=False) for _ in range(2)]
    else:
        networks = [Swin(embed_dim=8, depths=(1, 2, 1, 1), heads=(1, 2, 4, 8), final_norm=False) for _ in range(2)]
    state = {
        f"{name}.backbone.{key}": tensor
        for name, network in zip(("teacher", "student"), networks)
        for key, tensor in network.state_dict().items()
    }
    meta = {"method": "DINO+SelfPatch", "arch": networks[0].arch, "epoch": 1}
    save_file({"meta": meta, "state_dict": state}, tmp_path / "both.pth")
    student = load_backbone(tmp_path / "both.pth", which="student")
    export(student, target, tmp_path / f"out.{suffix}")
    again = load_backbone(tmp_path / f"out.{suffix}")
    assert (again.weights_sha256, again.arch, again.method) == (student.weights_sha256, student.arch, "DINO+SelfPatch")


@pytest.mark.parametrize("change", ["removed", "reshaped", "added"])
def test_a_broken_export_for_mmdet_fails_with_the_tensors_name(change, tmp_path, monkeypatch):
    path = tmp_path / "swin.pth"
    torch.save(BACKBONES["swin"]().state_dict(), path)
    export(load_backbone(path), "mmdet", tmp_path / "out.pth")
    whole = load_file(tmp_path / "out.pth")
    fresh = ("norm0", "norm1", "norm2")
    names = [n for n in whole["state_dict"] if not n.startswith(fresh) and not n.endswith("_index")]
    for name in names if change != "added" else ["stages.0.unheard_of"]:
        state = dict(whole["state_dict"])
        if change == "removed":
            del state[name]
        else:
            state[name] = torch.cat([state[name]] * 2, dim=-1) if change == "reshaped" else torch.zeros(3)
        monkeypatch.setattr(convert, "read_source", lambda *_, state=state: Source({**whole, "state_dict": state}, ()))
        with pytest.raises(UserError) as error:
            load_backbone(tmp_path / "out.pth")
        (ours,) = from_mmdet({name: torch.zeros(4)})
        assert name in str(error.value) or ours in str(error.value), f"{name}: {error.value}"


def test_a_neutral_name_stays_one(tmp_path):
    torch.save({"state_dict": BACKBONES["dino"]().state_dict()}, tmp_path / "anyone.pth")
    main([str(tmp_path / "anyone.pth"), str(tmp_path / "out.safetensors"), "--heads", "3"])
    again = load_backbone(tmp_path / "out.safetensors")
    assert (again.method, again.method_told) == ("ViT", False)
    main([str(tmp_path / "anyone.pth"), str(tmp_path / "named.safetensors"), "--heads", "3", "--method", "iBOT"])
    named = load_backbone(tmp_path / "named.safetensors")
    assert (named.method, named.method_told) == ("iBOT", True)


@every_backbone
def test_to_our_own_layout_and_back(loaded, tmp_path):
    export(loaded, "selfpatch", tmp_path / "out.pth")
    again = load_backbone(tmp_path / "out.pth")  # the heads are in the metadata now
    assert (again.family, again.weights_sha256, again.method) == ("ours", loaded.weights_sha256, loaded.method)
    assert again.arch == loaded.arch
    again.check(loaded.model)


@pytest.mark.parametrize("target", ["mmdet", "mmseg"])
@pytest.mark.parametrize("loaded", ["dino", "selfpatch", "registers"], indirect=True)
def test_a_vit_in_the_pyramid(loaded, target, tmp_path):
    lines = export(loaded, target, tmp_path / "out.pth")
    assert "fresh there: scales.*" in lines[0]
    again = load_backbone(tmp_path / "out.pth")
    assert (again.family, again.weights_sha256) == ("pyramid", loaded.weights_sha256)
    pyramid = SelfPatchPyramid(again)
    pyramid.load_state_dict(load_file(tmp_path / "out.pth")["state_dict"])  # strictly
    loaded.check(pyramid.encoder)


@pytest.mark.parametrize("library", ["mmdet", "mmseg"])
@pytest.mark.parametrize("loaded", ["swin"], indirect=True)
def test_a_swin_in_the_libraries_own(loaded, library, tmp_path):
    lines = export(loaded, library, tmp_path / "out.pth")
    assert "norm[0-3]" in lines[0]
    assert "256x256" in lines[1]
    module = pytest.importorskip(f"{library}.models.backbones")
    model = module.SwinTransformer(embed_dims=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 4, 8))
    model.load_state_dict(load_file(tmp_path / "out.pth")["state_dict"])  # strictly
    model.eval()
    images = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        found = model(images)[-1].flatten(2).transpose(1, 2)
        torch.testing.assert_close(found, loaded.model(images)[1], atol=1e-4, rtol=1e-4)


@every_backbone
def test_timms_own_model_gives_the_features(loaded, tmp_path):
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm cannot be imported: {error}")
    lines = export(loaded, "timm", tmp_path / "out.safetensors")
    assert "it gives the checkpoint's features" in lines[1]
    call = lines[1].removeprefix("export: for ").partition(": it gives")[0]  # the line says how to build it
    model = eval(call, {"timm": timm})
    model.load_state_dict(load_safetensors(tmp_path / "out.safetensors"))  # strictly


@pytest.mark.parametrize("target", FILES)
def test_a_file_with_pickled_objects_is_exported(target, tmp_path):
    state = BACKBONES["dino"]().state_dict()
    torch.save({"args": PurePosixPath("x"), "state_dict": state}, tmp_path / "objects.pth")
    main([str(tmp_path / "objects.pth"), str(tmp_path / "out.pth"), "--to", target, "--heads", "3"])
    assert load_backbone(tmp_path / "out.pth").arch["heads"] == 3


@pytest.mark.parametrize("loaded", ["dino"], indirect=True)
@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("{itself}", "the checkpoint itself"),
        (".", "is a folder"),
        ("{itself}/out.pth", "cannot be written: .* is a file"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(loaded, out, reason):
    before = loaded.checkpoint.read_bytes()
    with pytest.raises(UserError, match=reason):
        main([str(loaded.checkpoint), out.format(itself=loaded.checkpoint), "--heads", "3"])
    assert loaded.checkpoint.read_bytes() == before


@pytest.mark.parametrize("loaded", ["dino"], indirect=True)
def test_other_features_in_the_target_are_refused(loaded, tmp_path, monkeypatch):
    """A weight that does not arrive is caught before anything is written."""
    monkeypatch.setattr(SelfPatchPyramid, "load_state_dict", lambda self, state: self.encoder.init_weights())
    with pytest.raises(UserError, match="certificate"):
        export(loaded, "mmdet", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize("loaded", ["selfpatch"], indirect=True)
def test_the_command_prints_both_certificates(loaded, tmp_path, capsys):
    main([str(loaded.checkpoint), str(tmp_path / "out.pth"), "--heads", "3"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["coverage", "features", "export", "export", "written"]
    assert (tmp_path / "out.pth").is_file()
