"""How a detector or segmentor is trained: the parameters that decide its figures, from a config and from options.

A config's ``recipe`` names them all; each is also an option, and one that departs from the config shows in the
protocol's name, as in ``mask-rcnn-1x@1+lr=0.0002``.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from mmengine.config import Config
from pydantic import Field, model_validator

from selfpatch.eval.checkpoints.load import LoadedBackbone
from selfpatch.eval.checkpoints.pixels import Pixels, PixelSettings, pixels_of
from selfpatch.pretrain.backbone import PUBLISHED_DEPTH
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.settings import Settings, as_json, changed, check, optional
from selfpatch.pretrain.tracking import Tracker
from selfpatch.reports.record import Dataset, Protocol

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LATER = {"tap_layernorm": False}  # parameters that protocols got later: at these values records do not name them
Share = Annotated[float, Field(gt=0, lt=1)]
Block = Annotated[int, Field(ge=0, lt=PUBLISHED_DEPTH)]


class Recipe(Settings):
    """Optimisation and backbone; lengths are in iterations, moments of the schedule are shares of the run."""

    version: int
    batch_size: int = Field(16, ge=1, description="images of one step, over all processes")
    lr: float = Field(1e-4, gt=0, description="learning rate at the config's own batch size; it grows with the batch")
    base_batch: int = Field(16, ge=1)
    backbone_lr: float = Field(
        1.0, gt=0, description="the checkpoint's own learning rate, as a share of what starts fresh"
    )
    weight_decay: float = Field(0.05, ge=0, description="none on norms, position embeddings and tokens")
    iters: int = Field(0, ge=0, description="iterations, instead of epochs")
    epochs: float = Field(0.0, ge=0, description="passes over the training images")
    warmup_iters: int = Field(1000, ge=0, description="iterations of linear warm-up")
    warmup_start: float = Field(1e-3, gt=0, le=1, description="share of the learning rate at the first iteration")
    steps: tuple[Share, ...] = Field((), description="shares of the run after which the rate falls to a tenth")
    poly_power: float = Field(0.0, ge=0, description="polynomial decay to 0 with this power; 0: none")
    drop_path: float = Field(0.0, ge=0, lt=1, description="stochastic depth at the last block")
    taps: tuple[Block, ...] = Field(
        (3, 5, 7, 11), min_length=1, description="blocks that feed the pyramid, counted in 12; Swin: all stages"
    )
    tap_norm: bool = Field(False, description="apply the backbone's final norm to each tap")
    tap_layernorm: bool = Field(False, description="normalise each tap over its channels: LayerNorm without parameters")
    frozen: bool = Field(False, description="train nothing of the backbone")
    frozen_blocks: int = Field(0, ge=0, description="train nothing of the embedding and so many first blocks")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of the forward pass")
    seed: int = Field(0, ge=0, description="of everything random in this training")

    @model_validator(mode="after")
    def _fit_together(self) -> "Recipe":
        if not (self.iters > 0) ^ (self.epochs > 0):
            raise UserError("give either iters or epochs, above 0")
        if list(self.steps) != sorted(set(self.steps)):
            shown = ",".join(f"{share:g}" for share in self.steps)
            raise UserError(f"--steps {shown}: must be shares of the run, between 0 and 1 and rising")
        return self

    @property
    def scaled_lr(self) -> float:
        """The learning rate at this batch size (arXiv 1706.02677, section 2.1)."""
        return self.lr * self.batch_size / self.base_batch

    def iterations(self, images: int) -> int:
        """How many steps the run has on so many training images; UserError: the warm-up would be longer."""
        count = self.iters or math.ceil(self.epochs * images / self.batch_size)
        if self.warmup_iters >= count:
            fault = f"a warm-up of {self.warmup_iters} iterations does not fit into a run of {count}"
            raise UserError(f"{fault}: lower --warmup-iters")
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


Overrules = optional(Recipe, "Overrules")


class RunSettings(Settings):
    """How a training runs; what it computes is the recipe's matter."""

    gpus: int = Field(1, ge=1, description="processes on this machine (without GPUs: CPU)")
    launcher: Literal["none", "pytorch", "slurm"] = Field("none", description="slurm under srun")
    accumulate: int = Field(1, ge=1, description="parts a process cuts its batch into")
    checkpointing: bool = Field(False, description="recompute activations: less memory, more time")
    workers: int | None = Field(None, ge=0, description="loading processes for each process [4; CPU: 0]")
    save_every: int = Field(1000, ge=1, description="iterations between checkpoints, at most a tenth of the run")
    log_every: int = Field(50, ge=1, description="iterations between lines of progress")
    log_to: Tracker | None = Field(None, description="where curves go, too [JSON lines in the run's folder]")
    dry_run: bool = Field(False, description="show config, time and disk; train nothing")
    skip_unreadable: bool = Field(False, description="train on without the images that cannot be read")


