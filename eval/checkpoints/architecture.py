"""The architecture that a checkpoint's tensors were made with, and an empty model of it.

A tensor of an odd shape must not mislead: every figure is what most tensors say, and what a broken tensor should have
told is set to the usual value, so that the later comparison of shapes names that tensor.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from selfpatch.eval.checkpoints.signs import has_cls_row, has_layer_scale
from selfpatch.eval.checkpoints.sources import Facts
from selfpatch.eval.checkpoints.tensors import FoundBackbone
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.vit import VisionTransformer

VIT_NAMES = {(192, 12): "ti", (384, 12): "s", (768, 12): "b", (1024, 24): "l", (1280, 32): "h"}
SWIN_NAMES = {(96, (2, 2, 6, 2)): "t", (96, (2, 2, 18, 2)): "s", (128, (2, 2, 18, 2)): "b", (192, (2, 2, 18, 2)): "l"}
NORM = re.compile(r"norm[12]\.(weight|bias)$")
PERIODS = "rope_embed.periods"
EMPTY = torch.empty(0)


def empty_model(path: Path, found: FoundBackbone, heads: int | None, facts: Facts) -> tuple[nn.Module, str | None]:
    """A model whose tensors are those that ``found`` should hold, and who told its head count (None: nobody could).

    Where nobody could, the model has one head: enough to compare shapes.

    Raises:
        UserError: ``heads`` contradicts the file, or divides no width.
    """
    metadata = found.meta.get("arch", {}).get("heads")
    stated, teller = (metadata, "metadata") if metadata is not None else (facts.heads, "config.json")
    is_swin = any(name.startswith("layers.0.") for name in found.state)
    if heads is not None and (is_swin or stated not in (None, heads)):
        teller = f"{teller} says {stated} heads" if stated is not None else "a Swin's tensors tell its heads"
        raise UserError(f"{path}: {teller}, --heads says {heads}: leave --heads out")
    try:
        if is_swin:
            from selfpatch.pretrain.swin import Swin

            return Swin(**swin_options(found)), "its tensors"
        options = vit_options(found, facts)
        width, periods = options["embed_dim"], found.state.get(PERIODS, EMPTY).numel()
        tellers = {
            teller: stated,
            "--heads": heads,
            "arch table": found.family.heads.get((width, options["depth"])),
            "its tensors": width // (4 * periods) if periods else None,  # a period for four channels of a head
        }
        teller = next((teller for teller, count in tellers.items() if count), None)
        with torch.device("meta"):  # no memory and no time for weights that are about to be replaced
            return VisionTransformer(**options, heads=tellers.get(teller, 1)), teller
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def vit_options(found: FoundBackbone, facts: Facts) -> dict[str, Any]:
    """The arguments of :class:`VisionTransformer` that the tensors were made with, but for the heads."""
    state, fixed = found.state, found.family.fixed
    dim = most_common((t.shape[0] for name, t in state.items() if NORM.search(name) and t.ndim), usual=384)
    kernel = state.get("patch_embed.proj.weight", EMPTY).shape
    patch = kernel[-1] if len(kernel) == 4 and kernel[-1] == kernel[-2] else 16
    registers = state.get("register_tokens", EMPTY).shape
    # [CLS] shows in its own tensor or in its row; registers without [CLS] are not supported, so they show it too
    shown = "cls_token" in state or has_cls_row(state.get("pos_embed")) or len(registers) == 3
    stated = found.meta.get("arch", {})
    cls_token = bool(fixed.get("cls_token", stated.get("cls_token", shown)))
    rows = state.get("pos_embed", EMPTY).numel() // dim - int(cls_token)
    swiglu = sum(".mlp.w12." in name for name in state) > sum(".mlp.fc1." in name for name in state)
    first, second = ("w12", "w3") if swiglu else ("fc1", "fc2")  # w12 holds two halves, one after the other
    hidden = [t.shape[0] // (1 + swiglu) for name, t in state.items() if f".mlp.{first}." in name and t.ndim]
    hidden += [t.shape[1] for name, t in state.items() if name.endswith(f".mlp.{second}.weight") and t.ndim == 2]
    return {
        "embed_dim": dim,
        "depth": depth_of(state, "blocks."),
        "patch_size": patch,
        "img_size": max(round(math.sqrt(max(rows, 1))), 1) * patch,  # a row too many or too few changes nothing
        "cls_token": cls_token,
        "final_norm": stated.get("final_norm", fixed.get("final_norm", "norm.weight" in state or "norm.bias" in state)),
        "layer_scale": 1.0 if fixed.get("layer_scale", has_layer_scale(state)) else None,
        "register_tokens": registers[1] if fixed.get("registers", True) and len(registers) == 3 else 0,
        "mlp_width": most_common(hidden, usual=4 * dim),
        "swiglu": swiglu,
        "rope": bool(fixed.get("rope", stated.get("rope", False))),
        "eps": facts.eps or stated.get("eps", found.family.eps),
        "positions": stated.get("positions", "antialiased" if facts.library == "timm" else found.family.positions),
    }


def swin_options(found: FoundBackbone) -> dict[str, Any]:
    """The arguments of :class:`~selfpatch.pretrain.swin.Swin`; its tensors tell all of them."""
    state, stages = found.state, range(4)
    own = {name: t.shape for name, t in state.items() if re.match(r"layers\.[0-3]\.blocks\.", name) and t.ndim}
    parts = [(int(name.split(".")[1]), name, shape) for name, shape in own.items()]
    # a stage is twice as wide as the one before it, with as many channels a head
    dim = most_common((shape[0] // 2**i for i, name, shape in parts if NORM.search(name)), usual=96)
    tables = [(i, *shape) for i, name, shape in parts if name.endswith("position_bias_table") and len(shape) == 2]
    head_width = most_common((dim * 2**i // heads for i, _, heads in tables if heads), usual=32)
    rows = most_common((rows for _, rows, _ in tables), usual=169)
    return {
        "embed_dim": dim,
        "depths": tuple(depth_of(state, f"layers.{i}.blocks.") for i in stages),
        "heads": tuple(max(dim * 2**i // max(head_width, 1), 1) for i in stages),
        "window": (math.isqrt(rows) + 1) // 2,  # a table has a row for each of (2·window - 1)² offsets
        "final_norm": found.family.fixed.get("final_norm", "norm.weight" in state or "norm.bias" in state),
    }


def depth_of(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many blocks there are under ``prefix``: the last number that has at least half of a block's 12 tensors."""
    numbers = Counter(name.removeprefix(prefix).partition(".")[0] for name in state if name.startswith(prefix))
    return 1 + max((int(n) for n, tensors in numbers.items() if n.isdecimal() and tensors >= 6), default=0)


def most_common(values: Iterable[int], usual: int) -> int:
    """The most frequent value, or ``usual`` where there is none."""
    counts = Counter(values).most_common(1)
    return counts[0][0] if counts else usual


def arch_name(arch: Mapping[str, Any]) -> str:
    """The short name of an architecture: ``vit-s16``, ``swin-t``, or ``vit-192x6-p16`` for an unpublished size."""
    if arch["family"] == "swin":
        size = SWIN_NAMES.get((arch["dim"], tuple(arch["depths"])))
        return f"swin-{size}" if size else f"swin-{arch['dim']}x{'.'.join(map(str, arch['depths']))}"
    size = VIT_NAMES.get((arch["dim"], arch["depth"]))
    return f"vit-{size}{arch['patch']}" if size else f"vit-{arch['dim']}x{arch['depth']}-p{arch['patch']}"
