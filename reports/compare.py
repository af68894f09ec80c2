"""Is a difference more than chance? The paired bootstrap between two records, over the units both scored.

A record's ``units`` file (``.npz``) holds what its metric can be rebuilt from:

======== ==================================================================================================
davis    ``sequence`` (N,) str, ``object`` (N,) int, ``frame`` (N,) int, ``J`` (N,), ``F`` (N,) in 0..1
ade20k   ``image`` (I,) str, ``intersection`` (I, classes), ``union`` (I, classes) in pixels
coco     ``images`` (I,) every image that was scored, with or without objects;
         ``gt_image`` (G,), ``gt_category`` (G,), ``gt_ignored`` (G,) bool: the ground truth, crowds ignored;
         and for each of ``bbox`` and ``mask``, over D detections at area range 'all':
         ``<kind>/image`` (D,), ``<kind>/category`` (D,), ``<kind>/score`` (D,),
         ``<kind>/matched`` (D, 10) bool: matched to any ground truth at IoU 0.50, 0.55 … 0.95,
         ``<kind>/ignored`` (D, 10) bool: matched to an ignored one, so neither right nor wrong.
         Images and categories are the ids of the annotation file; within an image equal scores stand in the
         order in which they were matched. See :mod:`selfpatch.reports.detections`.
knn,     ``image`` (I,) str, and under each metric's own name ('top-1') (I,) bool: whether that image was right
linear
======== ==================================================================================================

Sequences (or images) are drawn with replacement, the same draw for both sides, and the whole metric is
rebuilt from each draw: mIoU from summed intersections and unions, AP from the matches, J&F by pooling the
objects drawn.
"""

from __future__ import annotations

import argparse
import hashlib
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from selfpatch.pretrain.cli import UserError, command_parser, run_command
from selfpatch.reports.detections import Detections, average_precision
from selfpatch.reports.load import Record, arch_name, read_record, units_path
from selfpatch.reports.tables import HEADLINE

RESAMPLES = 10_000
RESAMPLES_COCO = 1_000  # rebuilding AP on all of val2017 costs about 20 ms a draw: 10,000 would take minutes
INTERVAL = (2.5, 97.5)  # percentiles of a 95 % interval
AGREEMENT = 0.05  # points by which the metric rebuilt from the units may miss the recorded (rounded) one

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Statistic:
    """A metric as a function of how often each unit was drawn.

    ``value(weights (R, units)) -> (R,)`` in per cent; ``layout`` is a digest of the units, equal where
    pairing is sound.
    """

    unit: str
    units: int
    layout: str
    value: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Difference:
    """Metric of ``a`` minus metric of ``b`` in points, its 95 % interval, and the share of resamples above
    zero.
    """

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


def compare(
    a: Sequence[Record],
    b: Sequence[Record],
    metric: str,
    resamples: int | None = None,
    seed: int = 0,
    per_object: bool = False,
    progress: Progress | None = None,
) -> Difference:
    """Paired bootstrap of ``metric`` between records ``a`` and ``b`` (several records of a side: seeds,
    averaged).

    ``resamples`` defaults to 10,000 (COCO: 1,000). Raises UserError when the two are not comparable: another
    task, dataset, protocol, or other units.
    """
    for record in [*a, *b]:
        _check_comparable(a[0], record)
    sides = [[statistic(record, metric, per_object) for record in side] for side in (a, b)]
    for record, stat in zip([*a, *b], [*sides[0], *sides[1]], strict=True):
        if stat.layout != sides[0][0].layout:
            raise UserError(
                f"{a[0]['path']} and {record['path']} scored different {stat.unit}s or objects: "
                "evaluate both checkpoints on the same data"
            )
    resamples = resamples or (RESAMPLES_COCO if a[0]["task"] == "coco" else RESAMPLES)
    return paired_bootstrap(sides[0], sides[1], metric, resamples, seed, progress)