class TrainingSettings(Overrules, RunSettings, PixelSettings):
    """What every task that trains can be told beside its data and its config."""

    protocol: str | None = Field(None, description="a config of the task's, or a file of yours [by the family]")

    @property
    def overruled(self) -> dict[str, Any]:
        """The parameters of the config's recipe that are given in its place."""
        given = {name: getattr(self, name) for name in Overrules.model_fields}
        return {name: value for name, value in given.items() if value is not None}


def protocols(task: str) -> list[str]:
    """The names of a task's configs."""
    return sorted(path.stem for path in (CONFIGS / task).glob("*.py"))


def protocol_option(task: str, *others: str) -> Any:
    """The field ``protocol`` of a task's settings; ``others``: protocols without a config."""
    known = ", ".join([*protocols(task), *others])
    return Field(None, description=f"{known}, or a config file of yours [by the backbone's family]")


def read(
    task: str, name: str, settings: TrainingSettings, backbone: LoadedBackbone | None = None
) -> tuple[str, Recipe, Config]:
    """The protocol's name with what the settings change of it, its recipe, and its config.

    Args:
        backbone: what it is for: its depth scales the taps, and it must be what the config insists on.

    Raises:
        UserError: there is no such config, it cannot be read, it has an unknown parameter or one out of range, or it is
            for another architecture.
    """
    path, config = _read_config(task, name)
    stated, insists = config.get("recipe"), config.get("insists", {})
    if not isinstance(stated, dict) or "version" not in stated or not isinstance(insists, dict):
        raise UserError(f"{path} has no recipe=dict(version=..., ...): start from one of configs/{task} with _base_")
    try:
        published = check(Recipe, {"base_batch": stated.get("batch_size", 16), **stated.to_dict()}, "recipe.")
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    given = settings.overruled
    if "iters" in given:
        given.setdefault("epochs", 0.0)
    elif "epochs" in given:
        given.setdefault("iters", 0)
    if backbone is not None and backbone.tap_norm and "tap_norm" not in stated and not published.tap_layernorm:
        given.setdefault("tap_norm", True)  # as its authors do; the name says so
    recipe = Recipe(**{**dict(published), **given})
    unused = "epochs" if recipe.iters else "iters"  # one replaces the other: it is no change of its own
    full = f"{path.stem}@{recipe.version}" + changed(recipe, published.model_copy(update={unused: 0}))
    if backbone is not None:
        _raise_unless_fit(path, recipe, "taps" in given, insists, backbone)
        recipe = recipe.model_copy(update={"taps": tuple(backbone.model.scaled_out_indices(recipe.taps))})
        full += changed(pixels_of(settings, backbone), Pixels)
    full += "+skip_unreadable" * settings.skip_unreadable
    return full, recipe, config


def _read_config(task: str, name: str) -> tuple[Path, Config]:
    path = Path(name) if name.endswith(".py") else CONFIGS / task / f"{name}.py"
    if not path.is_file():
        raise UserError(f"--protocol {name}: choose one of {', '.join(protocols(task))}, or a config file")
    try:
        return path, Config.fromfile(path)
    except Exception as error:  # a config is a program: it may raise anything
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path} is no config that can be read ({type(error).__name__}: {reason})") from None


def _raise_unless_fit(
    path: Path, recipe: Recipe, own_taps: bool, insists: Mapping[str, Any], backbone: LoadedBackbone
) -> None:
    """Raise UserError where a recipe asks for what a backbone does not have."""
    for key, value in insists.items():
        if backbone.arch.get(key) != value:
            raise UserError(
                f"{backbone.checkpoint} is a {backbone.arch['name']} with {key} {backbone.arch.get(key)}, but "
                f"{path} insists on {key} {value}: choose another --protocol"
            )
    model, places = backbone.model, len(backbone.model.widths)
    if model.out_indices_fixed and (own_taps or recipe.tap_norm):
        raise UserError("--taps and --tap-norm are for ViTs: a Swin is tapped at its four stages, with fresh norms")
    if recipe.tap_norm and not model.final_norm_fits:
        raise UserError(f"--tap-norm: {backbone.checkpoint} has no final norm")
    if recipe.frozen_blocks > places:
        raise UserError(f"--frozen-blocks {recipe.frozen_blocks}: {backbone.checkpoint} has {places}")


def protocol(name: str, recipe: Recipe, config: Config, more: Mapping[str, Any] = {}) -> Protocol:
    """The protocol as a record holds it: every parameter, and a fingerprint of the rest of the config."""
    parts = {key: value for key, value in config.to_dict().items() if key not in ("recipe", "insists")}
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
    stated = {key: value for key, value in as_json(recipe).items() if (key, value) not in LATER.items()}
    stem = name.partition("@")[0]
    return Protocol(name, {"name": stem, **stated, **more, "config_sha256": digest})


def identity(task: str, protocol: Protocol, dataset: Dataset, backbone: LoadedBackbone) -> dict[str, Any]:
    """What the weights that a task trains depend on: one working folder belongs to one identity."""
    return {
        "task": task,
        "protocol": protocol.as_json(),
        "data": dataset.sha256,
        "checkpoint": backbone.checkpoint_sha256,
        "weights": backbone.weights_sha256,
        "arch": backbone.arch,
    }
