"""A task and a checkpoint in, a record out: ``python -m selfpatch.eval.run TASK CKPT``, in Python :func:`evaluate`.

The tasks are the modules of :mod:`selfpatch.eval.tasks`.
"""

import argparse
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from selfpatch.eval import tasks
from selfpatch.eval.checkpoints.load import LoadedBackbone, add_checkpoint_options, checkpoint_options, load_backbone
from selfpatch.eval.dense.recipe import RunSettings
from selfpatch.eval.tasks import TaskSettings
from selfpatch.pretrain.cli import UserError, command_parser, run_command
from selfpatch.pretrain.files import raise_unless_writable, write_text
from selfpatch.pretrain.launch import run_processes
from selfpatch.pretrain.settings import add_options, check, from_options, option
from selfpatch.reports.metrics import reference_of
from selfpatch.reports.record import Evaluation, Protocol, Record, jsonable, versions

RECORDS = Path("work_dirs/records")
DESCRIPTION = """\
{what}

  {example}

The checkpoint may be of this project or of a published method: its family, architecture and patch size are read off its
tensors, and what was loaded is printed and proved first. A result that is already recorded (same weights, protocol and
data) is shown instead of computed again."""
ANY_TASK = "Evaluate one checkpoint on one task and write a record of the result."


def evaluate(
    task: str,
    checkpoint: str | Path,
    *,
    records: str | Path = RECORDS,
    out: str | Path | None = None,
    method: str | None = None,
    which: str | None = None,
    heads: int | None = None,
    unsafe_load: bool = False,
    prefix: str | None = None,
    **settings: Any,
) -> Record | None:
    """Evaluate a checkpoint on a task, or find the result recorded.

    Args:
        task: one of :func:`selfpatch.eval.tasks.names`.
        checkpoint: a file of any known family.
        records: the folder of records.
        out: working files; None: ``work_dirs/eval/<task>-<checkpoint>``.
        method: the name in tables, where the file's own is not what you want.
        which, heads, unsafe_load, prefix: as for :func:`~selfpatch.eval.checkpoints.load.load_backbone`.
        settings: of the task, such as ``data="data/DAVIS", topk=7``.

    Returns:
        the record, as it stands in its file; None where there is nothing to record: after a dry run, or in a process
        that is not the first of several.

    Raises:
        UserError: settings, data or checkpoint cannot be used.
    """
    module = tasks.load(task)
    places = {"records": Path(records), "out": Path(out) if out else None}
    loading = {"which": which, "heads": heads, "unsafe": unsafe_load, "prefix": prefix}
    return run(module, check(module.Settings, settings, what="setting"), checkpoint, method=method, **places, **loading)


def run(
    task: ModuleType,
    settings: TaskSettings,
    checkpoint: str | Path,
    *,
    records: Path = RECORDS,
    out: Path | None = None,
    method: str | None = None,
    processes: Callable[[], None] | None = None,
    **loading: Any,
) -> Record | None:
    """Do :func:`evaluate` with a task's module, checked settings and keywords of ``load_backbone``.

    The data is opened first, then the checkpoint loaded, then an equal record looked for. If there is none, the work is
    done here, or by ``processes()``, which returns once others have done it and written their record.
    """
    started = datetime.now(timezone.utc)
    dataset = task.open(settings)
    for finding in dataset.findings:
        print(f"warning: {finding}", flush=True)
    backbone = load_backbone(checkpoint, **loading)
    print(backbone.report(method), flush=True)
    protocol = task.protocol(settings, backbone)
    find = partial(
        Record.find,
        records,
        task=_name(task),
        checkpoint_sha256=backbone.checkpoint_sha256,
        weights_sha256=backbone.weights_sha256,
        heads=jsonable(backbone.arch["heads"]),
        protocol=protocol,
        dataset=dataset.identity,
    )
    if not settings.force and not getattr(settings, "dry_run", False) and (known := find()):
        asked = {"method": method not in (None, known.method)}
        asked |= {extra: getattr(settings, extra) for extra in getattr(task, "EXTRAS", ())}
        ignored = ", ".join(option(word) for word, given in asked.items() if given)
        hint = f", {ignored} ignored (--force applies it):" if ignored else " (--force evaluates again):"
        print(f"already recorded on {known.started}{hint}")
        show(known)
        return known

    out = out or Path("work_dirs/eval") / f"{_name(task)}-{backbone.checkpoint_sha256[:12]}"
    raise_unless_writable(records, "--records")
    raise_unless_writable(out, "--out")
    if processes:
        processes()
        return find()
    clock = time.perf_counter()
    result = task.evaluate(backbone, dataset, settings, out)
    if result is None:
        return None
    seconds = time.perf_counter() - clock + result.earlier_seconds
    record = _record(task, dataset, protocol, backbone, result, method, started, seconds)
    record = record.write(records, result.units, result.predictions)
    show(record)
    return record


