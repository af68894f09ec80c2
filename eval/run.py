"""A task and a checkpoint in, a record out: ``python -m selfpatch.eval.run TASK CKPT``.

A task is a module of this package with these functions; it is found by its name:

- ``add_arguments(parser)`` adds the task's options (``--data`` is common to all);
- ``check(args)`` raises :class:`UserError` on anything wrong with arguments or data, quickly;
- ``protocol_of(args, backbone)`` gives a :class:`Protocol` (or its name and parameters as a dictionary);
- ``fingerprint(args)`` gives a :class:`Dataset` (or its fields as a tuple);
- ``evaluate(backbone, args, out)`` gives an :class:`Evaluation`; it may keep working files in ``out`` to go on from.

``DATA`` is the default of ``--data``; ``EXTRAS`` names the options that ask for something beside the record.
"""

from __future__ import annotations

import argparse
import ast
import math
import os
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from selfpatch.eval.checkpoints.load import LoadedBackbone, add_checkpoint_options, load_backbone
from selfpatch.eval.dense.require import import_dense
from selfpatch.pretrain.cli import UserError, command_parser, run_command
from selfpatch.pretrain.files import raise_unless_writable
from selfpatch.reports.record import (
    Dataset,
    Evaluation,
    Protocol,
    find_record,
    jsonable,
    read_record,
    versions,
    write_record,
)

DESCRIPTION = """\
{what}

  {example}

The checkpoint may be of this project or of a published method: its family, architecture and patch size are read off its
tensors, and what was loaded is printed and proved first. A result that is already recorded (same weights, protocol and
data) is shown instead of computed again."""
ANY_TASK = "Evaluate one checkpoint on one task and write a record of the result."