def paired_bootstrap(
    a: Sequence[Statistic],
    b: Sequence[Statistic],
    metric: str,
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
) -> Difference:
    """Percentile bootstrap of ``a - b`` (Efron & Tibshirani 1993, chapter 13), the same draws on both
    sides.
    """
    n = a[0].units
    whole = np.ones((1, n))
    value_a, value_b = (float(np.mean([stat.value(whole)[0] for stat in side])) for side in (a, b))
    rng = np.random.default_rng(seed)
    chunk = max(1, min(256, 2_000_000 // n))  # bounds the weights of one step to 16 MB
    deltas = np.empty(resamples)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        weights = draw_weights(rng, n, rows)  # (rows, units)
        drawn_a, drawn_b = (np.mean([stat.value(weights) for stat in side], axis=0) for side in (a, b))
        deltas[start : start + rows] = drawn_a - drawn_b
        if progress:
            progress(start + rows, resamples)
    deltas = deltas[np.isfinite(deltas)]  # a draw may hold no object at all
    low, high = np.percentile(deltas, INTERVAL) if len(deltas) else (np.nan, np.nan)
    above = float((deltas > 0).mean()) if len(deltas) else np.nan
    delta = value_a - value_b
    return Difference(metric, value_a, value_b, delta, float(low), float(high), above, resamples, a[0].unit, n)


def draw_weights(rng: np.random.Generator, units: int, rows: int) -> np.ndarray:
    """How often each unit occurs in ``rows`` draws of ``units`` units with replacement: (rows, units),
    float.
    """
    drawn = rng.integers(units, size=(rows, units)) + np.arange(rows)[:, None] * units
    return np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units).astype(float)


def statistic(record: Record, metric: str, per_object: bool = False) -> Statistic:
    """The metric of one record as a function of the draw; raises UserError where the units cannot give it."""
    build = STATISTICS.get(record["task"])
    if build is None:
        raise UserError(
            f"{record['path']}: there is no paired bootstrap for the task {record['task']}, "
            f"only for {', '.join(STATISTICS)}"
        )
    path, arrays = units_path(record), read_units(record)
    try:
        stat = build(arrays, metric, per_object)
    except KeyError as error:
        raise UserError(f"{path} cannot give '{metric}' ({error.args[0]}): choose another --metric") from error
    except (ValueError, IndexError, TypeError) as error:
        raise UserError(f"{path}: its arrays do not fit together ({error}): run its evaluation again") from error
    if stat.units == 0:
        raise UserError(f"{path} holds no {stat.unit}: run its evaluation again")
    recorded, rebuilt = record["metrics"].get(metric), float(stat.value(np.ones((1, stat.units)))[0])
    if recorded is not None and not abs(recorded - rebuilt) <= AGREEMENT:
        raise UserError(
            f"{path} gives {metric} {rebuilt:.2f} but its record says {recorded:.2f}: "
            "they are of different runs; run the evaluation again"
        )
    return stat


def read_units(record: Record) -> dict[str, np.ndarray]:
    """The arrays of a record's file of per-unit values; raises UserError where it is gone or is not such a file."""
    path = units_path(record)
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is not a file of per-unit values ({error}): run its evaluation again") from error


def _davis(arrays: dict[str, np.ndarray], metric: str, per_object: bool) -> Statistic:
    objects, first, owner = np.unique(
        np.char.add(np.char.add(arrays["sequence"].astype(str), "/"), arrays["object"].astype(str)),
        return_index=True,
        return_inverse=True,
    )
    frames = np.bincount(owner)

    def object_mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(owner, weights=values) / frames  # (objects,)

    parts = {
        "J": lambda: object_mean(arrays["J"]),
        "F": lambda: object_mean(arrays["F"]),
        "J recall": lambda: object_mean(arrays["J"] > 0.5),
        "F recall": lambda: object_mean(arrays["F"] > 0.5),
        "J&F": lambda: (object_mean(arrays["J"]) + object_mean(arrays["F"])) / 2,
    }
    if metric not in parts:
        raise KeyError(f"units of DAVIS give {', '.join(parts)}")
    scores = 100 * parts[metric]()
    sequences, sequence = np.unique(arrays["sequence"][first], return_inverse=True)
    units = len(objects) if per_object else len(sequences)
    pooled = np.arange(units) if per_object else sequence  # which unit an object is drawn with
    total, count = np.bincount(pooled, weights=scores, minlength=units), np.bincount(pooled, minlength=units)
    layout = _digest(np.sort([f"{o}/{f}" for o, f in zip(objects[owner], arrays["frame"], strict=True)]))
    return Statistic("object" if per_object else "sequence", units, layout, lambda w: (w @ total) / (w @ count))


def _ade20k(arrays: dict[str, np.ndarray], metric: str, per_object: bool) -> Statistic:
    if metric != "mIoU":
        raise KeyError("units of ADE20K give mIoU")
    order = np.argsort(arrays["image"])  # so that two evaluations may have met the images in different orders
    intersection = arrays["intersection"][order].astype(float)  # (images, classes)
    union = arrays["union"][order].astype(float)

    def miou(weights: np.ndarray) -> np.ndarray:
        both, either = weights @ intersection, weights @ union  # (R, classes)
        # A class that neither occurs nor is predicted in this draw has no IoU and leaves the mean.
        iou = np.divide(both, either, out=np.full_like(both, np.nan), where=either > 0)
        present = np.isfinite(iou).sum(axis=1)
        return 100 * np.nansum(iou, axis=1) / np.where(present, present, np.nan)

    layout = _digest(arrays["image"][order], np.array(intersection.shape))
    return Statistic("image", len(order), layout, miou)


def _coco(arrays: dict[str, np.ndarray], metric: str, per_object: bool) -> Statistic:
    kind, _, name = metric.partition(" ")
    thresholds = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}
    if kind not in ("bbox", "mask") or name not in thresholds:
        raise KeyError("units of COCO give bbox and mask AP, AP50, AP75")
    detections = Detections.from_units(arrays, kind)
    ground_truth = np.lexsort((arrays["gt_ignored"], arrays["gt_category"], arrays["gt_image"]))
    layout = _digest(
        np.sort(arrays["images"]),
        *(arrays[f"gt_{key}"][ground_truth] for key in ("image", "category", "ignored")),
    )
    chosen = thresholds[name]
    return Statistic("image", len(arrays["images"]), layout, lambda w: 100 * average_precision(detections, w, chosen))