def _record(
    task: ModuleType,
    dataset: Any,
    protocol: Protocol,
    backbone: LoadedBackbone,
    result: Evaluation,
    method: str | None,
    started: datetime,
    seconds: float,
) -> Record:
    """What is known of a finished evaluation."""
    metrics = {name: float(value) for name, value in result.metrics.items() if math.isfinite(value)}
    return Record(
        task=_name(task),
        title=task.TITLE,
        headline=task.HEADLINE,
        measure=reference_of(task.MEASURE, task.__name__),
        lower=sorted(task.MEASURE.lower),
        dataset=dataset.identity.name,
        dataset_fingerprint=dataset.identity.sha256,
        split=dataset.identity.split,
        protocol=protocol,
        method=method or backbone.method,
        arch=backbone.arch,
        pretrain_epochs=backbone.epoch,
        seed=backbone.seed,
        checkpoint=str(backbone.checkpoint),
        checkpoint_sha256=backbone.checkpoint_sha256,
        weights_sha256=backbone.weights_sha256,
        certificate=backbone.certificate,
        config=None if backbone.config is None else jsonable(backbone.config),
        versions=versions(),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        started=started.isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        miniature=dataset.identity.miniature,
        metrics=metrics,
        notes=[*result.notes, *(f"{name} has no value" for name in result.metrics if name not in metrics)],
        findings=list(dataset.findings),
        kept=result.kept,
    )


def show(record: Record) -> None:
    """Print a record in a few lines: the overall figures (those per class stay in the file), and where it is."""
    small = " (miniature: no benchmark figures)" if record.miniature else ""
    print(f"{record.method} {record.arch.get('name', '')}, {record.dataset} {record.split}{small}")
    print(f"protocol {record.protocol.name}, {record.seconds:.0f} s on {record.device}")
    print("  ".join(f"{name} {value:.2f}" for name, value in record.overall.items()))
    for note in record.notes:
        print(f"note: {note}")
    print(f"record: {record.path}", flush=True)


# --- the command line ------------------------------------------------------------------------------------------------


def main(argv: Sequence[str]) -> None:
    """Run one evaluation from the command line; with ``--gpus N`` in N processes of the same command."""
    if not argv or argv[0].startswith("-"):  # no task: --help, or the complaint that there is none
        _parser(None).parse_args(argv)
        raise UserError(f"no task given: choose one of {', '.join(tasks.names())}")
    task = tasks.load(argv[0])
    args = _parser(task).parse_args(argv[1:])
    settings = from_options(task.Settings, args)

    trains = isinstance(settings, RunSettings)
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))
    if trains and settings.launcher != "none" and rank > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process
        warnings.simplefilter("ignore")
    start = None
    if trains and settings.launcher == "none" and settings.gpus > 1 and not settings.dry_run:
        start = partial(run_processes, settings.gpus, "selfpatch.eval.run", argv)
    options = {name: getattr(args, name) for name in ("records", "out", "method")} | checkpoint_options(args)
    record = run(task, settings, args.checkpoint, **options, processes=start)
    if record and args.record_path:
        write_text(args.record_path, f"{record.path}\n")


def check_command(name: str, argv: Sequence[str]) -> None:
    """Raise :class:`UserError` for what ``main([name, checkpoint, *argv])`` refuses before it needs the checkpoint.

    A sweep asks this before it trains anything.
    """
    task = tasks.load(name)
    try:
        task.open(from_options(task.Settings, _parser(task).parse_args(["none.pth", *argv])))
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _parser(task: ModuleType | None) -> argparse.ArgumentParser:
    name = _name(task) if task else "davis"
    prog = os.environ.get("SELFPATCH_COMMAND", f"python -m selfpatch.eval.run {name}")
    what = task.__doc__.partition("\n\n")[0] if task else ANY_TASK
    parser = command_parser(DESCRIPTION.format(what=what, example=f"{prog} checkpoint.pth --data DIR"))
    add = parser.add_argument
    parser.prog = prog if task else parser.prog
    if task is None:
        add("task", choices=tasks.names(), help="what to evaluate on; TASK --help shows its options")
    add("checkpoint", type=Path, help="a checkpoint of any known family")
    add("--out", type=Path, help="working files [work_dirs/eval/<task>-<checkpoint>]")
    add("--records", type=Path, default=RECORDS, help="where records are written")
    add("--record-path", type=Path, metavar="FILE", help="write the path of the record into FILE")
    add("--method", metavar="NAME", help="the name in tables, where the file's own is not what you want")
    add_checkpoint_options(parser)
    if task is not None:
        add_options(parser.add_argument_group(f"options of {name}"), task.Settings)
    return parser


def _name(task: ModuleType) -> str:
    return task.__name__.rpartition(".")[2]


if __name__ == "__main__":
    run_command(main)
