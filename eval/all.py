"""One checkpoint on every benchmark whose data is there, each in a process of its own."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from selfpatch.eval.datasets.archives import SOURCES
from selfpatch.pretrain.cli import UserError, command_parser, run_command

DESCRIPTION = """Score one checkpoint on DAVIS, COCO and ADE20K, as far as their data is there, and print the table.

What is recorded already is not computed again, and what was stopped goes on: type the same command.

  tools/eval_all.sh checkpoint.pth --gpus 8
  tools/eval_all.sh checkpoint.pth --size fast
  tools/eval_all.sh checkpoint.pth --size mini --davis toy/DAVIS --coco toy/coco --ade20k toy/ade20k"""

TASKS = ("davis", "coco", "ade20k")
PROTOCOLS = {  # of the tasks that train; published: the default of the checkpoint's family
    "published": {},
    "fast": {"coco": "mask-rcnn-fast", "ade20k": "semantic-fpn-fast"},
    "mini": {"coco": "mask-rcnn-mini", "ade20k": "semantic-fpn-mini"},
}


def main(argv: Sequence[str]) -> int:
    """Run every benchmark; one that fails does not keep the others, and makes the exit status 1."""
    parser = command_parser(DESCRIPTION)
    parser.add_argument("checkpoint", type=Path, help="a checkpoint of any known family")
    for task in TASKS:
        parser.add_argument(f"--{task}", type=Path, metavar="DIR", default=Path(SOURCES[task].folder), help="its data")
    parser.add_argument("--images", metavar="DIR", help="COCO's photographs, if not below --coco")
    parser.add_argument("--size", choices=list(PROTOCOLS), default="published", help="of the protocols that train")
    parser.add_argument("--gpus", metavar="N", help="processes for the benchmarks that train")
    for name in ("records", "method", "which", "heads"):
        parser.add_argument(f"--{name}", metavar="X", help="as for a single benchmark: tools/eval_davis.sh --help")
    for name in ("force", "unsafe-load"):
        parser.add_argument(f"--{name}", action="store_true", help="as for a single benchmark")
    args = parser.parse_args(argv)
    if not args.checkpoint.is_file():
        raise UserError(f"no such checkpoint: {args.checkpoint}")
    there = [task for task in TASKS if getattr(args, task).is_dir()]
    for task in TASKS:
        if task not in there:
            print(f"{task}: no data in {getattr(args, task)} (tools/prepare_data.sh {task} says where to get it)")
    if not there:
        raise UserError(f"there is no data of {', '.join(TASKS)}: get some, or say where it is with --davis DIR")
    failed = [task for task in there if not _run(task, args)]
    if failed:
        print(f"error: not scored: {', '.join(failed)} (see above)", file=sys.stderr)
    print(flush=True)
    records = ["--records", args.records] if args.records else []
    subprocess.run([sys.executable, "-m", "selfpatch.reports.report", *records], check=False)
    return int(bool(failed))  # 1: a table may still be worth printing


def _run(task: str, args: argparse.Namespace) -> bool:
    """One benchmark in a process of its own, since two of mm*'s libraries cannot share one; whether it succeeded."""
    command = ["-m", "selfpatch.eval.run", task, str(args.checkpoint), "--data", str(getattr(args, task))]
    for name in ("records", "method", "which", "heads"):
        command += [f"--{name}", getattr(args, name)] if getattr(args, name) else []
    command += ["--force"] * args.force + ["--unsafe-load"] * args.unsafe_load
    command += ["--images", args.images] if task == "coco" and args.images else []
    if task != "davis":
        command += ["--gpus", args.gpus] if args.gpus else []
        protocol = PROTOCOLS[args.size].get(task)
        command += ["--protocol", protocol] if protocol else []
    print(f"\n== {task}", flush=True)
    started = time.monotonic()
    done = subprocess.run([sys.executable, *command], check=False).returncode == 0
    print(f"{task}: {'done' if done else 'failed'} after {time.monotonic() - started:.0f} s", flush=True)
    return done


if __name__ == "__main__":
    run_command(main)
