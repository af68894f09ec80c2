"""The one door for checkpoints: any published or own checkpoint in, a backbone that is proved to hold its weights out.

What a file is, is read off its tensors and metadata (:mod:`selfpatch.eval.families`); every tensor must be explained;
and each load ends with a certificate: which tensors were set, and that the model computes from them what the file's
own tensors say.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from selfpatch.eval import certificate as proof
from selfpatch.eval.families import BOOKKEEPING, FAMILIES, SYNONYMS, Family
from selfpatch.pretrain.checkpoint import load_file
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.files import sha256_file
from selfpatch.pretrain.vit import VisionTransformer
from torch import Tensor, nn

WRAPPERS = re.compile(r"^(state_dict|model)\.")  # what training scripts put their one network under
WRAPPED_MODULES = re.compile(r"(^|\.)(module|_orig_mod)(?=\.)")  # what DDP and torch.compile put into names
SIZE_NAMES = {(192, 12): "ti", (384, 12): "s", (768, 12): "b", (1024, 24): "l", (1280, 32): "h", (1536, 40): "g"}


@dataclass
class LoadedBackbone:
    """A backbone with a checkpoint's weights in it, and where each fact about it comes from."""

    model: nn.Module  # eval mode
    state: dict[str, Tensor]  # the backbone's tensors under our names, float32
    arch: dict[str, Any]  # the model's arch, and its short name
    method: str  # display name, such as "DINO+SelfPatch"
    family: str  # which layout was recognised
    which: str  # which network of the file
    heads_from: str  # "metadata", "arch table" or "--heads"
    checkpoint: Path
    checkpoint_sha256: str
    weights_sha256: str
    certificate: list[str]  # two lines
    epoch: int | None = None
    seed: int | None = None
    config: dict | None = None
    train_data: str | None = None
    tokens: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)  # the fingerprint, (N, C)

    def check(self, model: nn.Module, without: Sequence[str] = ()) -> None:
        """Raise unless ``model``, or the one backbone inside it, holds these very weights and computes these features.

        Frameworks initialise weights again after a load: call this in the model that trains, as late as possible.

        Args:
            model: a backbone like :attr:`model`, or a module that contains just one.
            without: prefixes of tensors that the target has no use for, such as ``norm.``

        Raises:
            UserError: names the tensors that differ.
        """
        inside = [module for module in model.modules() if isinstance(module, type(self.model))]
        if len(inside) != 1:
            raise UserError(f"certificate of {self.checkpoint}: {len(inside)} backbones in the model instead of one")
        expected = {name: t for name, t in self.state.items() if not name.startswith(tuple(without))}
        found = {name: t.detach().cpu().float() for name, t in inside[0].state_dict().items()}
        wrong = sorted(
            expected.keys() ^ found.keys()
            | {name for name in expected.keys() & found.keys() if not torch.equal(expected[name], found[name])}
        )
        if wrong:
            raise UserError(
                f"certificate of {self.checkpoint}: {some(wrong)}: not what was loaded, in the model that "
                "runs; something initialised its weights again"
            )
        difference = proof.largest_difference(proof.fingerprint(inside[0]), self.tokens)
        if difference > proof.TOLERANCE:
            raise UserError(
                f"certificate of {self.checkpoint}: the model that runs computes other features on the fixed image "
                f"(relative difference {difference:.1e}): does it have {self.arch['heads']} heads?"
            )


