"""A sweep's grid: a YAML file in, checked cells out. What is wrong with any cell is said before the first one runs."""

from __future__ import annotations

import argparse
import difflib
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from mmengine.config import Config, DictAction

from selfpatch.eval.run import check_command
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.train import build_method, load_config
from selfpatch.reports.record import file_name

KNOWN = ("name", "config", "data", "options", "axes", "cells", "seeds", "evaluate", "gpus", "slurm")
OURS = ("records", "out", "debug", "help")  # options of an evaluation that the sweep itself gives


@dataclass(frozen=True)
class Cell:
    """One setting: how to pretrain, how to evaluate, and what a table says of it."""

    name: str
    config: str
    settings: dict[str, Any]  # axis -> value
    pretrain_argv: list[str]
    pretrain_id: str  # of the effective config: equal where the same network would be trained
    evaluations: list[tuple[str, list[str]]]  # (task, options)
    seed: int | None = None  # where the grid repeats every setting with several seeds

    @property
    def identity(self) -> str:
        """Changes with anything that a result depends on."""
        return _digest([self.pretrain_id, self.evaluations])


@dataclass(frozen=True)
class Grid:
    """A checked grid."""

    name: str
    axes: dict[str, list]
    cells: list[Cell]
    slurm: dict[str, Any] = field(default_factory=dict)


def read_grid(path: Path) -> Grid:
    """Read a grid and check all of it: keys, every cell's config and options, data folders, evaluations.

    Raises:
        UserError: names the first fault.
    """
    content = _read(path)
    _known(content, KNOWN, f"{path}: unknown key")
    _shaped(path, content)
    specs = _from_axes(content) if "axes" in content else _from_cells(path, content)
    seeds = _seeds(path, content, specs)
    evaluations = [_evaluation(path, given) for given in content["evaluate"]]
    for task, argv in evaluations:
        try:
            check_command(task, argv)
        except UserError as error:
            raise UserError(f"{path}, evaluate: {error}") from None

    made = []
    for (name, config, options), seed in itertools.product(specs, seeds):
        seeded = {} if seed is None else {"seed": seed}
        name += "" if seed is None else f",seed={seed}"
        words = [f"{key}={_text(value)}" for key, value in {**content.get("options", {}), **options, **seeded}.items()]
        effective = _effective(path, name, config, words, content.get("data"))
        made.append((name, config, options, words, effective, seed))
    configs = {config for _, config, *_ in made}
    axes = dict(content.get("axes") or _met(made, len(configs) > 1))
    cells = []
    for name, config, options, words, effective, seed in made:
        argv = [config, "--cfg-options", *words] if words else [config]
        argv += ["--data", content["data"]] if content.get("data") else []
        argv += ["--gpus", str(content["gpus"])] if content.get("gpus", 1) > 1 else []
        chosen = {**options, "config": config} if "axes" in content else {}
        settings = {axis: chosen[axis] if axis in chosen else _setting(axis, config, effective) for axis in axes}
        cells.append(Cell(name, config, settings, argv, _digest(effective.to_dict())[:12], evaluations, seed))
    return Grid(content["name"], axes, _distinct(path, cells), content.get("slurm", {}))


def _read(path: Path) -> dict:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the grid {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is no grid: expected {', '.join(KNOWN)}")
    return content


def _known(section: Mapping, allowed: Sequence[str], complaint: str) -> None:
    for key in section:
        if key not in allowed:
            near = difflib.get_close_matches(str(key), allowed, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(allowed)}"
            raise UserError(f"{complaint} {key}: {hint}")


def _shaped(path: Path, content: dict) -> None:
    """Every key that must be there is, and each is of its type."""
    if not isinstance(content.get("name"), str) or not file_name(content["name"]).strip("._"):
        raise UserError(f"{path}: a name is missing: name: my-sweep")
    if content["name"] == "pretrained":
        raise UserError(f"{path}: name: pretrained is where the networks of all sweeps lie: choose another")
    if ("axes" in content) == ("cells" in content):
        raise UserError(f"{path}: give either axes (every combination is a cell) or cells (a list)")
    kinds = {
        "config": str,
        "data": str,
        "options": dict,
        "axes": dict,
        "cells": list,
        "seeds": list,
        "gpus": int,
        "slurm": dict,
    }
    for key, kind in kinds.items():
        if key in content and not isinstance(content[key], kind):
            what = {str: "a text", dict: "key: value pairs", list: "a list", int: "a number"}[kind]
            raise UserError(f"{path}: {key} must be {what}, not {content[key]!r}")
    if not isinstance(content.get("evaluate"), list) or not content["evaluate"]:
        raise UserError(f"{path}: evaluate is missing: a list such as [{{task: davis, options: {{data: data/DAVIS}}}}]")
    for axis, values in content.get("axes", {}).items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{path}: the axis {axis} must be a list of values, not {values!r}")
    if not content.get("axes", content.get("cells")):
        raise UserError(f"{path}: there is no cell")
    if "config" not in content and "config" not in content.get("axes", {}) and "cells" not in content:
        raise UserError(f"{path}: config is missing: the name of a file in configs/pretrain")


def _from_axes(content: dict) -> list[tuple[str, str, dict]]:
    """(name, config, options) of every combination, the last axis fastest."""
    axes = content["axes"]
    last = [axis.rpartition(".")[2] for axis in axes]
    short = [name if last.count(name) == 1 else axis for axis, name in zip(axes, last)]
    specs = []
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values))
        named = [Path(v).stem if k == "config" else f"{s}={_text(v)}" for k, s, v in zip(axes, short, values)]
        config = str(chosen.pop("config", content.get("config")))
        specs.append((",".join(named), config, chosen))
    return specs


