"""Configs of pretraining: read, and refused where a key is unknown or missing or a value cannot be meant.

What a config may hold is written once: the sections of ``configs/_base_/pretrain.py``, and the arguments of the view,
the method, its backbone and its schedule, with their type hints.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import inspect
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS

from selfpatch.pretrain.augment import INTERPOLATIONS, View
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.method import Method
from selfpatch.pretrain.runner import PRECISIONS

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
WIDER = {
    "compile": bool | str,
    "optimizer.clip": float | None,
    "optimizer.betas": tuple[float, float],
}  # than the base's
CHOICES = {"precision": PRECISIONS, "interpolation": INTERPOLATIONS}
# names of keys, whatever their section -> what their numbers must be
RANGES: tuple[tuple[str, str, Callable[[float], bool]], ...] = (
    (
        "batch_size interval keep log_interval epochs lr_batch size patch_size img_size embed_dim depth depths heads "
        "window out_dim hidden_dim bottleneck_dim patch_out_dim",
        "1 or more",
        lambda value: value >= 1,
    ),
    (
        "workers seed count warmup_epochs teacher_temp_warmup_epochs freeze_last_layer_epochs register_tokens lr "
        "min_lr warmup_lr weight_decay weight_decay_end patch_loss_weight brightness contrast saturation hue",
        "0 or more",
        lambda value: value >= 0,
    ),
    ("seed", "below 2^32", lambda value: value < 2**32),
    (
        "scale blur solarise grey jitter flip momentum momentum_end centre_momentum",
        "from 0 to 1",
        lambda value: 0 <= value <= 1,
    ),
    ("drop_path_rate betas", "from 0 to below 1", lambda value: 0 <= value < 1),
    (
        "scale eps clip student_temp patch_student_temp patch_teacher_temp teacher_temp teacher_temp_start temperature",
        "above 0",
        lambda value: value > 0,
    ),
)
KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a name", dict: "several keys"}


class ConfigOptions(DictAction):
    """The action of ``--cfg-options``: KEY=VALUE words become a dictionary."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string=None) -> None:
        try:
            super().__call__(parser, namespace, values, option_string)
        except Exception:  # of a missing "=", an open bracket
            parser.error(f"{option_string} {' '.join(values)}: expected KEY=VALUE, brackets closed, no blanks")


