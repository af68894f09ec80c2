"""A loaded backbone in another layout: this project's, that of mmdet's and mmseg's backbones, or timm's.

Every export is loaded strictly into its target before it is written. What the target has and no checkpoint holds starts
fresh there and stands on that target's list below; anything else that is missing is an error.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from selfpatch.eval.checkpoints import certificate as proof
from selfpatch.eval.checkpoints.huggingface import check_folder, export_folder
from selfpatch.eval.checkpoints.load import LoadedBackbone
from selfpatch.eval.checkpoints.tensors import explaining, some
from selfpatch.pretrain.checkpoint import SAFETENSORS_META, plain, save_file
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.files import atomic_path, raise_unless_writable

# What starts fresh in each target, by (target, architecture); mmseg's are mmdet's.
FRESH = {
    ("selfpatch", "vit"): (),
    ("selfpatch", "swin"): (),
    ("mmdet", "vit"): ("scales.*",),  # the pyramid's deconvolutions and batch norms
    ("mmdet", "swin"): ("norm[0-3].*", "*.relative_position_index"),  # a norm a stage; norm3 only if there was no norm
    ("timm", "vit"): (),
    ("timm", "swin"): ("norm.*",),  # only if there was no norm
}
SWIN_SIDE = 256  # pixels: every grid is larger than a window, so that mmdet shifts where the published code does
TARGETS = ("selfpatch", "mmdet", "mmseg", "timm", "hf")


def export(loaded: LoadedBackbone, target: str, out: Path, records: Path | None = None) -> list[str]:
    """Write ``loaded`` to ``out`` in the layout of ``target`` and return two lines of certificate.

    ``mmdet`` and ``mmseg`` get, of a ViT, this project's pyramid backbone; of a Swin, their own SwinTransformer.
    A name that ends in ``.safetensors`` gets that format. Whatever the layout and format, the metadata goes along, so
    that the export can be loaded like any checkpoint, with its heads and under its method's name. ``hf`` writes a
    folder, with a model card of what ``records`` say of these weights.

    Raises:
        UserError: the target cannot hold the backbone.
    """
    out, family = Path(out), loaded.arch["family"]
    if target == "hf":
        return export_folder(loaded, plain(_meta(loaded)), out, records)
    name = "mmdet" if target == "mmseg" else target
    own, model, features = WRITERS[name, family](loaded)
    state = {**(model.state_dict() if model is not None else {}), **own}
    fresh = sorted(state.keys() - own.keys())
    unexplained = [key for key in fresh if explaining(key, FRESH[name, family]) is None]
    if unexplained:
        raise UserError(f"{target} needs what {loaded.checkpoint} does not hold: {some(unexplained)}")
    if model is not None:
        model.load_state_dict(state)  # strictly: names and shapes
        model.eval()
        features = features(model)

    _write(loaded, target, state, out)
    started = f"; fresh there: {', '.join(FRESH[name, family])} ({len(fresh)})" if fresh else ""
    return [f"export: all {len(own)} tensors in the layout of {target}{started}", f"export: {features}"]


def check_out(out: Path, checkpoint: Path, target: str = "selfpatch") -> None:
    """Raise UserError, before any work, where an export cannot be written to ``out``."""
    if target == "hf":
        check_folder(out)
    elif out.is_dir():
        raise UserError(f"{out} is a folder: name the file to write")
    raise_unless_writable(out.parent, "the folder")
    if out.exists() and checkpoint.exists() and out.samefile(checkpoint):
        raise UserError(f"{out} is the checkpoint itself: choose another name for the export")


def _meta(loaded: LoadedBackbone) -> dict[str, Any]:
    """The metadata that goes along with an export."""
    return {
        "method": loaded.method,
        "method_told": loaded.method_told,
        "arch": {key: value for key, value in loaded.arch.items() if key != "name"},
        "epoch": loaded.epoch,
        "seed": loaded.seed,
        "config": loaded.config,
        "train_data": loaded.train_data,
        "mean": loaded.mean,
        "std": loaded.std,
        "converted_from": {"family": loaded.family, "which": loaded.which, "sha256": loaded.checkpoint_sha256},
    }


def _write(loaded: LoadedBackbone, target: str, state: Mapping[str, Tensor], out: Path) -> None:
    state = OrderedDict((key, tensor.detach().clone().contiguous()) for key, tensor in state.items())
    meta = _meta(loaded)
    if out.suffix == ".safetensors":
        from safetensors.torch import save_file as save_safetensors

        with atomic_path(out) as temporary:
            save_safetensors(state, temporary, metadata={SAFETENSORS_META: json.dumps(plain(meta))})
    elif target == "timm":
        state.meta = plain(meta)  # beside the tensors: timm wants nothing else in the dictionary
        save_file(state, out)
    else:
        save_file({"meta": plain(meta), "state_dict": state}, out)


# --- the writers: tensors under the target's names, a model to load them into, the proof of its features -------------


def _ours(loaded: LoadedBackbone) -> tuple[dict[str, Tensor], None, str]:
    prefix = "student" if loaded.which == "student" else "teacher"
    return {f"{prefix}.backbone.{key}": t for key, t in loaded.state.items()}, None, "the same network"


def _pyramid(loaded: LoadedBackbone) -> tuple[dict[str, Tensor], nn.Module, Any]:
    from selfpatch.eval.dense.pyramid import SelfPatchPyramid

    torch.manual_seed(0)  # the pyramid's fresh layers are the same in every export
    model = SelfPatchPyramid(loaded)

    def features(model: nn.Module) -> str:
        loaded.check(model.encoder)
        return "the encoder within the pyramid gives the checkpoint's features on the fixed image"

    return {f"encoder.{key}": tensor for key, tensor in loaded.state.items()}, model, features


def _mmdet_swin(loaded: LoadedBackbone) -> tuple[dict[str, Tensor], nn.Module, Any]:
    from selfpatch.eval.dense.require import import_dense
    from selfpatch.pretrain.swin import to_mmdet

    arch = loaded.arch
    model = import_dense("mmdet.models.backbones").SwinTransformer(
        embed_dims=arch["dim"], depths=arch["depths"], num_heads=arch["heads"], window_size=arch["window"]
    )

    def last_grid(model: nn.Module, images: Tensor) -> Tensor:
        return model(images)[-1].permute(0, 2, 3, 1)

    return to_mmdet(loaded.state), model, lambda model: _same_features(loaded, model, last_grid, SWIN_SIDE, True)


def _timm_vit(loaded: LoadedBackbone) -> tuple[dict[str, Tensor], nn.Module | None, Any]:
    arch, state = loaded.arch, dict(loaded.state)
    if arch["rope"] or arch["swiglu"]:
        raise UserError("timm's VisionTransformer has neither rotary positions nor this gated MLP: take --to hf")
    registers = state.pop("register_tokens", None)
    options = {
        "img_size": arch["grid"] * arch["patch"],
        "patch_size": arch["patch"],
        "embed_dim": arch["dim"],
        "depth": arch["depth"],
        "num_heads": arch["heads"],
        "mlp_ratio": arch["mlp_width"] / arch["dim"],
        "class_token": arch["cls_token"],
        "global_pool": "token" if arch["cls_token"] else "avg",
        "fc_norm": False,
        "final_norm": arch["final_norm"],
        "num_classes": 0,
    }
    if arch["layer_scale"]:
        options["init_values"] = 1.0
    if registers is not None:  # timm adds the position of [CLS] into it, and has no row for it
        state["reg_token"] = registers
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:]
        options |= {"reg_tokens": registers.shape[1], "no_embed_class": True}
    return state, *_timm(loaded, "VisionTransformer", options)


def _timm_swin(loaded: LoadedBackbone) -> tuple[dict[str, Tensor], nn.Module | None, Any]:
    arch = loaded.arch
    state = {re.sub(r"^layers\.(\d)\.downsample", _next_layer, key): tensor for key, tensor in loaded.state.items()}
    options = {
        "img_size": 32 * arch["window"],
        "embed_dim": arch["dim"],
        "depths": tuple(arch["depths"]),
        "num_heads": tuple(arch["heads"]),
        "window_size": arch["window"],
        "num_classes": 0,
    }
    return state, *_timm(loaded, "SwinTransformer", options)


def _next_layer(match: re.Match) -> str:
    return f"layers.{int(match[1]) + 1}.downsample"


def _timm(loaded: LoadedBackbone, kind: str, options: dict[str, Any]) -> tuple[nn.Module | None, Any]:
    """timm's model, where timm is installed, and how to build it."""
    call = f"timm.models.{kind}({', '.join(f'{key}={value!r}' for key, value in options.items())})"
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that does not fit torch
        return None, f"for {call}; not loaded there, since timm cannot be imported ({error})"
    model = getattr(timm.models, kind)(**options)
    side, norm = options["img_size"], options.get("final_norm", True)

    def features(model: nn.Module) -> str:
        same = _same_features(loaded, model, lambda model, images: model.forward_features(images), side, norm)
        return f"for {call}: {same}"

    return model, features