def tasks() -> list[str]:
    """The names of the modules beside this one that define ``evaluate``, read without importing them."""
    found = []
    for path in sorted(Path(__file__).parent.joinpath("tasks").glob("*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        defined = {node.name for node in body if isinstance(node, ast.FunctionDef)}
        if {"evaluate", "protocol_of", "fingerprint"} <= defined:
            found.append(path.stem)
    return found


def main(argv: Sequence[str]) -> None:
    """Run one evaluation from the command line."""
    known = tasks()
    if not argv or argv[0].startswith("-"):  # no task: --help, or the complaint that there is none
        _parser(None, known).parse_args(argv)
        raise UserError(f"no task given: choose one of {', '.join(known)}")
    name, *rest = argv
    if name not in known:
        raise UserError(f"unknown task {name!r}: choose one of {', '.join(known)}")
    task = import_dense(f"selfpatch.eval.tasks.{name}")
    args = _parser(task, known).parse_args(rest)
    args.task = name
    run(task, args)


def evaluate(task: str, checkpoint: str | Path, **options: Any) -> dict[str, Any]:
    """Evaluate ``checkpoint`` on ``task`` from Python and return its record.

    Args:
        task: one of :func:`tasks`.
        checkpoint: a file of any known family.
        options: those of the command line, with underscores: ``data``, ``records``, ``force``, ``topk``...

    Raises:
        UserError: whatever the command line would refuse.
    """
    known = tasks()
    if task not in known:
        raise UserError(f"unknown task {task!r}: choose one of {', '.join(known)}")
    module = import_dense(f"selfpatch.eval.tasks.{task}")
    parser = _parser(module, known)
    if unknown := sorted(options.keys() - {action.dest for action in parser._actions}):
        raise UserError(f"{task} has no option {', '.join(unknown)}")
    words = []
    for name, value in options.items():
        word = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [word] if value else []
        elif value is not None:
            words += [word, ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)]
    args = parser.parse_args([str(checkpoint), *words])
    args.task = task
    return read_record(run(module, args))


def check_command(name: str, argv: Sequence[str]) -> None:
    """Raise :class:`UserError` for what ``main([name, checkpoint, *argv])`` refuses before it needs the checkpoint.

    A sweep asks this before it trains anything.
    """
    known = tasks()
    if name not in known:
        raise UserError(f"unknown task {name!r}: choose one of {', '.join(known)}")
    task = import_dense(f"selfpatch.eval.tasks.{name}")
    parser = _parser(task, known)

    def refuse(message: str) -> None:
        raise UserError(f"{name}: {message}")

    parser.error = refuse
    args = parser.parse_args(["none.pth", *argv])
    args.task = name
    task.check(args)


def _parser(task: ModuleType | None, known: Sequence[str]) -> argparse.ArgumentParser:
    prog = os.environ.get("SELFPATCH_COMMAND", "python -m selfpatch.eval.run " + (_name(task) if task else "davis"))
    what = task.__doc__.partition("\n\n")[0] if task else ANY_TASK
    parser = command_parser(DESCRIPTION.format(what=what, example=f"{prog} checkpoint.pth --data DIR"))
    parser.prog = prog if task else parser.prog
    if task is None:
        parser.add_argument("task", choices=known, help="what to evaluate on; TASK --help shows its options")
    parser.add_argument("checkpoint", type=Path, help="a checkpoint of any known family")
    parser.add_argument("--data", type=Path, default=getattr(task, "DATA", None), help="where the data set lies")
    parser.add_argument("--out", type=Path, help="working files [work_dirs/eval/<task>-<checkpoint>]")
    parser.add_argument("--records", type=Path, default=Path("work_dirs/records"), help="where records are written")
    parser.add_argument("--force", action="store_true", help="evaluate even if the result is recorded")
    parser.add_argument(
        "--method", metavar="NAME", help="the name in tables, where the file's own is not what you want"
    )
    add_checkpoint_options(parser)
    if task is not None:
        task.add_arguments(parser.add_argument_group(f"options of {_name(task)}"))
    return parser


def _name(task: ModuleType) -> str:
    return task.__name__.rpartition(".")[2]


def run(task: ModuleType, args: argparse.Namespace) -> Path:
    """Evaluate ``args.checkpoint`` on ``task``, or find that it was done, and return the record's path.

    Cheap checks come first, then the checkpoint, then the look for an equal record, then the work.
    """
    task.check(args)
    backbone = load_backbone(args.checkpoint, which=args.which, heads=args.heads, unsafe=args.unsafe_load)
    print(backbone.report(args.method), flush=True)
    protocol, dataset = _protocol(task.protocol_of(args, backbone)), _dataset(task.fingerprint(args))

    known = find_record(
        args.records,
        task=args.task,
        checkpoint_sha256=backbone.checkpoint_sha256,
        weights_sha256=backbone.weights_sha256,
        heads=jsonable(backbone.arch["heads"]),
        protocol=protocol,
        dataset=dataset,
    )
    if known and not args.force:
        record = read_record(known)
        idle = ["--method"] if args.method not in (None, record["method"]) else []
        idle += [f"--{name.replace('_', '-')}" for name in getattr(task, "EXTRAS", ()) if getattr(args, name)]
        ignored = f", {', '.join(idle)} ignored (--force applies it)" if idle else " (--force evaluates again)"
        print(f"already recorded on {record['started']}{ignored}:")
        show(record, known)
        return known

    out = args.out or Path("work_dirs/eval") / f"{args.task}-{backbone.checkpoint_sha256[:12]}"
    raise_unless_writable(args.records, "--records")
    raise_unless_writable(out, "--out")
    started, clock = datetime.now(timezone.utc), time.perf_counter()
    result: Evaluation = task.evaluate(backbone, args, out)
    seconds = time.perf_counter() - clock + result.earlier_seconds
    metrics = {name: float(value) for name, value in result.metrics.items() if math.isfinite(value)}

    record = {
        "task": args.task,
        "dataset": dataset.name,
        "dataset_fingerprint": dataset.sha256,
        "split": dataset.split,
        "protocol": protocol.as_json(),
        "method": args.method or backbone.method,
        "arch": backbone.arch,
        "pretrain_epochs": backbone.epoch,
        "seed": backbone.seed,
        **_provenance(backbone),
        "versions": versions(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "miniature": dataset.miniature,
        "metrics": metrics,
        "notes": [*result.notes, *(f"{name} has no value" for name in result.metrics if name not in metrics)],
    }
    path = write_record(args.records, record, result.units)
    show(read_record(path), path)
    return path


def _provenance(backbone: LoadedBackbone) -> dict[str, Any]:
    return {
        "checkpoint": str(backbone.checkpoint),
        "checkpoint_sha256": backbone.checkpoint_sha256,
        "weights_sha256": backbone.weights_sha256,
        "certificate": backbone.certificate,
        "config": None if backbone.config is None else jsonable(backbone.config),
    }


def _protocol(given: Protocol | dict[str, Any]) -> Protocol:
    return given if isinstance(given, Protocol) else Protocol(**given)


def _dataset(given: Dataset | Sequence[Any]) -> Dataset:
    return given if isinstance(given, Dataset) else Dataset(*given)


def show(record: dict[str, Any], path: Path) -> None:
    """Print a record in a few lines: the overall figures (those per class stay in the file), and where it is."""
    overall = {name: value for name, value in record["metrics"].items() if "/" not in name}
    small = " (miniature: no benchmark figures)" if record["miniature"] else ""
    print(f"{record['method']} {record['arch'].get('name', '')}, {record['dataset']} {record['split']}{small}")
    print(f"protocol {record['protocol']['name']}, {record['seconds']:.0f} s on {record['device']}")
    print("  ".join(f"{name} {value:.2f}" for name, value in overall.items()))
    for note in record["notes"]:
        print(f"note: {note}")
    print(f"record: {path}")


if __name__ == "__main__":
    run_command(main)