def load_config(name: str, options: dict | None = None) -> Config:
    """Read a config and refuse what nothing reads or what cannot be meant.

    Args:
        name: a path, or the name of a file in ``configs/pretrain``.
        options: overrides by dotted key.

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
    base = dict(Config.fromfile(CONFIGS / "_base_" / "pretrain.py").items())
    check_section("", dict(config.items()), types_of(base, ""))
    for section in ("data", "optimizer", "checkpoint"):
        check_section(f"{section}.", config[section], types_of(base[section], f"{section}."))
    for name, view in config.views.items():
        check_view(name, view, list(config.views))
    method = method_class(config)
    check_section("schedule.", config.schedule, *arguments_of(method.schedule_class))
    check_section("model.", config.model, *arguments_of(method, type=str))
    backbone = backbone_class(config.model.backbone.get("type"))
    check_section("model.backbone.", config.model.backbone, *arguments_of(backbone, type=str))


def check_view(name: str, view: Any, names: Sequence[str]) -> None:
    """Raise :class:`UserError` unless the view ``name``, one of ``names``, is whole and possible."""
    if isinstance(view, dict) and not {"size", "scale"} <= view.keys():
        near = difflib.get_close_matches(name, [other for other in names if other != name], n=1)
        hint = f"did you mean views.{near[0]}?" if near else "a view needs size and scale"
        raise UserError(f"views.{name} has no {'scale' if 'size' in view else 'size'}: {hint}")
    check_section(f"views.{name}.", view, *arguments_of(View))
    if view["scale"][0] > view["scale"][1]:
        raise UserError(f"views.{name}.scale={tuple(view['scale'])}: the smaller share comes first")


def types_of(section: dict, prefix: str) -> dict[str, Any]:
    """The type of each key of a section of the base config."""
    return {
        key: WIDER.get(prefix + key, dict if isinstance(value, dict) else type(value)) for key, value in section.items()
    }


def arguments_of(called: Callable, **more: Any) -> tuple[dict[str, Any], list[str]]:
    """The type of each keyword that ``called`` takes, and which of them it must be given.

    Arguments without a default that are not keywords (of a schedule: the iterations and the batch) are no config's.
    """
    hints = get_type_hints(called.__init__)
    parameters = inspect.signature(called).parameters
    positional = {"iterations", "batch"} & parameters.keys()
    allowed = {name: hints.get(name, object) for name in parameters if name not in positional}
    required = [name for name in allowed if parameters[name].default is inspect.Parameter.empty]
    return {**more, **allowed}, [*more, *required]


def check_section(prefix: str, section: Any, allowed: dict[str, Any], required: Sequence[str] | None = None) -> None:
    """Raise :class:`UserError` for the first key of ``section`` that is unknown, missing or impossible.

    Args:
        prefix: of the section's keys, as a user writes them.
        section: the config's.
        allowed: the type of each key.
        required: the keys that must be there; None: all.
    """
    if not isinstance(section, dict):
        raise UserError(f"{prefix.rstrip('.')}={section!r}: expected several keys ({', '.join(allowed)})")
    for key in section:
        if key not in allowed:
            near = difflib.get_close_matches(key, list(allowed), n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(allowed)}"
            raise UserError(f"unknown config key {prefix}{key}: {hint}")
    for key in allowed if required is None else required:
        if key not in section:
            raise UserError(f"the config has no {prefix}{key}: give it one, or start from a file of configs/_base_")
    for key, value in section.items():
        check_value(prefix + key, value, allowed[key])


def check_value(key: str, value: Any, hint: Any) -> None:
    """Raise :class:`UserError` unless ``value`` is of the type ``hint`` and within the range of its key."""
    if not fits(value, hint):
        raise UserError(f"{key}={value!r}: expected {told(hint)}")
    name = key.rpartition(".")[2]
    if value not in (choices := CHOICES.get(name, (value,))):
        raise UserError(f"{key}={value!r} is unknown: choose {' or '.join(choices)}")
    numbers = value if isinstance(value, (list, tuple)) else [value]
    for names, wanted, holds in RANGES:
        if name in names.split() and not all(holds(x) for x in numbers if isinstance(x, (int, float))):
            raise UserError(f"{key}={value!r}: must be {wanted}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a config's value is of a type: lists pass for tuples, whole numbers for numbers, True for neither."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(fits(value, one) for one in get_args(hint))
    if get_origin(hint) is tuple:
        wanted = get_args(hint)
        if not isinstance(value, (list, tuple)):
            return False
        if wanted[-1] is Ellipsis:
            return all(fits(item, wanted[0]) for item in value)
        return len(value) == len(wanted) and all(map(fits, value, wanted))
    if isinstance(value, bool):
        return hint in (bool, object)
    return isinstance(value, (int, float) if hint is float else hint)


def told(hint: Any) -> str:
    """A type in words."""
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(told(one) for one in get_args(hint))
    if get_origin(hint) is tuple:
        wanted = get_args(hint)
        return f"{'' if wanted[-1] is Ellipsis else f'{len(wanted)} '}numbers in brackets, as in [0.5,1]"
    return KINDS.get(hint, "None")


def method_class(config: Config) -> type[Method]:
    """The class of ``config.model``; ``config.method`` names its module in this package."""
    try:
        importlib.import_module(f"selfpatch.pretrain.{config.method}")
    except ModuleNotFoundError as error:
        raise UserError(f"method={config.method!r}: there is no pretrain/{config.method}.py ({error})") from None
    if "type" not in config.model or "backbone" not in config.model:
        raise UserError("the config has no model.type or no model.backbone: start from a file of configs/_base_")
    found = MODELS.get(config.model.type) if isinstance(config.model.type, str) else None
    if found is None or not issubclass(found, Method):
        raise UserError(f"model.type={config.model.type!r} is no method of pretrain/{config.method}.py")
    return found


def backbone_class(name: Any) -> type[torch.nn.Module]:
    """The class of a backbone; ``pretrain/swin.py`` is imported only when a config names it."""
    if name == "Swin":
        importlib.import_module("selfpatch.pretrain.swin")
    found = MODELS.get(name) if isinstance(name, str) else None
    if found is None or not issubclass(found, torch.nn.Module):
        raise UserError(f"model.backbone.type={name!r} is no known backbone: choose VisionTransformer or Swin")
    return found
