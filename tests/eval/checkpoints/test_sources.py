"""Files and folders of every kind are read without running what is in them; what is no checkpoint is told so."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from selfpatch.eval.checkpoints.load import load_backbone
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.vit import VisionTransformer

VIT = {"embed_dim": 48, "depth": 2, "heads": 3, "patch_size": 8, "img_size": 32}


def network(seed: int = 0, **options) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    state = VisionTransformer(**VIT, **options).state_dict()
    return {name: 0.2 * torch.randn_like(tensor) for name, tensor in state.items()}


def under(prefix: str, state: dict) -> dict:
    return {prefix + name: tensor for name, tensor in state.items()}


class RunsCode:
    def __init__(self, canary: pathlib.Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


class Settings:
    """A class that no other process can import: what frameworks pickle beside the weights."""

    def __init__(self) -> None:
        self.lr, self.path = 0.1, pathlib.PurePosixPath("data")


@pytest.mark.parametrize("new_format", [True, False])
def test_a_lightning_checkpoint_gives_its_tensors_and_runs_nothing(new_format, tmp_path):
    own, other = network(1), network(2)
    content = {
        "epoch": 12,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": under("student_backbone.", other) | under("teacher_backbone.", own),
        "callbacks": {"ModelCheckpoint": {"best": RunsCode(tmp_path / "canary")}},
        "hyper_parameters": {
            "config": Settings(),
            "args": argparse.Namespace(lr=1),
            "run": RunsCode(tmp_path / "canary"),
        },
        "optimizer_states": [{"state": {0: {"exp_avg": torch.randn(3)}}}],
    }
    torch.save(content, tmp_path / "last.ckpt", _use_new_zipfile_serialization=new_format)
    loaded = load_backbone(tmp_path / "last.ckpt", heads=3)
    assert not (tmp_path / "canary").exists()
    assert (loaded.which, loaded.epoch) == ("teacher", 12)
    assert all(torch.equal(loaded.state[name], tensor) for name, tensor in own.items())


def test_a_model_that_was_pickled_whole_gives_its_tensors(tmp_path):
    torch.manual_seed(0)
    model = VisionTransformer(**VIT)
    torch.save(model, tmp_path / "model.pth")
    loaded = load_backbone(tmp_path / "model.pth", heads=3)
    assert all(torch.equal(loaded.state[name], tensor) for name, tensor in model.state_dict().items())


def test_a_distributed_checkpoint_is_put_together(tmp_path):
    """Written by torch.distributed.checkpoint; its pieces are read without its own unpickling."""
    from torch.distributed import checkpoint

    own = network()
    checkpoint.save({"model": own, "step": 7, "run": argparse.Namespace(a=1)}, checkpoint_id=str(tmp_path / "dcp"))
    loaded = load_backbone(tmp_path / "dcp", heads=3)
    assert all(torch.equal(loaded.state[name], tensor) for name, tensor in own.items())
    for piece in (tmp_path / "dcp").glob("*.distcp"):
        piece.unlink()
    with pytest.raises(UserError, match=r"names __0_0\.distcp, which is not there"):
        load_backbone(tmp_path / "dcp", heads=3)


def folder(tmp_path: pathlib.Path, state: dict, shards: int = 1, **config) -> pathlib.Path:
    """A Hugging Face folder of a DINOv2 whose tensors are under this project's names, in so many shards."""
    names = sorted(state)
    files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    if shards == 1:
        save_file(state, tmp_path / "model.safetensors")
    else:
        for i, file in enumerate(files):
            save_file({name: state[name] for name in names[i::shards]}, tmp_path / file)
        weight_map = {name: files[i % shards] for i, name in enumerate(names)}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2", "num_attention_heads": 3, **config}))
    return tmp_path


