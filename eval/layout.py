"""Reading a checkpoint's layout: which names it holds, of which family it is, which of them are a backbone's."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfpatch.eval.families import BOOKKEEPING, FAMILIES, LAYER_SCALE, SYNONYMS, Family
from selfpatch.pretrain.cli import UserError

WRAPPERS = re.compile(r"^((state_dict|model)\.)+")  # what training scripts put their one network under
LONE_WRAPPERS = ("teacher.", "backbone.")
WRAPPED_MODULES = re.compile(r"(^|(?<=\.))(module|_orig_mod|_fsdp_wrapped_module)\.")  # what DDP and others add


@dataclass(frozen=True)
class Backbone:
    """The tensors of one network's backbone in a file."""

    family: Family
    which: str  # teacher, student or backbone
    prefix: str  # of its names in the file
    state: dict[str, Tensor]  # our name -> tensor, float32
    names: dict[str, str]  # our name -> the file's name
    left_out: Counter[str]  # pattern -> how many tensors it explains that are no part of the backbone
    meta: dict[str, Any]  # our own checkpoints' metadata; empty for others


def read_backbone(path: Path, content: Any, which: str | None) -> Backbone:
    """Sort the tensors of a loaded checkpoint into the chosen backbone's and those that its family leaves out.

    Raises:
        UserError: the family is unknown, the network is not there, or a tensor is on no list.
    """
    tensors, meta = named_tensors(path, content), metadata(content)
    family = recognise(content, tensors)
    for wrapper in LONE_WRAPPERS:  # one network alone, as a training script names it
        if family is None and all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
            family = recognise(content, tensors)
    if family is None:
        raise UserError(f"{path} {_unknown(tensors)}")
    which, prefix = _network(path, family, which, tensors, meta)
    # our own checkpoints list the parts of their method themselves: a new method needs no entry here
    beside = (*(f"{p}*" for p in family.networks.values() if p != prefix), *family.left_out, *meta.get("beside", ()))

    state, names, left_out, unexplained = {}, {}, Counter(), []
    for name, tensor in tensors.items():
        inner = name.removeprefix(prefix)
        within = name.startswith(prefix)
        pattern = explaining(inner if within else name, family.backbone_left_out if within else beside)
        if pattern is not None:
            left_out[prefix + pattern if within else pattern] += 1
        elif not within or not tensor.is_floating_point():
            unexplained.append(name)
        else:
            ours = family.renamed(inner)
            if ours in state:
                raise UserError(f"{path} ({family.name} layout): {names[ours]} and {name} both come to {ours}")
            state[ours], names[ours] = tensor.detach().to(torch.float32).contiguous(), name
    if unexplained:
        raise UserError(f"{path} ({family.name} layout) holds what it cannot explain: {some(sorted(unexplained))}")
    if family.cls_without_row:
        _add_cls_row(state)
    return Backbone(family, which, prefix, state, names, left_out, meta)


def named_tensors(path: Path, content: Any) -> dict[str, Tensor]:
    """Every tensor of a checkpoint by its path through the nested dictionaries, without wrappers' names.

    Raises:
        UserError: there is none, or two come to the same name.
    """
    found: dict[str, Tensor] = {}

    def walk(value: Any, trail: str) -> None:
        if isinstance(value, Tensor):
            name = WRAPPERS.sub("", WRAPPED_MODULES.sub("", trail))
            if name in found:
                raise UserError(f"{path} holds two tensors that come to the name {name}")
            found[name] = value
        elif isinstance(value, Mapping):
            for key, item in value.items():
                if trail or key not in BOOKKEEPING:
                    walk(item, f"{trail}.{key}" if trail else str(key))

    walk(content, "")
    if not found:
        raise UserError(f"{path} holds no tensors by name: it is not a checkpoint of a network")
    return found


def metadata(content: Any) -> dict[str, Any]:
    """The metadata of one of our own checkpoints; empty for another's."""
    meta = content.get("meta") if isinstance(content, Mapping) else None
    return dict(meta) if isinstance(meta, Mapping) and isinstance(meta.get("arch"), Mapping) else {}


def recognise(content: Any, tensors: Mapping[str, Tensor]) -> Family | None:
    """The family of a checkpoint, from its names, its top-level entries and its table of positions; None: unknown."""
    entries = {str(entry) for entry in content} if isinstance(content, Mapping) else set()
    marks = set(tensors) | entries | {f"meta.{key}" for key in metadata(content)}
    if has_layer_scale(tensors):
        marks.add(LAYER_SCALE)
    cls_row = next((has_cls_row(name, tensors) for name in tensors if name.endswith("pos_embed")), None)
    return next((family for family in FAMILIES if family.fits(marks, cls_row)), None)


def _unknown(tensors: Mapping[str, Tensor]) -> str:
    """What to say of a file that no family's signs fit."""
    if any(re.search(r"(^|\.)layer1\.0\.conv1\.weight$", name) for name in tensors):
        return "holds a ResNet, not a ViT or a Swin transformer: this project evaluates those two"
    known = ", ".join(family.name for family in FAMILIES)
    return f"is of no known family, neither a ViT nor a Swin ({some(sorted(tensors), 3)}); known are {known}"


def has_layer_scale(names: Collection[str]) -> bool:
    """Whether most blocks have factors on their branches; one too many or one lacking must not change the answer."""
    factors = sum(name.endswith((".ls1.gamma", ".ls2.gamma")) for name in names)
    return factors > 0 and factors >= sum(name.endswith(".attn.qkv.weight") for name in names)


def has_cls_row(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the table of positions ``name`` has a row beside those of a square grid.

    By the presence of [CLS], where there is no table or its shape is odd.
    """
    table = tensors.get(name, torch.empty(0))
    for rows, answer in ((table.shape[1], False), (table.shape[1] - 1, True)) if table.ndim == 3 else ():
        if rows > 0 and math.isqrt(rows) ** 2 == rows:
            return answer
    return f"{name.removesuffix('pos_embed')}cls_token" in tensors


def _network(
    path: Path, family: Family, which: str | None, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> tuple[str, str]:
    """The chosen network and the prefix of its backbone."""
    held = {name: prefix for name, prefix in family.networks.items() if any(t.startswith(prefix) for t in tensors)}
    if not held:
        raise UserError(f"{path} ({family.name} layout) has no tensor under {' or '.join(family.networks.values())}")
    if which is None:
        online_first = str(meta.get("method", "")).startswith("MoBY") and "student" in held
        which = "student" if online_first else next(iter(held))
    asked = SYNONYMS.get(which, which)
    if set(held) == {"backbone"} and asked == "teacher":  # the one network is neither: nothing to choose
        asked = "backbone"
    if asked not in held:
        raise UserError(f"{path} ({family.name} layout) holds no {which} network, only: {', '.join(held)}")
    return asked, held[asked]


def _add_cls_row(state: dict[str, Tensor]) -> None:
    """Give [CLS] a row of zeros in a table that has none for it: the same network under our names."""
    table = state.get("pos_embed")
    if (
        "cls_token" in state
        and table is not None
        and table.ndim == 3
        and math.isqrt(table.shape[1]) ** 2 == table.shape[1]
    ):
        state["pos_embed"] = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)


def explaining(name: str, patterns: Collection[str]) -> str | None:
    """The first of ``patterns`` that ``name`` matches."""
    return next((pattern for pattern in patterns if fnmatchcase(name, pattern)), None)


def some(names: Sequence[str], at_most: int = 5) -> str:
    """A few of ``names`` and how many more there are."""
    more = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" … and {more} more" if more > 0 else "")
