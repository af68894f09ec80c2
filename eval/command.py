"""The command ``selfpatch``: one front door to what the entry points in tools/ do.

Each command is the ``main(argv)`` of a module, imported only when its command is typed.
"""

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from selfpatch.pretrain.cli import UserError, run_command

COMMANDS = {  # name: (module with main(argv), what it does)
    "pretrain": ("selfpatch.pretrain.train", "train a vision transformer on a folder of images"),
    "plan": ("selfpatch.pretrain.plan", "say what a pretraining takes on N GPUs, with its arithmetic"),
    "eval": ("selfpatch.eval.run", "score a checkpoint on one task, and record the result"),
    "all": ("selfpatch.eval.all", "score a checkpoint on every benchmark whose data is there"),
    "convert": ("selfpatch.eval.checkpoints.convert", "write any checkpoint's backbone in another layout"),
    "report": ("selfpatch.reports.report", "turn records into tables, plots and a page"),
    "compare": ("selfpatch.reports.bootstrap", "compare two records by a paired bootstrap"),
    "attention": ("selfpatch.eval.studies.attention", "draw what patches look at, and say it in figures"),
    "sweep": ("selfpatch.eval.studies.sweep", "pretrain and score a grid of settings, and report on it"),
    "calibrate": ("selfpatch.eval.studies.calibrate", "ask whether a protocol ranks a good network above a poor one"),
    "score": ("selfpatch.eval.measures.jf", "score a folder of masks from anywhere with J and F"),
    "data": ("selfpatch.eval.datasets.prepare", "unpack a data set and look whether it is whole"),
}
DESCRIPTION = """\
A checkpoint goes in, a row of an honest comparison table comes out.

{commands}

  selfpatch pretrain selfpatch_toy --data photos        checkpoints in work_dirs/selfpatch_toy
  selfpatch eval davis checkpoint.pth --data DAVIS      a record in work_dirs/records
  selfpatch report --baseline DINO                      tables and plots in work_dirs/report

selfpatch COMMAND --help teaches each; selfpatch eval TASK --help shows a task's options. From Python the same is in
selfpatch.pretrain, selfpatch.eval and selfpatch.reports: from selfpatch.eval import load_backbone, evaluate."""


def main(argv: Sequence[str]) -> None:
    """Run the command that ``argv`` names first with the words after it, and exit with its status.

    Raises:
        UserError: there is no such command.
    """
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        commands = "\n".join(f"  {name:<{width}}  {does}" for name, (_, does) in COMMANDS.items())
        print(DESCRIPTION.format(commands=commands))
        return
    name, *rest = argv
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(COMMANDS)}"
        raise UserError(f"unknown command {name}: {hint}")
    task = [rest[0]] if name == "eval" and rest and not rest[0].startswith("-") else []
    os.environ.setdefault("SELFPATCH_COMMAND", " ".join(["selfpatch", name, *task]))  # what usage lines repeat
    sys.argv[1:] = rest  # a training in several processes gives these words to each
    module = import_module(COMMANDS[name][0])
    interrupted = {"interrupted": module.INTERRUPTED} if hasattr(module, "INTERRUPTED") else {}
    run_command(module.main, rest, **interrupted)


def entry() -> None:
    """The console script."""
    run_command(main)


if __name__ == "__main__":
    entry()
