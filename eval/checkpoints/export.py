"""A loaded backbone in another layout: this project's, that of mmdet's and mmseg's backbones, or timm's.

Every export is loaded strictly into its target before it is written. What the target has and no checkpoint holds starts
fresh there and stands on that layout's list; anything else that is missing is an error.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from selfpatch.eval.checkpoints.families import FAMILIES
from selfpatch.eval.checkpoints.huggingface import check_folder, export_folder
from selfpatch.eval.checkpoints.load import LoadedBackbone
from selfpatch.eval.checkpoints.tensors import explaining
from selfpatch.pretrain.checkpoint import SAFETENSORS_META, plain, save_file
from selfpatch.pretrain.cli import UserError, listed
from selfpatch.pretrain.files import atomic_path, raise_unless_writable

SWIN_SIDE = 256  # pixels: every grid is larger than a window, so that mmdet shifts where the published code does
TARGETS = ("selfpatch", "mmdet", "mmseg", "timm", "hf")


@dataclass(frozen=True)
class Layout:
    """A backbone as a target has it."""

    own: Mapping[str, Tensor]  # the checkpoint's tensors under the target's names
    # says how the target's model computes what the checkpoint's does; UserError: it does not
    features: Callable[[], str]
    model: nn.Module | None = None  # of the target; None: it cannot be built here
    fresh: tuple[str, ...] = ()  # patterns of what no checkpoint holds and the target starts anew


def export(loaded: LoadedBackbone, target: str, out: Path, records: Path | None = None) -> list[str]:
    """Write ``loaded`` to ``out`` in the layout of ``target`` and return two lines of certificate.

    ``mmdet`` and ``mmseg`` get, of a ViT, this project's pyramid backbone; of a Swin, their own SwinTransformer.
    A name that ends in ``.safetensors`` gets that format. Whatever the layout and format, the metadata goes along, so
    that the export can be loaded like any checkpoint, with its heads and under its method's name. ``hf`` writes a
    folder, with a model card of what ``records`` say of these weights.

    Raises:
        UserError: the target cannot hold the backbone.
    """
    out = Path(out)
    if target == "hf":
        return export_folder(loaded, plain(_meta(loaded)), out, records)
    layout = WRITERS[target, loaded.arch["family"]](loaded)
    state = {**(layout.model.state_dict() if layout.model is not None else {}), **layout.own}
    fresh = sorted(state.keys() - layout.own.keys())
    if unexplained := [key for key in fresh if explaining(key, layout.fresh) is None]:
        raise UserError(f"{target} needs what {loaded.checkpoint} does not hold: {listed(unexplained)}")
    if layout.model is not None:
        layout.model.load_state_dict(state)  # strictly: names and shapes
        layout.model.eval()
    features = layout.features()

    _write(loaded, target, state, out)
    started = f"; fresh there: {', '.join(layout.fresh)} ({len(fresh)})" if fresh else ""
    return [f"export: all {len(layout.own)} tensors in the layout of {target}{started}", f"export: {features}"]


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


# --- the writers: one for each target and architecture ---------------------------------------------------------------


def _ours(loaded: LoadedBackbone) -> Layout:
    prefix = "student" if loaded.which == "student" else "teacher"
    own = {f"{prefix}.backbone.{key}": tensor for key, tensor in loaded.state.items()}
    return Layout(own, lambda: "the same network")


def _pyramid(loaded: LoadedBackbone) -> Layout:
    from selfpatch.eval.dense.pyramid import SelfPatchPyramid

    torch.manual_seed(0)  # the pyramid's fresh layers are the same in every export
    model = SelfPatchPyramid(loaded)

    def features() -> str:
        loaded.check(model.encoder)
        return "the encoder within the pyramid gives the checkpoint's features on the fixed image"

    own = {f"encoder.{key}": tensor for key, tensor in loaded.state.items()}
    return Layout(own, features, model, fresh=("scales.*",))  # the pyramid's deconvolutions and batch norms


def _mmdet_swin(loaded: LoadedBackbone) -> Layout:
    from selfpatch.eval.dense.require import import_dense
    from selfpatch.pretrain.swin import to_mmdet

    arch = loaded.arch
    model = import_dense("mmdet.models.backbones").SwinTransformer(
        embed_dims=arch["dim"], depths=arch["depths"], num_heads=arch["heads"], window_size=arch["window"]
    )
    last_grid = partial(_same_features, loaded, lambda images: model(images)[-1].permute(0, 2, 3, 1), SWIN_SIDE, True)
    # a norm a stage, the last one's only if there was no norm
    return Layout(to_mmdet(loaded.state), last_grid, model, fresh=("norm[0-3].*", "*.relative_position_index"))


def _timm_vit(loaded: LoadedBackbone) -> Layout:
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
    return _timm(loaded, "VisionTransformer", state, options)


def _timm_swin(loaded: LoadedBackbone) -> Layout:
    arch = loaded.arch
    family = next(family for family in FAMILIES if family.name == "swin-timm")
    options = {
        "img_size": 32 * arch["window"],
        "embed_dim": arch["dim"],
        "depths": tuple(arch["depths"]),
        "num_heads": tuple(arch["heads"]),
        "window_size": arch["window"],
        "num_classes": 0,
    }
    state = {family.original(key): tensor for key, tensor in loaded.state.items()}
    return _timm(loaded, "SwinTransformer", state, options)


def _timm(loaded: LoadedBackbone, kind: str, state: Mapping[str, Tensor], options: dict[str, Any]) -> Layout:
    """The layout for timm's model of that kind, which is built where timm is installed."""
    call = f"for timm.models.{kind}({', '.join(f'{key}={value!r}' for key, value in options.items())})"
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that does not fit torch
        without = f"{call}; not loaded there, since timm cannot be imported ({error})"
        return Layout(state, lambda: without)
    model, norm = getattr(timm.models, kind)(**options), options.get("final_norm", True)
    same = partial(_same_features, loaded, model.forward_features, options["img_size"], norm)
    return Layout(state, lambda: f"{call}: {same()}", model, fresh=() if "final_norm" in options else ("norm.*",))


def _same_features(loaded: LoadedBackbone, run: Callable[[Tensor], Tensor], side: int, norm: bool) -> str:
    """That a target gives the same last tokens; not compared where only the target has a final ``norm``."""
    if norm and not loaded.arch["final_norm"]:
        return "features not compared: the target has a final norm and the checkpoint none"
    return f"it gives the checkpoint's features {loaded.same_features(run, side, 'its target')}"


WRITERS = {
    ("selfpatch", "vit"): _ours,
    ("selfpatch", "swin"): _ours,
    ("mmdet", "vit"): _pyramid,
    ("mmdet", "swin"): _mmdet_swin,
    ("mmseg", "vit"): _pyramid,  # mmseg's are mmdet's
    ("mmseg", "swin"): _mmdet_swin,
    ("timm", "vit"): _timm_vit,
    ("timm", "swin"): _timm_swin,
}
