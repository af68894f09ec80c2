"""A loaded backbone as a Hugging Face folder, which ``AutoModel.from_pretrained`` loads without a network.

The folder holds the weights under the names of :mod:`selfpatch.eval.checkpoints.libraries`, the configuration, the
pixels' mean and standard deviation, and a model card with what the records say of these weights.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from selfpatch.eval.checkpoints.libraries import LIBRARIES
from selfpatch.eval.checkpoints.load import LoadedBackbone
from selfpatch.eval.checkpoints.model_card import eval_results, model_card, records_of
from selfpatch.pretrain.checkpoint import SAFETENSORS_META
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.files import temporary_name, write_text
from selfpatch.pretrain.positions import ROPE_BASE, rope_periods

FAMILIES = {family.name: family for family in LIBRARIES}


class Target(NamedTuple):
    """A class of transformers that holds a backbone: whose names its files have, and its configuration."""

    family: str
    model: str
    config: dict[str, Any]


def export_folder(loaded: LoadedBackbone, meta: Mapping[str, Any], out: Path, records: Path | None) -> list[str]:
    """Write ``loaded`` as a folder of Hugging Face and return two lines of certificate.

    Raises:
        UserError: no class of transformers holds this backbone, or its features are others there.
    """
    target = target_of(loaded)
    state = hugging_face_state(loaded, target)
    found = [] if records is None else records_of(loaded, records)
    draft = temporary_name(out)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        from safetensors.torch import save_file

        tensors = {name: tensor.clone().contiguous() for name, tensor in state.items()}
        save_file(tensors, draft / "model.safetensors", {"format": "pt", SAFETENSORS_META: json.dumps(meta)})
        for name, content in (
            ("config.json", target.config),
            ("preprocessor_config.json", preprocessor(loaded, target)),
        ):
            write_text(draft / name, json.dumps(content, indent=1) + "\n")
        write_text(draft / "README.md", model_card(loaded, target.model, found))
        if found:
            results = yaml.safe_dump(eval_results(found), sort_keys=False, allow_unicode=True)
            write_text(draft / ".eval_results" / "selfpatch.yaml", results)
        features = same_features(loaded, draft)
        if out.is_dir():
            out.rmdir()  # an empty one
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    card = f", {len(found)} records in the model card" if found else ""
    return [f"export: all {len(loaded.state)} tensors as a {target.model} of transformers{card}", f"export: {features}"]


def check_folder(out: Path) -> None:
    """Raise UserError where a folder cannot be written to ``out``: a file is there, or something in it."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out} is there already: name a new folder for the Hugging Face model")


def target_of(loaded: LoadedBackbone) -> Target:
    """The class of transformers that computes what ``loaded`` does; UserError: there is none."""
    arch, state = loaded.arch, loaded.state
    if arch["family"] == "swin":
        config = {
            "model_type": "swin",
            "embed_dim": arch["dim"],
            "depths": arch["depths"],
            "num_heads": arch["heads"],
            "window_size": arch["window"],
            "image_size": 32 * arch["window"],
            "patch_size": arch["patch"],
            "layer_norm_eps": 1e-5,
            "drop_path_rate": 0.0,
        }
        return _target("hf-swin", "SwinModel", config)
    config = {
        "hidden_size": arch["dim"],
        "num_hidden_layers": arch["depth"],
        "num_attention_heads": arch["heads"],
        "patch_size": arch["patch"],
        "image_size": (arch["grid"] or 14) * arch["patch"],  # rotary positions have no grid of their own
        "layer_norm_eps": arch["eps"],
    }
    if arch["rope"]:
        return _dinov3(loaded, config)
    if arch["layer_scale"] and arch["cls_token"] and arch["final_norm"]:
        ratio = _dinov2_ratio(arch)
        config |= {"mlp_ratio": ratio, "use_swiglu_ffn": arch["swiglu"]}
        if arch["registers"]:
            config |= {"model_type": "dinov2_with_registers", "num_register_tokens": arch["registers"]}
            return _target("hf-dinov2-registers", "Dinov2WithRegistersModel", config)
        return _target("hf-dinov2", "Dinov2Model", config | {"model_type": "dinov2"})
    if arch["layer_scale"] or arch["registers"] or arch["swiglu"]:
        parts = [part for part in ("layer_scale", "registers", "swiglu") if arch[part]]
        raise UserError(f"transformers has no ViT with {' and '.join(parts)} but without what DINOv2 has beside")
    config |= {"intermediate_size": arch["mlp_width"], "qkv_bias": True}
    if "cls_token" in state:
        return _target("hf-vit", "ViTModel", config | {"model_type": "vit"})
    return _target("hf-vit", "IJepaModel", config | {"model_type": "ijepa"})  # its ViT without [CLS]