def test_shards_are_one_network(tmp_path):
    own = network(layer_scale=1.0) | {"mask_token": torch.zeros(1, 48)}
    loaded = load_backbone(folder(tmp_path, own, shards=3, hidden_size=48, patch_size=8))
    assert loaded.heads_from == "config.json"
    assert all(torch.equal(loaded.state[name], own[name]) for name in loaded.state)
    before = loaded.checkpoint_sha256
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text() + "\n")
    assert load_backbone(tmp_path).checkpoint_sha256 != before  # the configuration belongs to the checkpoint
    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(UserError, match=r"names model-00002-of-00003\.safetensors, which is not in"):
        load_backbone(tmp_path)


@pytest.mark.parametrize("file", ["", "model.safetensors"])
def test_the_pixels_are_those_of_the_preprocessor(file, tmp_path):
    folder(tmp_path, network(layer_scale=1.0) | {"mask_token": torch.zeros(1, 48)})
    assert load_backbone(tmp_path / file).mean == pytest.approx((0.485, 0.456, 0.406))
    pixels = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
    loaded = load_backbone(tmp_path / file)
    assert (loaded.mean, loaded.std) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert loaded.model.std == loaded.std


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"hidden_size": 64}, "config.json says dim 64 but the tensors 48"),
        ({"num_hidden_layers": 12}, "config.json says depth 12 but the tensors 2"),
        ({"patch_size": 14}, "config.json says patch 14 but the tensors 8"),
        ({"num_attention_heads": 5}, "5 heads do not divide a width of 48"),
        ({"quantization_config": {"bits": 4}}, "quantised weights"),
        ({"model_type": "bert"}, "a bert model"),
        ({"hidden_act": "gelu_new"}, "hidden_act gelu_new"),
    ],
)
def test_a_configuration_that_contradicts_the_tensors_is_refused(config, told, tmp_path):
    folder(tmp_path, network(layer_scale=1.0) | {"mask_token": torch.zeros(1, 48)}, **config)
    with pytest.raises(UserError, match=told) as error:
        load_backbone(tmp_path)
    assert "\n" not in str(error.value)


def zeros(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(3) for name in names}


