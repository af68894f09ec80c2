"""One checkpoint on every task whose data is there, each in a process of its own."""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from selfpatch.eval import tasks
from selfpatch.eval.dense.recipe import RunSettings
from selfpatch.pretrain.cli import UserError, command_parser
from selfpatch.pretrain.settings import option

DESCRIPTION = """Score one checkpoint on every task whose data is there (DAVIS, COCO, ADE20K, …) and print the table.

What is recorded already is not computed again, and what was stopped goes on: type the same command.

  tools/eval_all.sh checkpoint.pth --gpus 8
  tools/eval_all.sh checkpoint.pth --size fast
  tools/eval_all.sh checkpoint.pth --size mini --davis toy/DAVIS --coco toy/coco --ade20k toy/ade20k"""

PUBLISHED = "published"  # the size at which every task takes its own defaults
PASSED = {"images": "COCO's photographs, if not below --coco", "gpus": "processes for the tasks that train"}


def benchmarks() -> dict[str, ModuleType]:
    """The tasks that score a checkpoint, by name; those that train come last."""
    known = {name: tasks.load(name) for name in tasks.names()}
    scoring = [(name, task) for name, task in known.items() if not getattr(task, "DIAGNOSTIC", False)]
    return dict(sorted(scoring, key=lambda item: issubclass(item[1].Settings, RunSettings)))


def main(argv: Sequence[str]) -> int:
    """Run every task; one that fails does not keep the others, and makes the exit status 1."""
    known = benchmarks()
    parser = command_parser(DESCRIPTION)
    parser.add_argument("checkpoint", type=Path, help="a checkpoint of any known family")
    for name, task in known.items():
        default = task.Settings.model_fields["data"].default
        parser.add_argument(option(name), type=Path, metavar="DIR", default=default, help=f"data of {task.TITLE}")
    sizes = sorted({size for task in known.values() for size in getattr(task, "SIZES", {})})
    parser.add_argument("--size", choices=[PUBLISHED, *sizes], default=PUBLISHED, help="of the protocols that train")
    for name, what in PASSED.items():
        parser.add_argument(option(name), metavar="X", help=what)
    for name in ("records", "method", "which", "heads", "prefix"):
        parser.add_argument(option(name), metavar="X", help="as for a single task: tools/eval_davis.sh --help")
    for name in ("force", "unsafe_load"):
        parser.add_argument(option(name), action="store_true", help="as for a single task")
    args = parser.parse_args(argv)
    if not args.checkpoint.exists():  # a file, or a folder as Hugging Face writes it
        raise UserError(f"no such checkpoint: {args.checkpoint}")
    there = {name: task for name, task in known.items() if getattr(args, name).is_dir()}
    for name, task in known.items():
        if name not in there:
            source = getattr(task, "SOURCE", name)
            print(f"{name}: no data in {getattr(args, name)} (tools/prepare_data.sh {source} says where to get it)")
    if not there:
        raise UserError(f"there is no data of {', '.join(known)}: get some, or say where it is with --davis DIR")
    failed = [name for name, task in there.items() if not _run(name, task, args)]
    if failed:
        print(f"error: not scored: {', '.join(failed)} (see above)", file=sys.stderr)
    print(flush=True)
    records = ["--records", args.records] if args.records else []
    subprocess.run([sys.executable, "-m", "selfpatch.reports.report", *records], check=False)
    return int(bool(failed))  # 1: a table may still be worth printing


def _run(name: str, task: ModuleType, args: argparse.Namespace) -> bool:
    """One task in a process of its own, since two of mm*'s libraries cannot share one; whether it succeeded."""
    given = {key: getattr(args, key) for key in ("records", "method", "which", "heads", "prefix")}
    given |= {key: getattr(args, key) for key in PASSED if key in task.Settings.model_fields}
    given |= getattr(task, "SIZES", {}).get(args.size, {})
    command = ["-m", "selfpatch.eval.run", name, str(args.checkpoint), "--data", str(getattr(args, name))]
    command += [word for key, value in given.items() if value for word in (option(key), str(value))]
    command += [option(key) for key in ("force", "unsafe_load") if getattr(args, key)]
    print(f"\n== {name}", flush=True)
    started = time.monotonic()
    done = subprocess.run([sys.executable, *command], check=False).returncode == 0
    print(f"{name}: {'done' if done else 'failed'} after {time.monotonic() - started:.0f} s", flush=True)
    return done
