"""How a detector or segmentor is trained: the parameters that decide its figures, from a config and the command line.

A config's ``recipe`` names them all; each is also an option, and one that departs from the config shows in the
protocol's name, as in ``mask-rcnn-1x@1+lr=0.0002``.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from selfpatch.eval.checkpoints.load import LoadedBackbone
from selfpatch.pretrain.backbone import PUBLISHED_DEPTH, Backbone
from selfpatch.pretrain.cli import UserError
from selfpatch.reports.record import Protocol

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def _parameter(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Recipe:
    """Optimisation and backbone; lengths are in iterations, moments of the schedule are shares of the run."""

    name: str  # of the config, without version or changes
    version: int
    batch_size: int = _parameter(16, "images of one step, over all processes")
    lr: float = _parameter(1e-4, "learning rate at the config's own batch size; it grows with the batch")
    base_batch: int = field(default=16)
    backbone_lr: float = _parameter(1.0, "the checkpoint's own learning rate, as a share of what starts fresh")
    weight_decay: float = _parameter(0.05, "none on norms, position embeddings and tokens")
    iters: int = _parameter(0, "iterations, instead of epochs")
    epochs: float = _parameter(0.0, "passes over the training images")
    warmup_iters: int = _parameter(1000, "iterations of linear warm-up")
    warmup_start: float = _parameter(1e-3, "share of the learning rate at the first iteration")
    steps: tuple[float, ...] = _parameter((), "shares of the run after which the rate falls to a tenth")
    poly_power: float = _parameter(0.0, "polynomial decay to 0 with this power; 0: none")
    drop_path: float = _parameter(0.0, "stochastic depth at the last block")
    taps: tuple[int, ...] = _parameter((3, 5, 7, 11), "blocks that feed the pyramid, counted in 12; Swin: all stages")
    tap_norm: bool = _parameter(False, "apply the backbone's final norm to each tap")
    tap_layernorm: bool = _parameter(False, "normalise each tap over its channels: LayerNorm without parameters")
    frozen: bool = _parameter(False, "train nothing of the backbone")
    frozen_blocks: int = _parameter(0, "train nothing of the embedding and so many first blocks")
    precision: str = _parameter("fp32", "fp32 or bf16")
    seed: int = _parameter(0, "of everything random in this training")

    def __post_init__(self) -> None:
        self._check_kinds()
        for name in ("batch_size", "lr", "base_batch", "backbone_lr"):
            if not getattr(self, name) > 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be above 0")
        if not (self.iters > 0) ^ (self.epochs > 0):
            raise UserError(f"{self.name}: give either iters or epochs, above 0")
        if not 0 <= self.drop_path < 1:
            raise UserError(f"--drop-path {self.drop_path}: must be at least 0 and below 1")
        if self.precision not in ("fp32", "bf16"):
            raise UserError(f"--precision {self.precision}: choose fp32 or bf16")
        for name in ("weight_decay", "iters", "epochs", "warmup_iters", "poly_power", "frozen_blocks", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name):g}: must be 0 or more")
        if not 0 < self.warmup_start <= 1:
            raise UserError(f"--warmup-start {self.warmup_start:g}: must be above 0 and at most 1")
        if list(self.steps) != sorted(set(self.steps)) or not all(0 < share < 1 for share in self.steps):
            raise UserError(f"--steps {_text(self.steps)}: must be shares of the run, between 0 and 1 and rising")
        if not self.taps or min(self.taps) < 0:
            raise UserError(f"--taps {_text(self.taps)}: must be numbers of blocks, from 0")

    def _check_kinds(self) -> None:
        """Raise UserError where a config gives a parameter as something else than it is."""
        for f in dataclasses.fields(self):
            value, several = getattr(self, f.name), f.type.startswith("tuple")
            kind = f.type.removeprefix("tuple[").partition(",")[0]
            sound = several == isinstance(value, tuple) and all(
                _is_kind(part, kind) for part in (value if several else (value,))
            )
            if not sound:
                what = f"a tuple of {KINDS[kind][1]}" if several else KINDS[kind][0]
                raise UserError(f"{self.name}: {f.name}={value!r} of its recipe is not {what}")

    @property
    def scaled_lr(self) -> float:
        """The learning rate at this batch size (arXiv 1706.02677, section 2.1)."""
        return self.lr * self.batch_size / self.base_batch

    def iterations(self, images: int) -> int:
        """How many steps the run has on so many training images.

        Raises:
            UserError: the warm-up would be longer.
        """
        count = self.iters or math.ceil(self.epochs * images / self.batch_size)
        if self.warmup_iters >= count:
            raise UserError(
                f"a warm-up of {self.warmup_iters} iterations does not fit into a run of {count}: lower --warmup-iters"
            )
        return count

    def schedulers(self, iterations: int) -> list[dict[str, Any]]:
        """mmengine's parameter schedulers for a run of ``iterations``."""
        found: list[dict[str, Any]] = []
        if self.warmup_iters > 1:  # it ends one iteration early; of one alone, mmengine keeps the first rate for good
            found.append(
                {"type": "LinearLR", "start_factor": self.warmup_start, "by_epoch": False, "end": self.warmup_iters}
            )
        if self.steps:
            moments = [round(share * iterations) for share in self.steps]
            found.append({"type": "MultiStepLR", "milestones": moments, "gamma": 0.1, "by_epoch": False})
        if self.poly_power:
            span = {"begin": self.warmup_iters, "end": iterations}
            found.append({"type": "PolyLR", "power": self.poly_power, "eta_min": 0.0, "by_epoch": False, **span})
        return found

    def with_batch(self, batch_size: int) -> Recipe:
        """This recipe at another batch size."""
        return dataclasses.replace(self, batch_size=batch_size)

    def for_backbone(self, model: Backbone) -> Recipe:
        """This recipe with its taps where they are on ``model``."""
        return dataclasses.replace(self, taps=tuple(model.scaled_out_indices(self.taps)))

    def as_json(self) -> dict[str, Any]:
        """All parameters, as a record holds them."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(self).items()}

    def folder_name(self, identity: Mapping[str, Any]) -> str:
        """A short name for the working folder of a job."""
        text = json.dumps(identity, sort_keys=True)
        return f"{self.name}@{self.version}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


KINDS = {  # type of a parameter: one and several of it, in words
    "int": ("a whole number", "whole numbers"),
    "float": ("a number", "numbers"),
    "bool": ("True or False", ""),
    "str": ("a text", ""),
}


def _is_kind(value: Any, kind: str) -> bool:
    if kind == "float":
        return type(value) in (int, float) and math.isfinite(value)
    return type(value).__name__ == kind  # exactly: True is no whole number


OPTIONS = [f for f in dataclasses.fields(Recipe) if "help" in f.metadata]


def add_arguments(parser: argparse.ArgumentParser, task: str, default: str) -> None:
    """``--protocol``, of those in ``configs/<task>``, and an option for every parameter of a recipe."""
    known = ", ".join(protocols(task))
    default_name = default or "by the backbone's family"
    parser.add_argument(
        "--protocol", default=default, metavar="NAME", help=f"{known}, or a config file of yours [{default_name}]"
    )
    for f in OPTIONS:
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": f.metadata["help"]}
        if isinstance(f.default, bool):
            options["action"] = argparse.BooleanOptionalAction
        else:
            options |= {"metavar": "X", "type": numbers if isinstance(f.default, tuple) else type(f.default)}
        parser.add_argument(f"--{f.name.replace('_', '-')}", **options)


def numbers(text: str) -> tuple[float, ...]:
    """The numbers of a list with commas; ValueError if there is anything else in it."""
    return tuple(float(part) if re.search(r"[.e]", part) else int(part) for part in text.split(",") if part)


def protocols(task: str) -> list[str]:
    """The names of a task's configs."""
    return sorted(path.stem for path in (CONFIGS / task).glob("*.py"))