QUANTISED = {"blocks.0.attn.qkv.weight": torch.zeros(144, 48, dtype=torch.int8)}
FOREIGN = {  # what it is: its tensors
    "a LoRA adapter": zeros("base_model.model.blocks.0.attn.qkv.lora_A.weight"),
    "quantised weights": network() | QUANTISED | zeros("blocks.0.attn.qkv.SCB"),
    "a text model": zeros("bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.output.dense.bias"),
    "a BEiT": network() | zeros("blocks.0.attn.relative_position_bias_table"),
    "a CAPI model": zeros("encoder.blocks.0.residual1.fn.q_proj.weight", "patch_embed.weight"),
    "a ConvNeXt": zeros("stages.0.blocks.0.conv_dw.weight"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_networks_of_another_kind_are_named(what, tmp_path):
    torch.save(FOREIGN[what], tmp_path / "other.pth")
    with pytest.raises(UserError, match=what) as error:
        load_backbone(tmp_path / "other.pth", heads=3)
    assert "\n" not in str(error.value)


FILES = {
    "an ONNX file": ("model.onnx", b"\x08\x07\x12\x07pytorch"),
    "an ONNX file, ": ("model.bin", b"\x08\x07\x12\x07pytorch"),
    "a GGUF file": ("model.bin", b"GGUF" + struct.pack("<I", 3)),
    "an HDF5 file": ("model.h5", b"\x89HDF\r\n\x1a\n"),
    "neither torch.save's format nor safetensors": ("model.pth", b"weights"),
    "not a whole safetensors file": ("model.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{"),
}


@pytest.mark.parametrize("what", FILES)
def test_files_of_another_form_are_named(what, tmp_path):
    name, content = FILES[what]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=what):
        load_backbone(tmp_path / name)


def test_torchscript_and_numpy_archives_are_named(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "program.pt")
    with pytest.raises(UserError, match="TorchScript"):
        load_backbone(tmp_path / "program.pt")
    with pytest.raises(UserError, match="is a folder without"):
        load_backbone(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="LoRA adapter"):
        load_backbone(tmp_path)


def test_a_mistake_costs_a_line_and_status_2(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07")
    call = [sys.executable, "-m", "selfpatch.eval.checkpoints.convert", str(tmp_path / "model.onnx"), "out.pth"]
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def both(template: str) -> dict[str, str]:
    return {network_: template.format(network_) for network_ in ("teacher", "student")}


SOLO = {"student": "backbone.", "teacher": "momentum_backbone."}
IJEPA = {"teacher": "target_encoder.module.", "student": "encoder.module."}
FSDP = {"backbone": "model._fsdp_wrapped_module._checkpoint_wrapped_module."}
# what libraries call their networks: (prefixes by network, the default first; names of what is beside them)
LIBRARIES = {
    "solo-learn": (SOLO, ["projector.0.weight", "momentum_classifier.bias"]),
    "lightly": (both("{}_backbone."), ["teacher_head.layers.0.weight"]),
    "lightly, timm's ViT": (both("{}_backbone.vit."), []),
    "lightly-train": (both("{}_embedding_model.wrapped_model._model."), ["student_projection_head.weight"]),
    "lightly-train, DINOv2": (both("{}_embedding_model_wrapper._model."), ["student_dino_head.dino_head.weight"]),
    "stable-pretraining": (both("backbone.{}."), ["projector.weight", "backbone.ema_coefficient", "callbacks_a.b"]),
    "I-JEPA": (IJEPA, ["predictor.module.predictor_blocks.0.norm1.weight"]),
    "FSDP": (FSDP, []),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_networks_of_libraries_are_found(library, tmp_path):
    prefixes, beside = LIBRARIES[library]
    default = next(iter(prefixes))
    states = {network_: network(seed) for seed, network_ in enumerate(prefixes)}
    names = {key: tensor for net, prefix in prefixes.items() for key, tensor in under(prefix, states[net]).items()}
    torch.save({"state_dict": names | {name: torch.zeros(3) for name in beside}}, tmp_path / "last.ckpt")
    for which in (None, *(prefixes if len(prefixes) > 1 else ())):
        loaded = load_backbone(tmp_path / "last.ckpt", which=which, heads=3)
        assert loaded.which == (which or default)
        assert all(torch.equal(loaded.state[name], t) for name, t in states[which or default].items())


def test_a_backbone_under_an_unknown_name_is_proposed_and_taken(tmp_path):
    own = network()
    torch.save({"model": under("net.vision.tower.", own) | {"net.text.weight": torch.zeros(3)}}, tmp_path / "two.pth")
    with pytest.raises(UserError, match=r"under net\.vision\.tower: try --prefix net\.vision\.tower"):
        load_backbone(tmp_path / "two.pth", heads=3)
    loaded = load_backbone(tmp_path / "two.pth", heads=3, prefix="net.vision.tower")
    assert all(torch.equal(loaded.state[name], tensor) for name, tensor in own.items())
    assert "all outside --prefix (1)" in loaded.certificate[0]
    with pytest.raises(UserError, match="no tensor under --prefix nowhere"):
        load_backbone(tmp_path / "two.pth", heads=3, prefix="nowhere")


@pytest.mark.parametrize("average", ["state_dict_ema", "model_ema"])
def test_the_average_of_the_weights_is_taken_when_asked_for(average, tmp_path):
    own, mean = network(1), network(2)
    torch.save({"state_dict": own, average: mean, "arch": "vit_small_patch16_224"}, tmp_path / "both.pth")
    assert torch.equal(load_backbone(tmp_path / "both.pth", which="ema", heads=3).state["pos_embed"], mean["pos_embed"])
    torch.save({"state_dict": own}, tmp_path / "one.pth")
    with pytest.raises(UserError, match="holds no average"):
        load_backbone(tmp_path / "one.pth", which="ema", heads=3)


def test_a_rectangular_table_is_called_so(tmp_path):
    torch.save(network() | {"pos_embed": torch.randn(1, 1 + 4 * 6, 48)[:, :24]}, tmp_path / "rectangular.pth")
    with pytest.raises(UserError, match=r"pos_embed has 24 rows.* a table for rectangular images"):
        load_backbone(tmp_path / "rectangular.pth", heads=3)
