"""Does a protocol measure? A good network beside an untrained one of the same architecture, on every protocol."""

import argparse
import copy
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

from selfpatch.eval import tasks
from selfpatch.eval.all import benchmarks
from selfpatch.eval.checkpoints.load import LoadedBackbone, add_checkpoint_options, checkpoint_options, load_backbone
from selfpatch.eval.dense.recipe import protocols
from selfpatch.eval.run import check_command
from selfpatch.eval.studies.sweep import CellError, run_evaluation
from selfpatch.pretrain.checkpoint import plain, save_file
from selfpatch.pretrain.cli import UserError, command_parser
from selfpatch.pretrain.files import raise_unless_writable, write_text
from selfpatch.reports.bootstrap import compare_records
from selfpatch.reports.record import Record

DESCRIPTION = """Calibrate protocols: each must rank a good network above an untrained one, or it measures nothing.

  tools/calibrate.sh dinov2_vits14.pth                          beside an untrained network, made on the spot
  tools/calibrate.sh good.pth untrained.pth --size mini
  tools/calibrate.sh good.pth --protocols davis,ade20k/dense-knn --ade20k data/ade20k

Runs the protocols whose data is there, compares by the paired bootstrap, and says of each figure 'measures' (the 95 %
interval of the difference lies above zero), 'cannot tell' or 'upside down'. What is recorded already is not computed
again. Exit status 1: a protocol failed, or does not measure."""

VERDICTS = {"better": "measures", "cannot tell": "cannot tell", "worse": "upside down"}  # of good against untrained


@dataclass(frozen=True)
class Instrument:
    """What is calibrated: a protocol of a task."""

    task: str
    protocol: str | None = None  # None: the task's default
    changes: tuple[str, ...] = ()  # further options of the evaluation, such as ("--crop", "224")

    @property
    def name(self) -> str:
        return f"{self.task}/{self.protocol}" if self.protocol else self.task

    @property
    def source(self) -> str:
        """The data set, as the options and ``tools/prepare_data.sh`` call it."""
        return getattr(tasks.load(self.task), "SOURCE", self.task)


def instruments(size: str) -> list[Instrument]:
    """All protocols of a size: those that train carry it in their name, those that do not have none."""
    found = []
    for name, task in benchmarks().items():
        if "protocol" in task.Settings.model_fields:
            own = [one for one in protocols(name) if one.endswith(f"-{size}")]
            found += [Instrument(name, one) for one in [*own, *getattr(task, "UNTRAINED", ())]]
        else:
            found.append(Instrument(name))
    return found


def untrained(good: LoadedBackbone) -> nn.Module:
    """A network of the architecture of ``good``, its weights drawn from seed 0; LayerScale, if there is any, is 1."""
    model = copy.deepcopy(good.model)
    torch.manual_seed(0)
    for module in model.modules():
        if module is not model and hasattr(module, "reset_parameters"):
            module.reset_parameters()
        if type(module).__name__ == "LayerScale":
            nn.init.ones_(module.gamma)
    model.init_weights()
    return model


def save_untrained(good: LoadedBackbone, folder: Path) -> Path:
    """Write :func:`untrained` as a checkpoint and return its path; what was measured with it stays valid."""
    path = folder / f"untrained-{good.weights_sha256[:12]}.pth"
    if not path.exists():
        state = {f"teacher.backbone.{name}": tensor for name, tensor in untrained(good).state_dict().items()}
        arch = {key: value for key, value in good.arch.items() if key != "name"}
        save_file({"meta": plain({"method": "Random", "arch": arch, "epoch": 0, "seed": 0}), "state_dict": state}, path)
    return path


def check_pair(good: LoadedBackbone, other: LoadedBackbone) -> None:
    """Raise UserError unless the two are of one architecture."""
    differs = [key for key in good.arch if good.arch[key] != other.arch.get(key) and key != "name"]
    if differs:
        key = differs[0]
        raise UserError(
            f"{good.checkpoint} and {other.checkpoint} are of different architectures ({key} {good.arch[key]} and "
            f"{other.arch.get(key)}): a protocol is calibrated with one architecture, or leave the second out"
        )


def options(instrument: Instrument, args: argparse.Namespace) -> list[str]:
    """The words of an evaluation behind its checkpoint."""
    words = ["--data", str(getattr(args, instrument.source))]
    if instrument.task == "coco" and args.images:
        words += ["--images", str(args.images)]
    words += ["--protocol", instrument.protocol] if instrument.protocol else []
    return [*words, *instrument.changes]