def read(task: str, args: argparse.Namespace, backbone: LoadedBackbone | None = None) -> tuple[str, Recipe, Config]:
    """The chosen protocol's name with what the command line changes of it, its recipe, and its config.

    Args:
        task: the folder of configs.
        args: the command line.
        backbone: what it is for: its depth scales the taps, and it must be what the config insists on.

    Raises:
        UserError: there is no such config, it cannot be read, it has an unknown parameter or one out of range, or it is
            for another architecture.
    """
    path = CONFIGS / task / f"{args.protocol}.py"
    if args.protocol.endswith(".py"):
        path = Path(args.protocol)
    if not path.is_file():
        raise UserError(f"--protocol {args.protocol}: choose one of {', '.join(protocols(task))}, or a config file")
    try:
        config = Config.fromfile(path)
    except Exception as error:  # a config is a program: it may raise anything
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path} is no config that can be read ({type(error).__name__}: {reason})") from None
    stated, insists = config.get("recipe"), config.get("insists", {})
    if not isinstance(stated, dict) or "version" not in stated or not isinstance(insists, dict):
        raise UserError(f"{path} has no recipe=dict(version=..., ...): start from one of configs/{task} with _base_")
    stated = {key: tuple(v) if isinstance(v, list) else v for key, v in stated.to_dict().items()}
    if unknown := sorted(stated.keys() - {f.name for f in dataclasses.fields(Recipe)[1:]}):
        raise UserError(f"{path}: unknown in its recipe: {', '.join(unknown)}")
    published = Recipe(name=path.stem, **{"base_batch": stated.get("batch_size", 16), **stated})
    given = {f.name: getattr(args, f.name) for f in OPTIONS if hasattr(args, f.name)}
    if "iters" in given:
        given.setdefault("epochs", 0.0)
    elif "epochs" in given:
        given.setdefault("iters", 0)
    recipe = dataclasses.replace(published, **given)
    if max(recipe.taps) >= PUBLISHED_DEPTH:
        raise UserError(f"--taps {_text(recipe.taps)}: count in {PUBLISHED_DEPTH} blocks, from 0; depth scales them")
    changed = [f.name for f in OPTIONS if getattr(recipe, f.name) != getattr(published, f.name)]
    if "iters" in changed and "epochs" in changed:  # one replaced the other
        changed.remove("epochs" if recipe.iters else "iters")
    name = f"{path.stem}@{recipe.version}" + "".join(f"+{key}={_text(getattr(recipe, key))}" for key in changed)
    if backbone is not None:
        for key, value in insists.items():
            if backbone.arch.get(key) != value:
                raise UserError(
                    f"{backbone.checkpoint} is a {backbone.arch['name']} with {key} {backbone.arch.get(key)}, but "
                    f"{path} insists on {key} {value}: choose another --protocol"
                )
        model, places = backbone.model, len(backbone.model.widths)
        if model.place == "stage" and ("taps" in given or recipe.tap_norm):
            raise UserError("--taps and --tap-norm are for ViTs: a Swin is tapped at its four stages, with fresh norms")
        if recipe.tap_norm and not model.final_norm_fits:
            raise UserError(f"--tap-norm: {backbone.checkpoint} has no final norm")
        if recipe.frozen_blocks > places:
            raise UserError(f"--frozen-blocks {recipe.frozen_blocks}: {backbone.checkpoint} has {places}")
        recipe = recipe.for_backbone(model)
    return name, recipe, config


def protocol(name: str, recipe: Recipe, config: Config, more: Mapping[str, Any] = {}) -> Protocol:
    """The protocol as a record holds it: every parameter, and a fingerprint of the rest of the config."""
    parts = {key: value for key, value in config.to_dict().items() if key not in ("recipe", "insists")}
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
    return Protocol(name, {**recipe.as_json(), **more, "config_sha256": digest})


def _text(value: Any) -> str:
    return (
        ",".join(f"{v:g}" for v in value)
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
