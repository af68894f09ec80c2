"""The tasks: every module here is one, found by its name, and says itself all that the rest of the project needs of it.

A task defines

- ``TITLE``: a heading of tables, "DAVIS video object segmentation"; ``HEADLINE``: the metrics that an overview shows;
- ``MEASURE``: what the units of its records are (:class:`selfpatch.reports.metrics.Measure`);
- ``Settings``, a subclass of :class:`TaskSettings`: its options, their ranges and defaults;
- ``open(settings)``: the data set, read once: checked (UserError where it cannot be used) and fingerprinted. It has an
  ``identity`` (:class:`~selfpatch.reports.record.Dataset`) and ``findings``, a list of lines: what is odd in its files;
- ``protocol(settings, backbone)``: the :class:`~selfpatch.reports.record.Protocol`, with all parameters;
- ``evaluate(backbone, dataset, settings, out)``: an :class:`~selfpatch.reports.record.Evaluation`; it may keep working
  files in ``out`` to go on from. None: there is nothing to record, after a dry run or in a process that is not the
  first.

It may define ``EXTRAS``, names of settings that ask for something beside the record; ``UNTRAINED``, its protocols that
train nothing and have no config; ``SIZES``, settings for each ``--size`` of ``tools/eval_all.sh``; ``SOURCE``, the data
set's name in ``tools/prepare_data.sh`` where that is not the task's; and ``DIAGNOSTIC = True``: it explains figures and
is no benchmark, so that ``tools/eval_all.sh`` leaves it out.
"""

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

from pydantic import Field

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.settings import Settings


class TaskSettings(Settings):
    """What every task can be told."""

    data: Path = Field(description="where the data set lies")
    force: bool = Field(False, description="evaluate even if the result is recorded")


def names() -> list[str]:
    """The names of all tasks."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> ModuleType:
    """The module of a task; UserError: there is none of that name."""
    if name not in (known := names()):
        raise UserError(f"unknown task {name!r}: choose one of {', '.join(known)}")
    return importlib.import_module(f"{__name__}.{name}")