def _from_cells(path: Path, content: dict) -> list[tuple[str, str, dict]]:
    specs = []
    for number, given in enumerate(content["cells"], 1):
        if not isinstance(given, dict):
            raise UserError(f"{path}: cell {number} must be key: value pairs, not {given!r}")
        _known(given, ("name", "config", "options"), f"{path}, cell {number}: unknown key")
        config, options = given.get("config", content.get("config")), given.get("options", {})
        if config is None:
            raise UserError(f"{path}: cell {number} has no config, and the grid has none for all")
        if not isinstance(options, dict):
            raise UserError(f"{path}: options of cell {number} must be key: value pairs, not {options!r}")
        specs.append((str(given.get("name", number)), str(config), options))
    return specs


def _seeds(path: Path, content: dict, specs: Sequence[tuple[str, str, dict]]) -> list[int | None]:
    """The seeds that every setting is trained with; a grid without any leaves the config's own.

    Raises:
        UserError: one is no whole number from 0 or stands there twice, or a setting chooses a seed as well.
    """
    seeds = content.get("seeds", [None])
    if wrong := [seed for seed in seeds if "seeds" in content and (type(seed) is not int or seed < 0)]:
        raise UserError(f"{path}: seeds must be whole numbers from 0, not {wrong[0]!r}")
    if not seeds:
        raise UserError(f"{path}: seeds is an empty list: give one, or leave it out")
    if twice := [seed for seed in seeds if seeds.count(seed) > 1]:
        raise UserError(f"{path}: seed {twice[0]} stands twice in seeds: the same network would count twice")
    if "seeds" in content and any(
        "seed" in options for options in [content.get("options", {}), *(s[2] for s in specs)]
    ):
        raise UserError(f"{path}: give either seeds for all settings or the option seed, not both")
    return seeds


def _met(made: Sequence[tuple], several: bool) -> dict[str, list]:
    """The axes of a list of cells: every key that a cell sets, with the values met, in order."""
    keys = dict.fromkeys(key for _, _, options, *_ in made for key in options)
    axes: dict[str, list] = {key: [] for key in (["config"] if several or not keys else []) + list(keys)}
    for axis, values in axes.items():
        for _, config, _, _, effective, _ in made:
            value = _setting(axis, config, effective)
            if value not in values:
                values.append(value)
    return axes


def _setting(axis: str, config: str, effective: Config) -> Any:
    """The value of a dotted key in a cell's effective config, as JSON holds it."""
    if axis == "config":
        return config
    value: Any = effective.to_dict()
    for part in axis.split("."):
        if not isinstance(value, dict) or part not in value:
            return "default"
        value = value[part]
    return json.loads(json.dumps(value, default=str))


def _evaluation(path: Path, given: Any) -> tuple[str, list[str]]:
    """An entry of ``evaluate`` as a task and words of its command line."""
    if not isinstance(given, dict) or not isinstance(given.get("task"), str):
        raise UserError(f"{path}: an entry of evaluate names a task, as in {{task: davis}}, not {given!r}")
    _known(given, ("task", "options"), f"{path}, evaluate: unknown key")
    argv: list[str] = []
    for key, value in (given.get("options") or {}).items():
        flag = "--" + str(key).replace("_", "-")
        if flag.removeprefix("--") in OURS:
            raise UserError(f"{path}, evaluate: {key} is not for the grid to choose")
        if value is not False:
            argv += [flag] if value is True else [f"{flag}={_text(value).strip('[]')}"]
    return given["task"], argv


def _effective(path: Path, name: str, config: str, words: Sequence[str], data: str | None) -> Config:
    """The config that a cell's training will see: its command line is read by what reads it there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, default={})
    options = parser.parse_args(["--cfg-options", *words]).cfg_options if words else {}
    try:
        effective = load_config(config, options)
        with torch.device("meta"):  # no memory, no time: only whether the network can be built and its crops fit
            method = build_method(effective)
        method.schedule_class(1, effective.data.batch_size, **effective.schedule)
    except UserError as error:
        raise UserError(f"{path}, cell {name}: {error}") from None
    if data:
        effective.data.root = data
    if not Path(effective.data.root).is_dir():
        raise UserError(f"{path}, cell {name}: no such data folder: {effective.data.root} (give one with data:)")
    return effective


def _text(value: Any) -> str:
    """A value as ``--cfg-options`` takes it; a list in brackets, without blanks."""
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_text, value)) + "]"
    return str(value)


def _distinct(path: Path, cells: list[Cell]) -> list[Cell]:
    names = [file_name(cell.name) for cell in cells]
    if twice := [cell.name for cell, name in zip(cells, names) if names.count(name) > 1]:
        raise UserError(f"{path}: two cells are named {twice[0]}: give each value once, and each cell its own name")
    return cells


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
