"""Is a difference more than chance? The paired bootstrap between records, over the units both scored and over seeds.

Units (sequences or images) are drawn with replacement, the same draw for both sides, and the whole metric is rebuilt
from each draw (:mod:`selfpatch.reports.metrics`): mIoU from summed intersections and unions, AP from the matches, J&F
by pooling the objects drawn. Where a side has several records, pretraining seeds of one setting, seeds are drawn too.
"""

import argparse
import dataclasses
import json
import zipfile
import zlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from selfpatch.pretrain.cli import UserError, command_parser, run_command
from selfpatch.reports.intervals import INTERVAL, draw_weights, expanded, two_level
from selfpatch.reports.metrics import resolve
from selfpatch.reports.record import Record

AGREEMENT = 0.05  # points by which the metric rebuilt from the units may miss the recorded (rounded) one
WEIGHTS = 8_000_000  # drawn at a time: 64 MB

Progress = Callable[[int, int], None]
Step = Callable[[str], AbstractContextManager[Progress | None]]


@dataclass(frozen=True)
class Statistic:
    """A metric of one record as a function of how often each unit was drawn.

    ``value(weights (R, units)) -> (R,)`` in per cent; ``layout`` is a digest of the units, equal where pairing is
    sound; ``resamples`` is how many draws its task affords by default.
    """

    unit: str
    units: int
    layout: str
    value: Callable[[np.ndarray], np.ndarray]
    resamples: int = 10_000
    names: tuple[str, ...] = ()  # of the units, in the order of the weights


@dataclass(frozen=True)
class Difference:
    """Metric of ``a`` minus metric of ``b`` in points, its 95 % interval, and the share of resamples above zero."""

    metric: str
    a: float
    b: float
    delta: float
    low: float
    high: float
    above: float
    resamples: int
    unit: str
    units: int
    seeds: tuple[int, int] = (1, 1)  # records of each side
    lower: bool = False  # less is better

    @property
    def verdict(self) -> str:
        """Whether ``a`` is 'better' or 'worse' than ``b``; 'cannot tell' where the interval holds zero."""
        if not (self.low > 0 or self.high < 0):
            return "cannot tell"
        return "better" if (self.high < 0) == self.lower else "worse"

    @property
    def drawn(self) -> str:
        """What was drawn how often: '30 sequences and 3 + 3 seeds, 10000 times'."""
        seeds = f" and {self.seeds[0]} + {self.seeds[1]} seeds" if max(self.seeds) > 1 else ""
        return f"{self.units} {self.unit}s{seeds}, {self.resamples} times"

    def as_dict(self) -> dict[str, object]:
        """All fields and the verdict, as a row of a table or as JSON."""
        return dataclasses.asdict(self) | {"verdict": self.verdict}


def compare_records(
    a: Sequence[Record],
    b: Sequence[Record],
    metric: str,
    resamples: int | None = None,
    seed: int = 0,
    per_object: bool = False,
    progress: Progress | None = None,
) -> Difference:
    """Paired bootstrap of ``metric`` between records ``a`` and ``b``; several records of a side are its seeds.

    Args:
        a: the records of the checkpoint in question.
        b: those of the baseline.
        metric: by its name in the records.
        resamples: draws; None: 10,000, or what the task's measure affords (AP: 1,000).
        seed: of the draws.
        per_object: draw a unit's parts (objects in place of sequences).
        progress: called with (draws done, all draws).

    Raises:
        UserError: the records are not comparable: another task, data set, protocol, or other units.
    """
    for record in [*a, *b]:
        _check_comparable(a[0], record)
    stats = [statistic(record, metric, per_object) for record in [*a, *b]]
    for record, stat in zip([*a, *b], stats, strict=True):
        if stat.layout != stats[0].layout:
            raise UserError(
                f"{a[0].path} and {record.path} scored different {stat.unit}s or objects: "
                "evaluate both checkpoints on the same data"
            )
    sides = stats[: len(a)], stats[len(a) :]
    return paired_bootstrap(*sides, metric, resamples, seed, metric in a[0].lower, progress)


