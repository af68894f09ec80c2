"""A sweep's grid: a YAML file in, checked cells out. What is wrong with any cell is said before the first one runs."""

import argparse
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from mmengine.config import Config, DictAction
from pydantic import Field, model_validator

from selfpatch.eval.run import check_command
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.settings import Count, Natural, Settings, check, option
from selfpatch.pretrain.train import build_method, load_config
from selfpatch.reports.ablation import CELL, short_names
from selfpatch.reports.record import file_name

OURS = ("--records", "--out", "--debug", "--help")  # options of an evaluation that the sweep itself gives


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
    against: tuple[str, ...] = ()  # names of the listed cells that this one is compared with

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


class GridFile(Settings):
    """The keys of a grid's file; the help of :mod:`selfpatch.eval.studies.sweep` shows one."""

    name: str
    config: str | None = None
    data: str | None = None
    options: dict[str, Any] = Field({})
    axes: dict[str, Any] | None = None
    cells: tuple[Any, ...] | None = None
    seeds: tuple[Natural, ...] | None = None
    evaluate: tuple[Any, ...] = ()
    gpus: Count = 1
    slurm: dict[str, Any] = Field({})

    @model_validator(mode="after")
    def _check(self) -> "GridFile":
        if not file_name(self.name).strip("._"):
            raise UserError(f"name: {self.name} is no name for a folder: name: my-sweep")
        if self.name == "pretrained":
            raise UserError("name: pretrained is where the networks of all sweeps lie: choose another")
        if (self.axes is None) == (self.cells is None):
            raise UserError("give either axes (every combination is a cell) or cells (a list)")
        if not (self.axes or self.cells):
            raise UserError("there is no cell")
        for axis, values in (self.axes or {}).items():
            if not isinstance(values, list) or not values:
                raise UserError(f"the axis {axis} must be a list of values, not {values!r}")
        if not self.evaluate:
            raise UserError("evaluate is missing: a list such as [{task: davis, options: {data: data/DAVIS}}]")
        if self.seeds is not None:
            if not self.seeds:
                raise UserError("seeds is an empty list: give one, or leave it out")
            if twice := [seed for seed in self.seeds if self.seeds.count(seed) > 1]:
                raise UserError(f"seed {twice[0]} stands twice in seeds: the same network would count twice")
            if any("seed" in options for options in [self.options, *(spec.options for spec in self.specs())]):
                raise UserError("give either seeds for all settings or the option seed, not both")
        self._check_against()
        return self

    def _check_against(self) -> None:
        specs = self.specs()
        for spec in specs:
            others = [one.name for one in specs if one.name != spec.name]
            if unknown := [name for name in spec.references if name not in others]:
                known = ", ".join(others) or "nothing: it is alone"
                raise UserError(f"cell {spec.name}: against {unknown[0]}: choose from {known}")

    def specs(self) -> "list[Spec]":
        """Every combination of the axes, the last one fastest; or the cells as they are listed."""
        specs = []
        if self.axes is None:
            for number, cell in enumerate(self.cells, 1):
                own = check(Spec, cell, f"cells.{number}.", "key")
                named = {"name": str(number if own.name is None else own.name), "config": own.config or self.config}
                specs.append(own.model_copy(update=named))
            return specs
        short = short_names(list(self.axes))
        for values in itertools.product(*self.axes.values()):
            chosen = dict(zip(self.axes, values))
            parts = [Path(str(v)).stem if k == "config" else f"{short[k]}={_text(v)}" for k, v in chosen.items()]
            config = chosen.pop("config", self.config)
            specs.append(check(Spec, {"name": ",".join(parts), "config": config, "options": chosen}, what="axis"))
        return specs


class Spec(Settings):
    """A setting as the grid gives it: a combination of its axes, or an entry of ``cells``."""

    name: str | int | None = None  # None: its number
    config: str | None = None  # None: the grid's
    options: dict[str, Any] = Field({})
    against: str | tuple[str, ...] = ()  # the cells to compare with; where no cell names one, all with the first

    @property
    def references(self) -> tuple[str, ...]:
        """The names in ``against``."""
        return (self.against,) if isinstance(self.against, str) else self.against


class Entry(Settings):
    """An entry of ``evaluate``."""

    task: str
    options: dict[str, Any] | None = None


