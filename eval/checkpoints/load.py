"""The one door for checkpoints: any published or own checkpoint in, a backbone that is proved to hold its weights out.

What a file is, is read off its tensors and metadata (:mod:`selfpatch.eval.checkpoints.families`); every tensor must
be explained; and each load ends with a certificate: which tensors were set, and that the model computes from them what
the file's own tensors say.
"""

import argparse
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from selfpatch.eval.checkpoints import certificate
from selfpatch.eval.checkpoints.architecture import PERIODS, arch_name, empty_model
from selfpatch.eval.checkpoints.families import LEGENDS, Legend, foreign_network
from selfpatch.eval.checkpoints.signs import is_square, shape_text
from selfpatch.eval.checkpoints.sources import Facts, Source, read_source
from selfpatch.eval.checkpoints.tensors import FoundBackbone, read_backbone
from selfpatch.pretrain.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone
from selfpatch.pretrain.cli import UserError, listed
from selfpatch.pretrain.files import sha256_file
from selfpatch.pretrain.positions import ROPE_BASE, rope_periods

PIXELS = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}  # where nothing says others
RESIZED = {
    "dino": "as in DINO's code (bicubic by scale factor)",
    "bicubic": "bicubic, by size",
    "antialiased": "bicubic with antialiasing, by size",
}


@dataclass
class LoadedBackbone:
    """A backbone with a checkpoint's weights in it, and where each fact about it comes from."""

    model: Backbone = field(repr=False)  # eval mode
    state: dict[str, Tensor] = field(repr=False)  # the backbone's tensors under our names, float32
    arch: dict[str, Any]  # the model's arch, and its short name
    method: str  # display name, such as "DINO+SelfPatch"
    method_told: bool  # whether the file says so; else it is a neutral word, such as "ViT"
    family: str  # which layout was recognised
    which: str  # which network of the file
    heads_from: str  # "metadata", "arch table", "--heads", or "its tensors" (Swin)
    checkpoint: Path
    checkpoint_sha256: str
    weights_sha256: str
    certificate: list[str]  # two lines
    epoch: int | None = None
    seed: int | None = None
    config: dict | None = None
    train_data: str | None = None
    tap_norm: bool = False  # whether its authors give segmentation heads each block's tokens after the final norm
    file_names: tuple[str, ...] = ()  # of the tensors that it was made of
    tokens: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)  # the fingerprint, (N, C)

    @property
    def mean(self) -> tuple[float, ...]:
        """R, G, B that are taken off the pixels (0 … 1) of the images it was trained with."""
        return self.model.mean

    @property
    def std(self) -> tuple[float, ...]:
        """R, G, B by which they are divided then."""
        return self.model.std

    def report(self, method: str | None = None) -> str:
        """What a command prints of a loaded checkpoint: the certificate, and a hint where nobody named its method."""
        lines = list(self.certificate)
        if not (method or self.method_told):
            named = f"so it is called {self.method}: name it with --method NAME"
            lines.append(f"note: the file does not tell what trained it, {named}")
        return "\n".join(lines)

    def check(self, model: nn.Module) -> None:
        """Raise unless ``model``, or the one backbone inside it, holds these very weights and computes these features.

        Frameworks initialise weights again after a load: call this in the model that trains, as late as possible.

        Raises:
            UserError: names the tensors that differ.
        """
        inside = [module for module in model.modules() if isinstance(module, type(self.model))]
        if len(inside) != 1:
            raise UserError(f"certificate of {self.checkpoint}: {len(inside)} backbones in the model instead of one")
        found = {name: t.detach().cpu().float() for name, t in inside[0].state_dict().items()}
        shared = self.state.keys() & found.keys()
        wrong = self.state.keys() ^ found.keys() | {n for n in shared if not torch.equal(self.state[n], found[n])}
        if wrong:
            raise UserError(
                f"certificate of {self.checkpoint}: {listed(sorted(wrong))}: not what was loaded, in the model that "
                "runs; something initialised its weights again"
            )
        difference = certificate.largest_difference(certificate.fingerprint(inside[0]), self.tokens)
        if difference > certificate.TOLERANCE:
            raise UserError(
                f"certificate of {self.checkpoint}: the model that runs computes other features on the fixed image "
                f"(relative difference {difference:.1e}): does it have {self.arch['heads']} heads?"
            )

    def same_features(self, run: Callable[[Tensor], Tensor], side: int, where: str, norm: bool = True) -> str:
        """How nearly ``run(images)``, in another library's model, gives this network's last tokens.

        Args:
            run: gives tokens (1, …, C), those of the patches last.
            side: of the fixed image, in pixels.
            where: that model, in a complaint.
            norm: whether they are those after the final norm.
        """
        images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(side))
        with torch.no_grad():
            (expected,) = self.model.forward_intermediates(images, [-1], norm=norm)
            found = run(images).flatten(1, -2)  # (1, N, C): a ViT's [CLS] and registers stand before
        expected = expected.flatten(2).mT
        difference = certificate.largest_difference(found[:, -expected.shape[1] :], expected)
        if difference > 1e-4:  # float32
            raise UserError(f"the export of {self.checkpoint} gives other features in {where} ({difference:.1e})")
        return f"on a fixed {side}x{side} image (relative difference {difference:.0e})"


