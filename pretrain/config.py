"""Configs of pretraining: read, and refused where a key is unknown or missing or a value cannot be meant.

What a config may hold is declared once, where it is used: the sections below, and the annotated arguments of the view,
the method, its backbone and its schedule. A new method's arguments are checked without a word here.
"""

import argparse
import difflib
import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from mmengine.config import Config, DictAction
from pydantic import Field

from selfpatch.pretrain.augment import View
from selfpatch.pretrain.backbone import backbone_class
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.method import Method
from selfpatch.pretrain.renamed import old_keys
from selfpatch.pretrain.settings import Count, Natural, Positive, Rate, Settings, arguments, check

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


class Sections(Settings):
    """The top level of a config; the base config, configs/_base_/pretrain.py, says what each key means."""

    method: str
    model: dict
    views: dict
    data: dict
    schedule: dict
    optimizer: dict
    precision: Literal["fp32", "bf16"]
    compile: bool | str
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)]
    checkpoint: dict
    log_interval: Count


class Data(Settings):
    """The section ``data``."""

    root: str
    batch_size: Count
    workers: Natural


class Optimizer(Settings):
    """The section ``optimizer``."""

    betas: tuple[Rate, Rate]
    eps: Positive
    clip: Positive | None
    clip_per_parameter: bool


class Checkpoint(Settings):
    """The section ``checkpoint``."""

    interval: Count
    keep: Count
    iterations: Natural = 0


class ConfigOptions(DictAction):
    """The action of ``--cfg-options``: KEY=VALUE words become a dictionary."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string=None) -> None:
        try:
            super().__call__(parser, namespace, values, option_string)
        except Exception:  # of a missing "=", an open bracket
            parser.error(f"{option_string} {' '.join(values)}: expected KEY=VALUE, brackets closed, no blanks")


def load_config(name: str, options: dict | None = None) -> Config:
    """Read a config and refuse what nothing reads or what cannot be meant.

    Raises:
        UserError: there is no such config, it is no valid config, or a key or a value is not possible.
    """
    folder = CONFIGS / "pretrain"
    path = next((path for path in (Path(name), folder / name, folder / f"{name}.py") if path.is_file()), None)
    if path is None:
        known = sorted(path.stem for path in folder.glob("*.py"))
        near = difflib.get_close_matches(Path(name).stem, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else f": choose one of {', '.join(known)}"
        raise UserError(f"no such config: {name}{hint}")
    try:
        config = Config.fromfile(path)
        config.merge_from_dict(options or {})
    except Exception as error:  # a config is code: it raises anything
        raise UserError(f"{path} cannot be read as a config: {' '.join(str(error).split())[:300]}") from None
    check_config(config)
    return config


def check_config(config: Config) -> None:
    """Raise :class:`UserError` for any key or value that training could not mean; mmengine accepts them in silence."""
    for old, new in old_keys(dict(config.items())):
        raise UserError(f"{old} is now {new}")
    check(Sections, dict(config.items()))
    for section, settings in (("data", Data), ("optimizer", Optimizer), ("checkpoint", Checkpoint)):
        check(settings, config[section], f"{section}.")
    for name, view in config.views.items():
        check_view(name, view, list(config.views))
    method = method_class(config)
    check(arguments(method.schedule_class, skip=("iterations", "batch")), config.schedule, "schedule.")
    check(arguments(method), config.model, "model.")
    backbone = dict(config.model.backbone)
    network = backbone_class(backbone.pop("type", None))
    check(arguments(network), backbone, "model.backbone.")


def check_view(name: str, view: Any, names: Sequence[str]) -> None:
    """Raise :class:`UserError` unless the view ``name``, one of ``names``, is whole and possible."""
    if isinstance(view, dict) and not {"size", "scale"} <= view.keys():
        near = difflib.get_close_matches(name, [other for other in names if other != name], n=1)
        hint = f"did you mean views.{near[0]}?" if near else "a view needs size and scale"
        raise UserError(f"views.{name} has no {'scale' if 'size' in view else 'size'}: {hint}")
    check(arguments(View), view, f"views.{name}.")
    if view["scale"][0] > view["scale"][1]:
        raise UserError(f"views.{name}.scale={tuple(view['scale'])}: the smaller share comes first")


def method_class(config: Config) -> type[Method]:
    """The method that a config names: the one in that module of this package."""
    name = f"selfpatch.pretrain.{config.method}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"method={config.method!r}: there is no pretrain/{config.method}.py ({error})") from None
    own = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == name]
    found = [c for c in own if issubclass(c, Method) and c is not Method]
    if len(found) != 1:
        raise UserError(f"method={config.method!r}: pretrain/{config.method}.py holds {len(found)} methods, not one")
    return found[0]
