"""Reading a checkpoint's layout: which names it holds, of which family it is, which of them are a backbone's."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfpatch.eval.checkpoints.families import (
    BARE,
    BESIDE_BACKBONES,
    BOOKKEEPING,
    FAMILIES,
    LAYER_SCALE,
    MAE_TABLE,
    MOCO_V3_TABLE,
    ONLY_MODEL,
    SYNONYMS,
    Family,
)
from selfpatch.pretrain.cli import UserError

WRAPPERS = re.compile(r"^((state_dict|model)\.)+")  # what training scripts put their one network under
NETWORKS = ("teacher", "student")  # what they put two, or one of two, under
LONE_WRAPPERS = ("backbone.", "encoder.")
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
    if foreign := _foreign(tensors):
        raise UserError(f"{path} {foreign}")
    family = recognise(tensors, marks_of(content)) or _within_wrappers(tensors, which)
    if family is None:
        known = ", ".join(family.name for family in FAMILIES)
        raise UserError(
            f"{path} is of no known family, neither a ViT nor a Swin ({some(sorted(tensors), 3)}); known are {known}"
        )
    which, prefix = _network(path, family, which, tensors, meta)
    # our own checkpoints list the parts of their method themselves: a new method needs no entry here
    beside = (*(f"{p}*" for p in family.networks.values() if p != prefix), *family.left_out, *meta.get("beside", ()))
    within_left_out = family.backbone_left_out
    if family.mmdet and not meta["arch"].get("final_norm", True):
        within_left_out = (*within_left_out, "norm3.*")  # fresh there, as the other stages' norms are

    state, names, left_out, unexplained = {}, {}, Counter(), []
    for name, tensor in tensors.items():
        inner = name.removeprefix(prefix)
        within = name.startswith(prefix)
        pattern = explaining(inner if within else name, within_left_out if within else beside)
        if pattern is not None:
            left_out[prefix + pattern if within else pattern] += 1
        elif not within or not tensor.is_floating_point():
            unexplained.append(name)
        else:
            ours, tensor = _from_mmdet(path, inner, tensor) if family.mmdet else (family.renamed(inner), tensor)
            if ours in state:
                raise UserError(f"{path} ({family.name} layout): {names[ours]} and {name} both come to {ours}")
            state[ours], names[ours] = tensor.detach().to(torch.float32).contiguous(), name
    if unexplained:
        raise UserError(f"{path} ({family.name} layout) holds what it cannot explain: {some(sorted(unexplained))}")
    if family.cls_without_row:
        _add_cls_row(path, state, registers=names.get("register_tokens", "").endswith("reg_token"))
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
                inner = f"{trail}.{key}" if trail else str(key)
                if WRAPPERS.sub("", inner) not in BOOKKEEPING:
                    walk(item, inner)

    walk(content, "")
    if not found:
        raise UserError(f"{path} holds no tensors by name: it is not a checkpoint of a network")
    return found


def metadata(content: Any) -> dict[str, Any]:
    """The metadata of one of our own checkpoints or exports; empty for another's."""
    meta = content.get("meta", getattr(content, "meta", None)) if isinstance(content, Mapping) else None
    return dict(meta) if isinstance(meta, Mapping) and isinstance(meta.get("arch"), Mapping) else {}


def marks_of(content: Any) -> set[str]:
    """What a file's top level says beside the names of tensors: its entries, metadata, and what it is called there."""
    if not isinstance(content, Mapping):
        return set()
    marks = {str(entry) for entry in content} | {f"meta.{key}" for key in metadata(content)}
    names = [WRAPPED_MODULES.sub("", str(entry)) for entry in content]
    if all(isinstance(value, Tensor) for value in content.values()) and not any(map(WRAPPERS.match, names)):
        marks.add(BARE)
    if set(content) == {"model"}:
        marks.add(ONLY_MODEL)
    if isinstance(content.get("arch"), str):
        marks.add(f"arch={content['arch']}")
    return marks


def recognise(tensors: Mapping[str, Tensor], marks: Collection[str] = ()) -> Family | None:
    """The family of a checkpoint, from its tensors and the ``marks`` of its top level; None: unknown."""
    found = {*tensors, *marks}
    if has_layer_scale(tensors):
        found.add(LAYER_SCALE)
    if table := fixed_table(tensors.get("pos_embed")):
        found.add(table)
    return next((family for family in FAMILIES if family.fits(found, has_cls(tensors))), None)


def _within_wrappers(tensors: Mapping[str, Tensor], which: str | None) -> Family | None:
    """The family of networks as a training script names them: ``teacher.``, ``student.backbone.``, ``encoder.``, ...

    Args:
        tensors: all of a file.
        which: the network that is asked for.

    Returns:
        a family whose networks are those of the file; None: what is under the names is of no known one.
    """
    prefixes = {name: f"{name}." for name in NETWORKS if any(t.startswith(f"{name}.") for t in tensors)}
    for name, prefix in prefixes.items():
        if any(t.startswith(f"{prefix}backbone.") for t in tensors):
            prefixes[name] = f"{prefix}backbone."
    if not prefixes:
        lone = next((p for p in LONE_WRAPPERS if all(t.startswith(p) for t in tensors)), None)
        if lone is None:
            return None
        prefixes = {"backbone": lone}
    prefix = prefixes.get(SYNONYMS.get(which, which), next(iter(prefixes.values())))
    family = recognise({name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)})
    if family is None:
        return None
    if any(family.networks.values()):  # a wrapper round a file of several networks
        prefixes = {name: prefix + own for name, own in family.networks.items()}
    left_out = (*(prefix + pattern for pattern in family.left_out), *BESIDE_BACKBONES)
    return replace(family, networks=prefixes, left_out=left_out)