def score(instrument: Instrument, checkpoint: Path, args: argparse.Namespace) -> Record:
    """Evaluate one checkpoint in a process of its own, or find that it was done."""
    words = [instrument.task, str(checkpoint), *options(instrument, args)]
    words += ["--records", str(args.out / "records"), "--out", str(args.out / "eval" / instrument.name)]
    began = time.perf_counter()
    record = run_evaluation(words, args.out / "calibrate.log", (), lambda line: print(f"  {line}", flush=True))
    figures = "  ".join(f"{name} {record.metrics[name]:.2f}" for name in record.headline if name in record.metrics)
    print(f"{instrument.name}, {record.method}: {figures}  ({time.perf_counter() - began:.0f} s)", flush=True)
    return record


def calibrate(instrument: Instrument, good: Path, other: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a headline metric: protocol, data, and the paired bootstrap of good minus untrained.

    Raises:
        CellError: an evaluation failed.
        UserError: the records cannot be compared.
    """
    first, second = score(instrument, good, args), score(instrument, other, args)
    rows = []
    for metric in first.headline:
        found = compare_records([first], [second], metric)
        row = {"protocol": first.protocol.name, "data": first.dataset, "metric": metric}
        row |= {"good": found.a, "untrained": found.b, "difference": found.delta, "low": found.low, "high": found.high}
        rows.append(row | {"verdict": VERDICTS[found.verdict], "seconds": [first.seconds, second.seconds]})
    return rows


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table of :func:`calibrate`'s rows."""
    lines = [
        {
            "protocol": f"`{row['protocol']}`",
            "data": row["data"],
            "metric": row["metric"],
            "good": f"{row['good']:.1f}",
            "untrained": f"{row['untrained']:.1f}",
            "difference": f"{row['difference']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]",
            "": row["verdict"],
            "seconds": " + ".join(f"{part:.0f}" for part in row["seconds"]),
        }
        for row in rows
    ]
    return tabulate(lines, "keys", "github", disable_numparse=True) + "\n"


def main(argv: Sequence[str]) -> int:
    """Calibrate from the command line."""
    parser = command_parser(DESCRIPTION)
    parser.add_argument("good", type=Path, metavar="GOOD.pth", help="a trained network whose worth is known")
    parser.add_argument("untrained", type=Path, nargs="?", metavar="UNTRAINED.pth", help="of the same architecture")
    defaults = {one.source: tasks.load(one.task).Settings.model_fields["data"].default for one in instruments("mini")}
    for name, folder in defaults.items():
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", default=folder, help="its data")
    parser.add_argument("--images", type=Path, metavar="DIR", help="COCO's photographs, if not below --coco")
    parser.add_argument("--size", choices=("mini", "fast"), default="mini", help="of the protocols that train")
    parser.add_argument("--protocols", metavar="A,B", help="only these, such as davis,ade20k/semantic-fpn-mini")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/calibrate"), help="records, logs and the table")
    add_checkpoint_options(parser)
    args = parser.parse_args(argv)

    chosen = _chosen(args)
    raise_unless_writable(args.out, "--out")
    args.out.mkdir(parents=True, exist_ok=True)
    good = load_backbone(args.good, **checkpoint_options(args))
    other = args.untrained or save_untrained(good, args.out)
    if args.untrained:
        check_pair(good, load_backbone(args.untrained, unsafe=args.unsafe_load))
    rows, failed = [], []
    for instrument in chosen:
        try:
            rows += calibrate(instrument, args.good, other, args)
        except CellError as error:
            failed.append(instrument.name)
            print(f"error: {instrument.name}: {error}", file=sys.stderr)
        write_text(args.out / "calibration.md", to_markdown(rows))
    print(to_markdown(rows), end="")
    print(f"table: {args.out / 'calibration.md'}")
    return int(bool(failed) or any(row["verdict"] != "measures" for row in rows))


def _chosen(args: argparse.Namespace) -> list[Instrument]:
    """The instruments that are asked for, or all whose data is there; each is checked before anything runs."""
    known = {instrument.name: instrument for instrument in instruments(args.size)}
    if args.protocols:
        if unknown := [name for name in args.protocols.split(",") if name not in known]:
            raise UserError(f"--protocols {unknown[0]}: choose from {', '.join(known)}")
        chosen = [known[name] for name in args.protocols.split(",")]
    else:
        chosen = [instrument for instrument in known.values() if getattr(args, instrument.source).is_dir()]
        for folder in sorted({i.source for i in known.values()} - {i.source for i in chosen}):
            print(f"{folder}: no data in {getattr(args, folder)}")
    if not chosen:
        raise UserError("there is no data to calibrate on: say where some is, such as with --davis DIR")
    for instrument in chosen:
        check_command(instrument.task, options(instrument, args))
    return chosen