def read_grid(path: Path) -> Grid:
    """Read a grid and check all of it: keys, every cell's config and options, data folders, evaluations.

    Raises:
        UserError: names the first fault.
    """
    content = _read(path)
    with _named(path):
        given = check(GridFile, content, what="key")
        evaluations = [_evaluation(entry) for entry in given.evaluate]
        made = []
        for spec, seed in itertools.product(given.specs(), given.seeds or [None]):
            name = spec.name if seed is None else f"{spec.name},seed={seed}"
            options = {**given.options, **spec.options} | ({} if seed is None else {"seed": seed})
            words = [f"{key}={_text(value)}" for key, value in options.items()]
            with _named(f"cell {name}"):
                made.append((name, spec, seed, words, _effective(spec.config, words, given.data)))
        files = [file_name(name) for name, *_ in made]
        if twice := [name for (name, *_), file in zip(made, files) if files.count(file) > 1]:
            raise UserError(f"two cells are named {twice[0]}: give each value once, and each cell its own name")

    axes = given.axes or _axes_met([(spec, effective) for _, spec, _, _, effective in made])
    more = ["--data", given.data] if given.data else []
    more += ["--gpus", str(given.gpus)] if given.gpus > 1 else []
    cells = []
    for name, spec, seed, words, effective in made:
        chosen = {**spec.options, "config": spec.config} if given.axes else {}
        settings = {axis: chosen[axis] if axis in chosen else _setting(axis, spec, effective) for axis in axes}
        argv = [spec.config, *["--cfg-options"] * bool(words), *words, *more]
        pretrain_id = _digest(effective.to_dict())[:12]
        cells.append(Cell(name, spec.config, settings, argv, pretrain_id, evaluations, seed, spec.references))
    return Grid(given.name, axes, cells, given.slurm)


@contextmanager
def _named(where: Any) -> Iterator[None]:
    """Say in a user's mistake where it was made."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _read(path: Path) -> dict:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the grid {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is no grid: expected {', '.join(GridFile.model_fields)}")
    return {str(key): value for key, value in content.items()}


def _evaluation(given: Any) -> tuple[str, list[str]]:
    """An entry of ``evaluate`` as a task and words of its command line, which that task takes."""
    entry = check(Entry, given, "evaluate.", "key")
    argv: list[str] = []
    for key, value in (entry.options or {}).items():
        if option(key) in OURS:
            raise UserError(f"evaluate: {key} is not for the grid to choose")
        if value is not False:
            argv.append(option(key) if value is True else f"{option(key)}={_text(value).strip('[]')}")
    check_command(entry.task, argv)
    return entry.task, argv


def _effective(config: str | None, words: Sequence[str], data: str | None) -> Config:
    """The config that a cell's training will see: its command line is read by what reads it there."""
    if config is None:
        raise UserError("config is missing: the name of a file in configs/pretrain, of the cell or of the grid")
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, default={})
    effective = load_config(config, parser.parse_args(["--cfg-options", *words] if words else []).cfg_options)
    with torch.device("meta"):  # no memory, no time: only whether the network can be built and its crops fit
        method = build_method(effective)
    method.schedule_class(1, effective.data.batch_size, **effective.schedule)
    if data:
        effective.data.root = data
    if not Path(effective.data.root).is_dir():
        raise UserError(f"no such data folder: {effective.data.root} (give one with data:)")
    return effective


def _axes_met(made: Sequence[tuple[Spec, Config]]) -> dict[str, list]:
    """The axes of a list of cells: its name, and every key that a cell sets, with the values met, in order."""
    keys = dict.fromkeys(key for spec, _ in made for key in spec.options)
    if not keys or len({spec.config for spec, _ in made}) > 1:
        keys = {"config": None, **keys}
    keys = {CELL: None, **keys}
    axes: dict[str, list] = {key: [] for key in keys}
    for axis, values in axes.items():
        for value in (_setting(axis, *one) for one in made):
            if value not in values:
                values.append(value)
    return axes


def _setting(axis: str, spec: Spec, effective: Config) -> Any:
    """The value of a dotted key in a cell's effective config, as JSON holds it."""
    own = {CELL: spec.name, "config": spec.config}
    if axis in own:
        return own[axis]
    value: Any = effective.to_dict()
    for part in axis.split("."):
        if not isinstance(value, dict) or part not in value:
            return "default"
        value = value[part]
    return json.loads(json.dumps(value, default=str))


def _text(value: Any) -> str:
    """A value as ``--cfg-options`` takes it; a list in brackets, without blanks."""
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_text, value)) + "]"
    return str(value)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