def load_backbone(
    path: str | Path,
    which: str | None = None,
    heads: int | None = None,
    unsafe: bool = False,
    prefix: str | None = None,
) -> LoadedBackbone:
    """Load the backbone of any checkpoint of a known family.

    Args:
        path: the file, or a folder of Hugging Face, timm or ``torch.distributed.checkpoint``.
        which: ``teacher`` or ``student`` (for MoBY also ``key`` or ``online``); ``ema`` for the average that timm keeps
            beside the weights; None: the family's default.
        heads: the number of attention heads, for sizes that neither metadata nor the table of published sizes knows.
        unsafe: read the file even if that may run code in it (``--unsafe-load``).
        prefix: what the names of the backbone's tensors begin with, in files of no known layout.

    Raises:
        UserError: the file cannot be read, is of no known family, or a tensor is missing, unexplained, not finite or of
            the wrong shape; the head count is unknown or contradicts the metadata.
    """
    path = Path(path)
    source = read_source(path, unsafe)
    found = read_backbone(path, source.content, which, prefix)
    facts = source.facts if not found.meta else replace(source.facts, eps=None, stated={})  # ours says it itself
    model, heads_from = empty_model(path, found, heads, facts)
    if PERIODS in model.state_dict() and PERIODS not in found.state and found.family.computes_periods:
        found.state[PERIODS] = rope_periods(model.embed_dim // model.heads, facts.rope_theta or ROPE_BASE)
    _raise_unless_covered(path, found, model)
    if heads_from is None:
        raise UserError(
            f"{path} ({found.family.name} layout): a ViT {model.embed_dim} wide and {model.depth} deep is no published "
            "size, and the number of attention heads cannot be read off its tensors: add --heads N"
        )
    _raise_unless_as_stated(path, model.arch, found.meta.get("arch", {}), "the metadata says")
    _raise_unless_as_stated(path, model.arch, facts.stated, "config.json says")
    if wrong := certificate.not_finite(found.state):
        raise UserError(f"{path}: {listed([found.parts.file_name(name) for name in wrong])} is not finite")
    model.load_state_dict({name: tensor.clone() for name, tensor in found.state.items()}, assign=True)
    model.eval()
    return _loaded(path, source, found, model, heads_from)


def _loaded(path: Path, source: Source, found: FoundBackbone, model: Backbone, heads_from: str) -> LoadedBackbone:
    """The loaded backbone with all that is known of it."""
    facts, family, meta, tokens = source.facts, found.family, found.meta, certificate.fingerprint(model)
    arch = {**model.arch, "name": arch_name(model.arch)}
    digest = sha256_file(source.files[0])
    legend, weights = LEGENDS.get(digest[:8]), certificate.weights_sha256(found.state)
    named = facts.method or (legend and legend.method)
    model.mean, model.std = (
        tuple(meta.get(key) or getattr(facts, key) or getattr(legend, key, None) or usual)
        for key, usual in PIXELS.items()
    )
    epoch = meta.get("epoch", source.content.get("epoch") if isinstance(source.content, Mapping) else None)
    if len(source.files) > 1:
        lines = sorted(f"{file.name} {sha256_file(file)}\n" for file in source.files)
        digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    return LoadedBackbone(
        model=model,
        state=found.state,
        arch=arch,
        method=str(meta.get("method", named or family.method)),
        method_told=meta.get("method_told", "method" in meta or bool(named) or family.tells_method),
        family=family.name,
        tap_norm=family.tap_norm,
        which=found.which,
        heads_from=heads_from,
        checkpoint=path,
        checkpoint_sha256=digest,
        weights_sha256=weights,
        certificate=_certificate(found, arch, heads_from, tokens, weights, facts, legend),
        epoch=int(epoch) if isinstance(epoch, (int, float)) else None,
        seed=meta.get("seed"),
        config=dict(meta["config"]) if isinstance(meta.get("config"), Mapping) else None,
        train_data=meta.get("train_data"),
        file_names=tuple(found.parts.origins),
        tokens=tokens,
    )


def _certificate(
    found: FoundBackbone,
    arch: Mapping[str, Any],
    heads_from: str,
    tokens: Tensor,
    weights: str,
    facts: Facts,
    legend: Legend | None,
) -> list[str]:
    """Two lines: which tensors were set from where, and what the model computes from them, with what it was told."""
    set_from = f"{found.prefix}*" if found.prefix else "the file's top level"
    patterns = [f"{pattern} ({count})" for pattern, count in sorted(found.left_out.items())]
    left_out = f"; left out: {listed(patterns, 12)}" if patterns else ""
    joined = f"; {', '.join(dict.fromkeys(found.parts.notes))}" if found.parts.notes else ""
    how = ""
    if arch["family"] == "vit":
        stated = "metadata" if "eps" in found.meta.get("arch", {}) else "config.json" if facts.eps else "the layout"
        table = "rotary positions" if arch["rope"] else f"positions resized {RESIZED[arch['positions']]}"
        how = f"norms with eps {arch['eps']:g} by {stated}; {table}; "
    published = f"; published as {legend.name}" if legend else ""
    fingerprint = certificate.tokens_sha(tokens)
    return [
        f"coverage: all {len(found.state)} tensors of a {arch['name']} (heads {arch['heads']} by {heads_from}) set "
        f"from {set_from} ({found.family.name} layout), none unexplained{joined}{left_out}{published}",
        f"features: {how}finite on the fixed image; fingerprint {fingerprint}, weights {weights[:12]}",
    ]


def _raise_unless_covered(path: Path, found: FoundBackbone, model: nn.Module) -> None:
    """Every tensor of the model in the file, of the model's shape, and nothing else."""
    expected, state, parts = model.state_dict(), found.state, found.parts
    names = {name: parts.file_name(name) for name in {**expected, **state}}
    shapes = {name: (shape_text(state[name]), shape_text(expected[name])) for name in state.keys() & expected.keys()}
    lacking = [names[name] for name in expected if name not in state]
    table = state.get("pos_embed", torch.empty(0))
    if "cls_token" in expected and "cls_token" not in state and "pos_embed" in state:
        lacking[lacking.index(names["cls_token"])] += f" (or {names['pos_embed']} has a row too many)"
    elif table.ndim == 3 and not any(is_square(table.shape[1] - prefix) for prefix in (0, 1, 2)):
        raise UserError(
            f"{path}: {names['pos_embed']} has {table.shape[1]} rows, which fill no square grid (with or without one "
            "for [CLS]): a table for rectangular images, which this project's ViT has not"
        )
    elif table.ndim == 3 and is_square(table.shape[1] - 2) and "dist_token" not in state:
        lacking.append(f"{parts.file_name('dist_token')} (or {names['pos_embed']} has a row too many)")
    if foreign := foreign_network([names[name] for name in state if name not in expected]):
        raise UserError(f"{path} holds {foreign}")
    complaints = {
        "lacks": lacking,
        "cannot explain": [names[name] for name in state if name not in expected],
        "has of the wrong shape": [f"{names[n]} ({own}, not {due})" for n, (own, due) in shapes.items() if own != due],
    }
    if any(complaints.values()):
        faults = "; ".join(f"{what} {listed(sorted(which))}" for what, which in complaints.items() if which)
        raise UserError(f"{path} as a backbone of the {found.family.name} layout {faults}")


def _raise_unless_as_stated(path: Path, arch: Mapping[str, Any], stated: Mapping[str, Any], teller: str) -> None:
    if wrong := [f"{k} {stated[k]} but the tensors {own}" for k, own in arch.items() if stated.get(k, own) != own]:
        raise UserError(f"{path}: {teller} {'; '.join(wrong)}")


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command that takes a checkpoint."""
    add = parser.add_argument
    add("--which", metavar="NETWORK", help="teacher or student (MoBY: key or online), ema; default: the family's")
    add("--heads", type=int, metavar="N", help="attention heads, where neither metadata nor the size tells")
    add("--prefix", metavar="NAME", help="what the backbone's names begin with, in files of no known layout")
    add("--unsafe-load", action="store_true", help="read a file even if that may run code in it")


def checkpoint_options(args: argparse.Namespace) -> dict[str, Any]:
    """What :func:`add_checkpoint_options` was given, as :func:`load_backbone` takes it."""
    return {"which": args.which, "heads": args.heads, "unsafe": args.unsafe_load, "prefix": args.prefix}