class Pair(NamedTuple):
    """A comparison to be made: ``key`` tells it apart, ``name`` is the row that is compared."""

    key: Hashable
    name: str
    a: Sequence[Record]
    b: Sequence[Record]
    metric: str


def compare_pairs(
    pairs: Iterable[Pair], resamples: int | None = None, seed: int = 0, step: Step = lambda _: nullcontext()
) -> tuple[dict[Any, Difference], list[str]]:
    """Every comparison of which both sides have per-unit values.

    Args:
        step: ``with step(name) as progress`` shows one bootstrap's progress.

    Returns:
        key -> difference, and a line for each that cannot be had although there are units.
    """
    found, lines = {}, []
    for key, name, a, b, metric in pairs:
        if not (a and b and all(record.units for record in [*a, *b])):
            continue
        try:
            with step(f"bootstrap {metric}, {name}") as progress:
                found[key] = compare_records(a, b, metric, resamples, seed, progress=progress)
        except UserError as error:
            lines.append(f"No bootstrap of {metric} for {name}: {error}.")
    return found, lines


def paired_bootstrap(
    a: Sequence[Statistic],
    b: Sequence[Statistic],
    metric: str,
    resamples: int | None = None,
    seed: int = 0,
    lower: bool = False,
    progress: Progress | None = None,
) -> Difference:
    """Percentile bootstrap of ``a - b``, the same draws for both sides (Efron & Tibshirani 1993, chapter 13)."""
    n, resamples, stats = a[0].units, resamples or a[0].resamples, [*a, *b]
    whole = np.array([stat.value(np.ones((1, n)))[0] for stat in stats])
    rng = np.random.default_rng(seed)
    drawn = np.empty((len(stats), resamples))
    chunk = max(1, WEIGHTS // n)
    for start in range(0, resamples, chunk):
        part = slice(start, min(start + chunk, resamples))
        weights = draw_weights(rng, n, part.stop - start)  # (rows, units)
        for index, stat in enumerate(stats):
            drawn[index, part] = stat.value(weights)
            if progress:
                progress(start * len(stats) + (index + 1) * (part.stop - start), resamples * len(stats))
    k = len(a)
    value_a, value_b = float(whole[:k].mean()), float(whole[k:].mean())
    deltas = two_level(drawn[:k], drawn[k:], whole[:k], whole[k:], n, rng)
    deltas = deltas[np.isfinite(deltas)]  # a draw may hold no object at all
    levels = INTERVAL if max(k, len(b)) > 1 else expanded(n)
    low, high = np.percentile(deltas, levels) if len(deltas) else (np.nan, np.nan)
    above = float((deltas > 0).mean()) if len(deltas) else np.nan
    found = (value_a, value_b, value_a - value_b, float(low), float(high), above)
    return Difference(metric, *found, resamples, a[0].unit, n, (k, len(b)), lower)


def statistic(record: Record, metric: str, per_object: bool = False) -> Statistic:
    """The metric of one record as a function of the draw; raises UserError where the units cannot give it."""
    if record.measure is None:
        raise UserError(f"{record.path}: no paired bootstrap for the task {record.task}, which names no measure")
    measure, path, units = resolve(record.measure), record.units_path, read_units(record)
    try:
        if per_object:
            measure, units = measure.split(units)
        value, names, layout = partial(measure.metric(metric), units), measure.names(units), measure.layout_of(units)
        if not len(names):
            raise UserError(f"{path} holds no {measure.unit}: run its evaluation again")
        rebuilt = float(value(np.ones((1, len(names))))[0])
    except KeyError as error:
        raise UserError(f"{path} cannot give '{metric}' ({error.args[0]}): choose another --metric") from error
    except (ValueError, IndexError, TypeError) as error:
        raise UserError(f"{path}: its arrays do not fit together ({error}): run its evaluation again") from error
    recorded = record.metrics.get(metric)
    if recorded is not None and not abs(recorded - rebuilt) <= AGREEMENT:
        raise UserError(
            f"{path} gives {metric} {rebuilt:.2f} but its record says {recorded:.2f}: "
            "they are of different runs; run the evaluation again"
        )
    return Statistic(measure.unit, len(names), layout, value, measure.resamples, tuple(map(str, names)))


def unit_scores(record: Record, metric: str, per_object: bool = False) -> dict[str, float]:
    """A metric of each unit alone, or what stands for it, in per cent; raises UserError as :func:`statistic`."""
    found = statistic(record, metric, per_object)
    alone = resolve(record.measure).alone
    values = alone[1](read_units(record)) if alone else found.value(np.eye(found.units))
    return dict(zip(found.names, values.tolist(), strict=True))


def read_units(record: Record) -> dict[str, np.ndarray]:
    """The arrays of a record's file of per-unit values; raises UserError where it is gone or is not such a file."""
    path = record.units_path
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is not a file of per-unit values ({error}): run its evaluation again") from error


def _check_comparable(a: Record, b: Record) -> None:
    differ = f"not comparable: {a.path} and {b.path}"
    for what, one, other in (
        ("task", a.task, b.task),
        ("dataset", a.dataset, b.dataset),
        ("content of the dataset", a.dataset_fingerprint, b.dataset_fingerprint),
        ("protocol", a.protocol.name, b.protocol.name),
    ):
        if one != other:
            raise UserError(f"{differ} differ in their {what} ({one}, {other})")
    if a.protocol.as_json() != b.protocol.as_json():
        raise UserError(
            f"{differ} name one protocol, {a.protocol.name}, with different parameters: evaluate both again"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bootstrap that the report and this command share."""
    parser.add_argument("--resamples", type=int, help="draws of the bootstrap (default: 10000; AP: 1000)")
    parser.add_argument("--bootstrap-seed", type=int, default=0, help="seed of the bootstrap's draws")


def check_arguments(args: argparse.Namespace) -> None:
    """Raise UserError for values of these options that make no sense."""
    if args.resamples is not None and args.resamples < 1:
        raise UserError(f"--resamples must be at least 1, not {args.resamples}")


def main(argv: Sequence[str]) -> None:
    """Compare two records, or two sets of seeds, on the command line."""
    parser = command_parser(
        "Paired bootstrap between two records of the same task, data and protocol: A minus B.\n\n"
        "example: python -m selfpatch.reports.bootstrap work_dirs/records/davis-0a1b….json "
        "work_dirs/records/davis-2c3d….json --metric 'J&F'"
    )
    parser.add_argument("a", metavar="A.json", help="record of the checkpoint in question")
    parser.add_argument("b", metavar="B.json", help="record of the baseline")
    parser.add_argument("--with", dest="more_a", nargs="+", default=[], metavar="A.json", help="other seeds of A")
    parser.add_argument("--against", dest="more_b", nargs="+", default=[], metavar="B.json", help="other seeds of B")
    parser.add_argument("--metric", help="metric to compare (default: the task's main one)")
    parser.add_argument("--per-object", action="store_true", help="DAVIS: draw objects instead of sequences")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_arguments(parser)
    args = parser.parse_args(argv)
    check_arguments(args)
    a, b = ([Record.read(path) for path in paths] for paths in ([args.a, *args.more_a], [args.b, *args.more_b]))
    metric = args.metric or [*a[0].overall, *a[0].headline][-1]
    result = compare_records(a, b, metric, args.resamples, args.bootstrap_seed, args.per_object)
    if args.json:
        print(json.dumps(result.as_dict()))
        return
    print(f"{metric} on {a[0].dataset}, protocol {a[0].protocol.name}")
    for name, side, value in (("A", a, result.a), ("B", b, result.b)):
        print(f"{name}  {side[0].method} {side[0].arch_name}: {value:.2f}")
    print(
        f"A - B = {result.delta:+.2f}, 95 % interval {result.low:+.2f} … {result.high:+.2f}, above zero in "
        f"{100 * result.above:.1f} % of {result.resamples} resamples over {result.drawn.rpartition(',')[0]}"
    )
    print(f"A against B: {result.verdict}")


if __name__ == "__main__":
    run_command(main)