def load_backbone(
    path: str | Path, which: str | None = None, heads: int | None = None, unsafe: bool = False
) -> LoadedBackbone:
    """Load the backbone of any checkpoint of a known family.

    Args:
        path: the file.
        which: ``teacher`` or ``student`` (for MoBY also ``key`` or ``online``); None: the family's default.
        heads: the number of attention heads, for sizes that neither metadata nor the table of published sizes knows.
        unsafe: read the file even if that may run code in it (``--unsafe-load``).

    Raises:
        UserError: the file cannot be read safely, is of no known family, or a tensor is missing, unexplained or of the
            wrong shape; the head count is unknown or contradicts the metadata.
    """
    path = Path(path)
    content = load_file(path, unsafe=unsafe)
    tensors = named_tensors(path, content)
    meta = _metadata(content)
    family = recognise(path, content, tensors)
    which, prefix = _network(path, family, which, tensors, meta)
    state, names, left_out = _backbone_tensors(path, family, prefix, tensors)

    options = vit_options(state, family)
    known_heads, heads_from = _heads(path, family, options, meta, heads)
    model = _built(path, options, known_heads or 1)
    _raise_unless_covered(path, family, prefix, names, state, model)
    if known_heads is None:
        raise UserError(
            f"{path}: a {options['embed_dim']} wide, {options['depth']} deep ViT is no published size, and the number "
            "of attention heads cannot be read off its tensors: add --heads N"
        )
    _raise_unless_as_stated(path, model.arch, meta)
    model.load_state_dict(state)
    model.eval()

    tokens = proof.fingerprint(model)
    difference = proof.largest_difference(tokens, proof.written_out_tokens(state, known_heads))
    if difference > proof.TOLERANCE:
        raise UserError(
            f"{path}: the loaded model's features differ from those of the file's tensors (relative {difference:.1e}): "
            "they are not finite, or this is a bug"
        )
    weights = proof.weights_sha256(state)
    arch = {**model.arch, "name": arch_name(model.arch)}
    coverage = (
        f"{len(state)} of {len(model.state_dict())} backbone tensors set from {prefix or 'the file as a whole'}"
        f" ({family.name} layout, {arch['name']}, {known_heads} heads from {heads_from}), none unexplained"
        + (f"; left out: {_summary(left_out)}" if left_out else "")
    )
    features = (
        f"on the fixed image the model's tokens equal those written out from the file's tensors "
        f"(relative difference {difference:.0e}; fingerprint {proof.tokens_sha(tokens)}, weights {weights[:12]})"
    )
    return LoadedBackbone(
        model=model,
        state=state,
        arch=arch,
        method=meta.get("method", family.method),
        family=family.name,
        which=which,
        heads_from=heads_from,
        checkpoint=path,
        checkpoint_sha256=sha256_file(path),
        weights_sha256=weights,
        certificate=[f"coverage: {coverage}", f"features: {features}"],
        epoch=_epoch(content, meta),
        seed=meta.get("seed"),
        config=meta.get("config"),
        train_data=meta.get("train_data"),
        tokens=tokens,
    )


def named_tensors(path: Path, content: Any) -> dict[str, Tensor]:
    """Every tensor of a checkpoint by its path through the nested dictionaries, without wrappers' names.

    Raises:
        UserError: there is none, or two come to the same name.
    """
    found: dict[str, Tensor] = {}

    def walk(value: Any, trail: str) -> None:
        if isinstance(value, Tensor):
            name = WRAPPERS.sub("", WRAPPED_MODULES.sub("", trail).lstrip("."))
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


def recognise(path: Path, content: Any, tensors: Mapping[str, Tensor]) -> Family:
    """The family of a checkpoint, from its names and top-level entries.

    Raises:
        UserError: no family's signs fit.
    """
    entries = set(content) if isinstance(content, Mapping) else set()
    meta = content.get("meta") if "meta" in entries else None
    marks = set(tensors) | {str(entry) for entry in entries} | {f"meta.{key}" for key in (meta or ())}
    cls_row = next((_has_cls_row(name, tensors) for name in tensors if name.endswith("pos_embed")), None)
    for family in FAMILIES:
        if family.fits(marks, cls_row):
            return family
    if any(re.search(r"(^|\.)layer1\.0\.conv1\.weight$", name) for name in tensors):
        raise UserError(f"{path} holds a ResNet, not a ViT or a Swin transformer: this project evaluates those two")
    raise UserError(
        f"{path} is of no known family (its tensors: {some(sorted(tensors), 3)}); known are "
        + ", ".join(dict.fromkeys(family.name for family in FAMILIES))
    )