def _same_features(loaded: LoadedBackbone, model: nn.Module, run: Any, side: int, norm: bool) -> str:
    """Compare the last tokens, after the final norm if there is one, on a fixed image of ``side`` pixels.

    Not of a target with a final norm (``norm``) where the checkpoint has none.

    Raises:
        UserError: they differ.
    """
    generator = torch.Generator().manual_seed(side)
    images = torch.randn(1, 3, side, side, generator=generator)
    if norm and not loaded.arch["final_norm"]:
        return "features not compared: the target has a final norm and the checkpoint none"
    with torch.no_grad():
        expected = loaded.model(images)[1]
        found = run(model, images)
    found = found.flatten(1, -2)[:, -expected.shape[1] :]  # (B, N, C): a ViT's [CLS] and registers stand before
    difference = proof.largest_difference(found, expected)
    if difference > 1e-4:  # float32
        raise UserError(f"the export of {loaded.checkpoint} gives other features in its target ({difference:.1e})")
    return f"it gives the checkpoint's features on a fixed {side}x{side} image (relative difference {difference:.0e})"


WRITERS = {
    ("selfpatch", "vit"): _ours,
    ("selfpatch", "swin"): _ours,
    ("mmdet", "vit"): _pyramid,
    ("mmdet", "swin"): _mmdet_swin,
    ("timm", "vit"): _timm_vit,
    ("timm", "swin"): _timm_swin,
}