def _target(family: str, model: str, config: dict[str, Any]) -> Target:
    return Target(family, model, {"architectures": [model], "torch_dtype": "float32", **config})


def _dinov3(loaded: LoadedBackbone, config: dict[str, Any]) -> Target:
    arch, state = loaded.arch, loaded.state
    periods = state["rope_embed.periods"]
    if not torch.allclose(periods, rope_periods(arch["dim"] // arch["heads"], ROPE_BASE), rtol=1e-6, atol=0):
        raise UserError("transformers computes the periods of rotary positions, and this checkpoint's are others")
    keys = torch.cat([state[f"blocks.{i}.attn.qkv.bias"].chunk(3)[1] for i in range(arch["depth"])])
    config |= {
        "model_type": "dinov3_vit",
        "intermediate_size": arch["mlp_width"],
        "num_register_tokens": arch["registers"],
        "use_gated_mlp": arch["swiglu"],
        "hidden_act": "silu" if arch["swiglu"] else "gelu",
        "key_bias": bool(keys.any()),
        "rope_theta": ROPE_BASE,
    }
    return _target("hf-dinov3", "DINOv3ViTModel", config)


def _dinov2_ratio(arch: Mapping[str, Any]) -> int:
    """The whole ``mlp_ratio`` from which transformers makes the MLP's width."""
    for ratio in range(1, 17):
        width = arch["dim"] * ratio
        if arch["mlp_width"] == ((int(width * 2 / 3) + 7) // 8 * 8 if arch["swiglu"] else width):
            return ratio
    raise UserError(f"transformers' DINOv2 has no MLP of width {arch['mlp_width']} for tokens of width {arch['dim']}")


def hugging_face_state(loaded: LoadedBackbone, target: Target) -> dict[str, Tensor]:
    """The weights under the names that transformers saves, queries, keys and values apart."""
    family, dim = FAMILIES[target.family], loaded.arch["dim"]
    state: dict[str, Tensor] = {}
    for name, tensor in loaded.state.items():
        start, _, kind = name.rpartition(".")
        if start.endswith(".attn.qkv"):
            parts = {f"{start[:-4]}.{part}.{kind}": third for part, third in zip("qkv", tensor.chunk(3))}
        elif target.family == "hf-dinov3" and start.endswith(".mlp.w12"):
            parts = {f"{start[:-4]}.{part}.{kind}": half for part, half in zip(("gate", "up"), tensor.chunk(2))}
        elif target.family == "hf-dinov3":
            parts = {name.replace(".fc1.", ".up.").replace(".fc2.", ".down.").replace(".w3.", ".down."): tensor}
        else:
            parts = {name: tensor}
        state |= {family.original(part): value for part, value in parts.items()}
    state.pop("rope_embed.periods", None)
    if target.family == "hf-dinov3" and not target.config["key_bias"]:
        state = {name: tensor for name, tensor in state.items() if not name.endswith("attention.k_proj.bias")}
    if target.family.startswith("hf-dino"):  # what the library has for masked images
        shape = (1, 1, dim) if target.family == "hf-dinov3" else (1, dim)
        state["embeddings.mask_token"] = torch.zeros(shape)
    if not loaded.arch["final_norm"]:  # the class has one: it starts fresh
        width = loaded.model.embed_dim
        state |= {"layernorm.weight": torch.ones(width), "layernorm.bias": torch.zeros(width)}
    return state


def preprocessor(loaded: LoadedBackbone, target: Target) -> dict[str, Any]:
    """How transformers prepares images for these weights."""
    side = target.config["image_size"]
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(loaded.mean),
        "image_std": list(loaded.std),
    }


def same_features(loaded: LoadedBackbone, folder: Path) -> str:
    """Load ``folder`` in transformers, where it is installed, and compare its last tokens at the native size."""
    try:
        from transformers import AutoModel
        from transformers.utils import logging
    except ImportError as error:
        return f"not loaded there, since transformers cannot be imported ({error})"
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # of a pooler that the class adds
    logging.disable_progress_bar()
    try:
        model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    finally:
        logging.set_verbosity(level)
    normed = loaded.arch["final_norm"]

    def tokens(images: Tensor) -> Tensor:
        found = model(images, output_hidden_states=True)
        return found.last_hidden_state if normed else found.hidden_states[-1]

    same = loaded.same_features(tokens, model.config.image_size, "transformers", normed)
    what = "last_hidden_state" if normed else "hidden_states[-1]"
    fresh = "" if normed else "; last_hidden_state goes through a LayerNorm that the checkpoint has not"
    return f"AutoModel.from_pretrained gives the checkpoint's features as {what} {same}{fresh}"