def _has_cls_row(name: str, tensors: Mapping[str, Tensor]) -> bool | None:
    """Whether a table of positions has a row beside those of a square grid; by the presence of [CLS] if it is odd."""
    table = tensors[name]
    if table.ndim == 3:
        for rows, answer in ((table.shape[1], False), (table.shape[1] - 1, True)):
            if rows > 0 and math.isqrt(rows) ** 2 == rows:
                return answer
    return f"{name.removesuffix('pos_embed')}cls_token" in tensors


def _metadata(content: Any) -> dict[str, Any]:
    meta = content.get("meta") if isinstance(content, Mapping) else None
    return dict(meta) if isinstance(meta, Mapping) and "arch" in meta else {}


def _epoch(content: Any, meta: Mapping[str, Any]) -> int | None:
    epoch = meta.get("epoch", content.get("epoch") if isinstance(content, Mapping) else None)
    return int(epoch) if isinstance(epoch, (int, float)) else None


def _network(
    path: Path, family: Family, which: str | None, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> tuple[str, str]:
    """The chosen network and the prefix of its backbone."""
    held = {name: prefix for name, prefix in family.networks.items() if any(t.startswith(prefix) for t in tensors)}
    if not held:
        raise UserError(
            f"{path} has the layout of {family.name} but no tensor under {' or '.join(family.networks.values())}"
        )
    if which is None:
        online_first = str(meta.get("method", "")).startswith("MoBY") and "student" in held
        which = "student" if online_first else next(iter(held))
    asked = SYNONYMS.get(which, which)
    if set(held) == {"backbone"} and asked == "teacher":  # one network that is neither: nothing to choose
        asked = "backbone"
    if asked not in held:
        raise UserError(f"{path} ({family.name} layout) holds no {which} network, only: {', '.join(held)}")
    return asked, held[asked]


def _backbone_tensors(
    path: Path, family: Family, prefix: str, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """The chosen backbone's tensors under our names, the file's name of each, and the names that were left out."""
    state, names, left_out, unexplained = {}, {}, [], []
    others = [p for p in family.networks.values() if p != prefix]
    for name, tensor in tensors.items():
        if not name.startswith(prefix):
            explained = name.startswith(tuple(others)) or _any_match(name, family.left_out)
            (left_out if explained else unexplained).append(name)
        elif _any_match(name.removeprefix(prefix), family.backbone_left_out) or (
            not prefix and _any_match(name, family.left_out)
        ):
            left_out.append(name)
        else:
            ours = family.renamed(name.removeprefix(prefix))
            state[ours], names[ours] = tensor.detach().to(torch.float32), name
    if unexplained:
        raise UserError(f"{path} ({family.name} layout) holds what it cannot explain: {some(unexplained)}")
    return state, names, left_out


def _any_match(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def vit_options(state: Mapping[str, Tensor], family: Family) -> dict[str, Any]:
    """The arguments of :class:`VisionTransformer` that ``state`` was made with, but for the heads.

    A tensor of an odd shape must not mislead: the width is what most norms say, and what a broken tensor should have
    told is set to the usual value, so that the comparison of shapes names that tensor.
    """
    widths = Counter(t.shape[0] for name, t in state.items() if re.search(r"norm[12]\.(weight|bias)$", name) and t.ndim)
    dim = widths.most_common(1)[0][0] if widths else 384
    numbers = [int(match[1]) for name in state if (match := re.match(r"blocks\.(\d+)\.", name))]
    kernel = state.get("patch_embed.proj.weight", torch.empty(0)).shape
    patch = kernel[-1] if len(kernel) == 4 and kernel[-1] == kernel[-2] else 16
    registers = state.get("register_tokens", torch.empty(0)).shape
    cls_token = family.fixed.get("cls_token", "cls_token" in state)
    table = state.get("pos_embed", torch.empty(0))
    grid = math.isqrt(max(table.numel() // dim - int(cls_token), 1)) or 1
    return {
        "embed_dim": dim,
        "depth": 1 + max(numbers, default=0),
        "patch_size": patch,
        "img_size": grid * patch,
        "cls_token": cls_token,
        "final_norm": family.fixed.get("final_norm", "norm.weight" in state or "norm.bias" in state),
        "layer_scale": 1.0 if family.fixed.get("layer_scale", _any_gamma(state)) else None,
        "register_tokens": registers[1] if family.fixed.get("registers", True) and len(registers) == 3 else 0,
    }


def _any_gamma(state: Mapping[str, Tensor]) -> bool:
    return any(name.endswith(("ls1.gamma", "ls2.gamma")) for name in state)


def _heads(
    path: Path, family: Family, options: Mapping[str, Any], meta: Mapping[str, Any], asked: int | None
) -> tuple[int | None, str]:
    """The head count (None: nobody knows) and who says so."""
    stated = meta.get("arch", {}).get("heads")
    if stated is not None:
        if asked is not None and asked != stated:
            raise UserError(
                f"{path}: its metadata says {stated} attention heads, --heads says {asked}: leave --heads out"
            )
        return int(stated), "metadata"
    if asked is not None:
        return asked, "--heads"
    return family.heads.get((options["embed_dim"], options["depth"])), "arch table"


def _built(path: Path, options: Mapping[str, Any], heads: int) -> VisionTransformer:
    try:
        return VisionTransformer(**options, heads=heads)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _raise_unless_covered(
    path: Path, family: Family, prefix: str, names: Mapping[str, str], state: Mapping[str, Tensor], model: nn.Module
) -> None:
    """Every tensor of the model in the file, of the model's shape, and nothing else."""
    expected = model.state_dict()
    lacking = [prefix + name for name in expected if name not in state]
    extra = [names[name] for name in state if name not in expected]
    misshapen = [
        f"{names[name]} ({'x'.join(map(str, state[name].shape))}, not {'x'.join(map(str, expected[name].shape))})"
        for name in expected.keys() & state.keys()
        if state[name].shape != expected[name].shape
    ]
    complaints = [
        f"{what} {some(sorted(which))}"
        for what, which in (("lacks", lacking), ("cannot explain", extra), ("has the wrong shape:", misshapen))
        if which
    ]
    if complaints:
        raise UserError(f"{path} as a {family.name} backbone {'; '.join(complaints)}")


def _raise_unless_as_stated(path: Path, arch: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    stated = meta.get("arch", {})
    wrong = [
        f"{key} {stated[key]} but the tensors {arch[key]}" for key in arch if key in stated and stated[key] != arch[key]
    ]
    if wrong:
        raise UserError(f"{path}: the metadata says {'; '.join(wrong)}")


def arch_name(arch: Mapping[str, Any]) -> str:
    """The short name of an architecture: ``vit-s16`` for a published size, ``vit-192x6-p16`` for another."""
    size = SIZE_NAMES.get((arch["dim"], arch["depth"]))
    return f"vit-{size}{arch['patch']}" if size else f"vit-{arch['dim']}x{arch['depth']}-p{arch['patch']}"


def some(names: Sequence[str], at_most: int = 5) -> str:
    """A few of ``names`` and how many more there are."""
    more = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" … and {more} more" if more > 0 else "")


def _summary(names: Sequence[str]) -> str:
    """Names by their first two parts with counts: ``student.backbone (150), teacher.ca_head (20)``."""
    counts = Counter(".".join(name.split(".")[:2]) if name.count(".") > 1 else name for name in names)
    return some([f"{part} ({count})" if count > 1 else part for part, count in counts.items()], 8)


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command that takes a checkpoint."""
    parser.add_argument(
        "--which", metavar="NETWORK", help="teacher or student (MoBY: key or online); default: the family's"
    )
    parser.add_argument(
        "--heads", type=int, metavar="N", help="attention heads, where neither metadata nor the size tells"
    )
    parser.add_argument("--unsafe-load", action="store_true", help="read a file even if that may run code in it")