def _classification(arrays: dict[str, np.ndarray], metric: str, per_object: bool) -> Statistic:
    order = np.argsort(arrays["image"])
    right = 100 * arrays[metric][order].astype(float)
    return Statistic("image", len(order), _digest(arrays["image"][order]), lambda w: (w @ right) / w.sum(axis=1))


STATISTICS: dict[str, Callable[[dict[str, np.ndarray], str, bool], Statistic]] = {
    "davis": _davis,
    "ade20k": _ade20k,
    "coco": _coco,
    "knn": _classification,
    "linear": _classification,
}


def sequence_scores(record: Record) -> dict[str, float]:
    """J&F of each sequence of a DAVIS record, the mean over its objects, in per cent.

    Raises UserError where the file of per-unit values is gone or does not hold them.
    """
    arrays, scores = read_units(record), {}
    try:
        sequence, number, J, F = (arrays[name] for name in ("sequence", "object", "J", "F"))
        for name in np.unique(sequence):
            own = sequence == name
            means = [((J + F)[own & (number == one)]).mean() / 2 for one in np.unique(number[own])]
            scores[str(name)] = 100 * float(np.mean(means))
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise UserError(f"{units_path(record)} cannot give J&F by sequence ({error}): evaluate again") from error
    return scores


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(array.shape).encode() + "\n".join(map(str, array.ravel().tolist())).encode())
    return digest.hexdigest()


def _check_comparable(a: Record, b: Record) -> None:
    for key, what in (
        ("task", "task"),
        ("dataset", "dataset"),
        ("dataset_fingerprint", "content of the dataset"),
    ):
        if a[key] != b[key]:
            raise UserError(f"not comparable: {a['path']} and {b['path']} differ in their {what} ({a[key]}, {b[key]})")
    if a["protocol"]["name"] != b["protocol"]["name"]:
        names = f"{a['protocol']['name']}, {b['protocol']['name']}"
        raise UserError(f"not comparable: {a['path']} and {b['path']} differ in their protocol ({names})")
    if (a["protocol"].get("parameters") or {}) != (b["protocol"].get("parameters") or {}):
        raise UserError(
            f"not comparable: {a['path']} and {b['path']} name the protocol {a['protocol']['name']} "
            "with different parameters; evaluate both again"
        )


def describe(record: Record) -> str:
    """Method and architecture of a record, as tables name it."""
    return f"{record['method']} {arch_name(record)}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bootstrap that the report and this command share."""
    parser.add_argument("--resamples", type=int, help="draws of the bootstrap (default: 10000; COCO: 1000)")
    parser.add_argument("--bootstrap-seed", type=int, default=0, help="seed of the bootstrap's draws")


def main(argv: Sequence[str]) -> None:
    """Compare two records on the command line."""
    parser = command_parser(
        "Paired bootstrap between two records of the same task, data and protocol: A minus B.\n\n"
        "example: python -m selfpatch.reports.compare work_dirs/records/davis-0a1b….json "
        "work_dirs/records/davis-2c3d….json --metric 'J&F'"
    )
    parser.add_argument("a", metavar="A.json", help="record of the checkpoint in question")
    parser.add_argument("b", metavar="B.json", help="record of the baseline")
    parser.add_argument("--metric", help="metric to compare (default: the task's main one)")
    parser.add_argument("--per-object", action="store_true", help="DAVIS: draw objects instead of sequences")
    add_arguments(parser)
    args = parser.parse_args(argv)
    if args.resamples is not None and args.resamples < 1:
        raise UserError(f"--resamples must be at least 1, not {args.resamples}")
    a, b = read_record(args.a), read_record(args.b)
    metric = args.metric or HEADLINE.get(a["task"], list(a["metrics"]))[-1]
    result = compare([a], [b], metric, args.resamples, args.bootstrap_seed, args.per_object)
    print(f"{metric} on {a['dataset']}, protocol {a['protocol']['name']}")
    print(f"A  {describe(a)}: {result.a:.2f}")
    print(f"B  {describe(b)}: {result.b:.2f}")
    print(
        f"A - B = {result.delta:+.2f}, 95 % interval {result.low:+.2f} … {result.high:+.2f}, above zero in "
        f"{100 * result.above:.1f} % of {result.resamples} resamples over {result.units} {result.unit}s"
    )


if __name__ == "__main__":
    run_command(main)