def _foreign(names: Collection[str]) -> str | None:
    """What to say of a network of another kind, whoever trained it."""
    if any(re.search(r"(^|\.)layer1\.0\.conv1\.weight$", name) for name in names):
        return "holds a ResNet, not a ViT or a Swin transformer: this project evaluates those two"
    if any(name.endswith(".mlp.w12.weight") for name in names):
        return "holds a ViT with SwiGLU blocks (DINOv2's ViT-g), which this project has not: take a ViT-S, -B or -L"
    return None


def has_layer_scale(names: Collection[str]) -> bool:
    """Whether most blocks have factors on their branches; one too many or one lacking must not change the answer."""
    factors = sum(name.endswith((".ls1.gamma", ".ls2.gamma")) for name in names)
    return factors > 0 and factors >= sum(name.endswith(".attn.qkv.weight") for name in names)


def has_cls(tensors: Mapping[str, Tensor]) -> bool:
    """Whether most of three signs say [CLS]: the token, its row in the table of positions, and a final norm.

    The published ViTs have all of them or none, so that a single broken tensor does not change the answer.
    """
    norm = "norm.weight" in tensors or "norm.bias" in tensors
    return ("cls_token" in tensors) + has_cls_row(tensors.get("pos_embed")) + norm >= 2


def has_cls_row(table: Tensor | None) -> bool:
    """Whether a table of positions (1, N, C) has a row beside those of a square grid."""
    return table is not None and table.ndim == 3 and len(table) == 1 < table.shape[1] and _is_square(table.shape[1] - 1)


def _is_square(number: int) -> bool:
    return math.isqrt(number) ** 2 == number


def fixed_table(table: Tensor | None) -> str | None:
    """Whose table (1, 1 + side², C) of sines and cosines this is; None: none of those, learned.

    MAE (arXiv 2111.06377) and MoCo v3 (arXiv 2104.02057) never train theirs, a row of zeros for [CLS] and then half of
    the channels for the place in the row, half for that in the column, in opposite order.
    """
    if not has_cls_row(table) or table.shape[2] % 4 or table.shape[1] < 5:
        return None
    side, quarter = math.isqrt(table.shape[1] - 1), table.shape[2] // 4
    place = torch.arange(side, dtype=torch.float64)
    angles = place[:, None] * 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, C/2)
    across, down = waves.expand(side, side, -1), waves[:, None].expand(side, side, -1)
    for mark, halves in ((MAE_TABLE, (across, down)), (MOCO_V3_TABLE, (down, across))):
        rows = torch.cat(halves, dim=2).flatten(0, 1)  # (side², C)
        difference = table[0].double() - torch.cat([torch.zeros_like(rows[:1]), rows])
        if difference.abs().max() < 5e-3:  # half precision
            return mark
    return None


def _network(
    path: Path, family: Family, which: str | None, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> tuple[str, str]:
    """The chosen network and the prefix of its backbone."""
    held = {name: prefix for name, prefix in family.networks.items() if any(t.startswith(prefix) for t in tensors)}
    if not held:
        raise UserError(f"{path} ({family.name} layout) has no tensor under {' or '.join(family.networks.values())}")
    if which is None:
        # before methods said it themselves, MoBY was the only one whose downstream tasks take the online network
        before = "student" if str(meta.get("method", "")).startswith("MoBY") else None
        stated = meta.get("downstream", before)
        which = stated if stated in held else next(iter(held))
    asked = SYNONYMS.get(which, which)
    if set(held) == {"backbone"} and asked == "teacher":  # the one network is neither: nothing to choose
        asked = "backbone"
    if asked not in held:
        raise UserError(f"{path} ({family.name} layout) holds no {which} network, only: {', '.join(held)}")
    return asked, held[asked]


def _add_cls_row(path: Path, state: dict[str, Tensor], registers: bool) -> None:
    """Give [CLS] beside timm's ``registers`` a row of zeros in the table: the same network under our names.

    Raises:
        UserError: the table has a row too many, or none for [CLS] where there are no registers.
    """
    table = state.get("pos_embed")
    if "cls_token" not in state or table is None or table.ndim != 3:
        return
    rows = table.shape[1]
    if _is_square(rows) != registers:
        due = "one for each patch, a square number" if registers else "one for each patch and one for [CLS]"
        beside = "there is reg_token" if registers else "there is no reg_token"
        raise UserError(f"{path}: pos_embed has {rows} rows, but since {beside}, timm has {due}")
    if registers:
        state["pos_embed"] = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)


def _from_mmdet(path: Path, name: str, tensor: Tensor) -> tuple[str, Tensor]:
    from selfpatch.pretrain.swin import from_mmdet

    try:
        return next(iter(from_mmdet({name: tensor}).items()))
    except (RuntimeError, IndexError):  # its channels do not come in fours
        raise UserError(f"{path}: {name} is of the wrong shape ({'x'.join(map(str, tensor.shape))})") from None


def explaining(name: str, patterns: Collection[str]) -> str | None:
    """The first of ``patterns`` that ``name`` matches."""
    return next((pattern for pattern in patterns if fnmatchcase(name, pattern)), None)


def some(names: Sequence[str], at_most: int = 5) -> str:
    """A few of ``names`` and how many more there are."""
    more = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" … and {more} more" if more > 0 else "")
