"""The metrics of every benchmark, each one function of per-unit values and of how often each unit counts.

A metric is ``metric(units, weights) -> values``: ``units`` are the arrays that an evaluation stores beside its record,
``weights`` (R, n) say how often each of the n units (sequences or images, in ascending order of their names) counts in
each of R draws, and the values (R,) are in per cent, NaN where a draw leaves nothing to score. Weights of one give the
figure of a record, drawn weights its bootstrap. The arrays of each measure:

============== ======================================================================================================
VIDEO          one row an object and scored frame: ``sequence`` (N,) str, ``object`` (N,) int, ``frame`` (N,) int,
               ``J`` (N,) and ``F`` (N,) in 0..1
SEGMENTATION   ``image`` (I,) str; ``intersection``, ``union`` and ``label`` (ground truth), (I, classes) in pixels
DETECTION      ``images`` (I,) every image that was scored, with or without objects; ``gt_image``, ``gt_category``,
               ``gt_ignored`` (G,): the ground truth, crowds ignored; the detections of boxes ``bbox/...`` and of masks
               ``mask/...`` as :mod:`selfpatch.reports.detections` takes them
CLASSIFICATION ``image`` (I,) str, and under each metric's own name ('top-1') (I,) bool: whether that image was right
============== ======================================================================================================
"""

import hashlib
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from selfpatch.pretrain.cli import UserError
from selfpatch.reports.detections import Detections, average_precision

CONFIDENT = 0.3  # the score from which on a detection is shown, and counted in an image's F1
Units = Mapping[str, np.ndarray]
Metric = Callable[[Units, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Measure:
    """What the per-unit values of a task are, and the metrics that they give."""

    unit: str  # what is drawn, in the singular: "sequence"
    key: str  # the array that names the units; they are counted in ascending order of these names
    layout: tuple[str, ...]  # arrays that two evaluations must share, whatever the order of their rows, to be paired
    metrics: Mapping[str, Metric]  # name -> metric
    part: str | None = None  # an array that numbers the parts of a unit, which can be drawn in its place: "object"
    columns: bool = False  # every array of booleans, one a unit, is a metric of its own name
    named: bool = False  # few units that a reader knows by name, so that each one's value is worth a plot
    lower: frozenset[str] = frozenset()  # the metrics of which less is better
    # the name and values (n,), in per cent, of what says how well each unit went, where the main metric of one is dear
    alone: tuple[str, Callable[[Units], np.ndarray]] | None = None
    resamples: int = 10_000  # draws of a bootstrap that are affordable

    def metric(self, name: str) -> Metric:
        """The metric of that name; raises KeyError, with the names that there are, for any other."""
        if name in self.metrics:
            return self.metrics[name]
        if self.columns:
            return partial(share, name)
        raise KeyError(f"units of this task give {', '.join(self.metrics)}")

    def evaluate(self, units: Units) -> dict[str, float]:
        """Every metric in per cent where each unit counts once; NaN where there is nothing to score."""
        ones = np.ones((1, len(self.names(units))))
        names = [*self.metrics, *(name for name, array in units.items() if self.columns and array.dtype == bool)]
        return {name: float(self.metric(name)(units, ones)[0]) for name in names}

    def names(self, units: Units) -> np.ndarray:
        """The names of the units (n,) in the order of a metric's weights."""
        return np.unique(units[self.key])

    def layout_of(self, units: Units) -> str:
        """A digest of the units and their layout, equal for two evaluations that can be paired."""
        arrays = [units[name] for name in self.layout]
        order = np.lexsort([array for array in reversed(arrays) if array.ndim == 1])
        digest = hashlib.sha256()
        for array in (self.names(units), *(array[order] for array in arrays)):
            digest.update(repr(array.shape).encode() + "\n".join(map(str, array.ravel().tolist())).encode())
        return digest.hexdigest()

    def split(self, units: Units) -> "tuple[Measure, Units]":
        """The measure and units in which parts are drawn (objects in place of sequences).

        Raises:
            KeyError: units of this measure have no parts.
        """
        if self.part is None:
            raise KeyError(f"{self.unit}s have no parts that could be drawn")
        whole, parts = (np.asarray(units[name]).astype(str) for name in (self.key, self.part))
        named = np.char.add(np.char.add(whole, "/"), parts)
        return Measure(self.part, self.key, self.layout, self.metrics), {**units, self.key: named}


def resolve(reference: str) -> Measure:
    """The measure that a record names, such as ``selfpatch.reports.metrics:VIDEO``.

    Raises:
        UserError: it is no measure of this project.
    """
    module, _, name = reference.partition(":")
    try:
        if not re.fullmatch(r"selfpatch(\.\w+)+:\w+", reference):
            raise ImportError("not a module of selfpatch")
        measure = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"the measure {reference} cannot be found ({error}): is its task still installed?") from error
    if not isinstance(measure, Measure):
        raise UserError(f"{reference} is no measure")
    return measure


def reference_of(measure: Measure, module: str) -> str:
    """How a record names a measure: one of this module by its name here, else as ``MEASURE`` of the task's module."""
    own = next((name for name, value in globals().items() if value is measure), None)
    return f"{__name__}:{own}" if own else f"{module}:MEASURE"


# --- video: J and F, as in the DAVIS 2017 evaluation (Pont-Tuset et al., arXiv 1704.00675, section 3) ---------------


def mean(values: np.ndarray) -> float:
    """The mean of an object's values (m,) over its scored frames."""
    return float(values.mean())


def recall(values: np.ndarray) -> float:
    """The share of an object's values (m,) above 0.5."""
    return float((values > 0.5).mean())


def decay(values: np.ndarray) -> float:
    """What an object loses: the mean of the first of four bins of its values (m,) minus that of the last.

    Neighbouring bins share a frame. The published code keeps the bins' edges in 8 bits and errs beyond 256 frames: here
    they are integers of any size.
    """
    edges = (np.round(np.linspace(1, len(values), 5) + 1e-10) - 1).astype(int)
    return float(values[: edges[1] + 1].mean() - values[edges[3] :].mean())


def video(statistic: Callable[[np.ndarray], float], arrays: str, units: Units, weights: np.ndarray) -> np.ndarray:
    """A statistic of each object, averaged over ``arrays`` ("J", "F" or "JF") and over all objects of the draw."""
    _, sequence = np.unique(units["sequence"], return_inverse=True)
    order = np.lexsort((units["frame"], units["object"], sequence))
    sequence, number = sequence[order], units["object"][order]
    starts = np.flatnonzero(np.diff(sequence, prepend=-1) | np.diff(number, prepend=number[:1] - 1))
    if not len(starts):
        return np.full(len(weights), np.nan)
    values = [np.split(units[name][order].astype(float), starts[1:]) for name in arrays]
    scores = [np.mean([statistic(one) for one in objects]) for objects in zip(*values, strict=True)]
    total, count = (np.bincount(sequence[starts], s, minlength=weights.shape[1]) for s in (scores, None))
    return 100 * _ratio(weights @ total, weights @ count)


# --- semantic segmentation ------------------------------------------------------------------------------------------


def class_ratios(part: str, whole: str, units: Units, weights: np.ndarray) -> np.ndarray:
    """``part`` / ``whole`` of each class, summed over the images drawn, (R, classes) in 0..1; NaN where whole is 0."""
    order = np.argsort(units["image"])
    return _ratio(*(weights @ units[name][order].astype(float) for name in (part, whole)))


iou_by_class = partial(class_ratios, "intersection", "union")  # a class neither true nor predicted: NaN
accuracy_by_class = partial(class_ratios, "intersection", "label")  # a class that is not in the ground truth: NaN


def class_mean(by_class: Metric, units: Units, weights: np.ndarray) -> np.ndarray:
    """The mean over the classes that have a value in the draw."""
    values = by_class(units, weights)
    return 100 * _ratio(np.nansum(values, axis=1), np.isfinite(values).sum(axis=1))


def pixel_accuracy(units: Units, weights: np.ndarray) -> np.ndarray:
    """The share of labelled pixels that are right."""
    order = np.argsort(units["image"])
    return 100 * _ratio(*(weights @ units[name][order].sum(axis=1, dtype=float) for name in ("intersection", "label")))


# --- detection and classification -----------------------------------------------------------------------------------


def detection(kind: str, thresholds: slice, units: Units, weights: np.ndarray) -> np.ndarray:
    """AP of boxes (``kind`` "bbox") or masks ("mask"), averaged over classes and over ``thresholds``."""
    return 100 * average_precision(Detections.from_units(units, kind), weights, thresholds)


def found_instances(units: Units) -> np.ndarray:
    """The F1 of each image's masks at an IoU of 0.5, of detections with a score of :data:`CONFIDENT`: (I,)."""
    ids = np.sort(units["images"])
    counted = ~units["mask/ignored"][:, 0] & (units["mask/score"] >= CONFIDENT)
    right, shown, real = (
        np.bincount(np.searchsorted(ids, images), minlength=len(ids))
        for images in (
            units["mask/image"][counted & units["mask/matched"][:, 0]],
            units["mask/image"][counted],
            units["gt_image"][~units["gt_ignored"]],
        )
    )
    return 100 * _ratio(2 * right, shown + real)


def share(column: str, units: Units, weights: np.ndarray) -> np.ndarray:
    """The share of images for which the array ``column`` (I,) is true."""
    right = units[column][np.argsort(units["image"])].astype(float)
    return 100 * _ratio(weights @ right, weights.sum(axis=1))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """``part / whole``, NaN where there is nothing to divide by."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=np.asarray(whole) > 0)


# What a report compares, in the order in which it shows them.
DETECTION = Measure(
    unit="image",
    key="images",
    alone=("F1 at IoU 0.5", found_instances),
    resamples=1_000,  # of AP on all of COCO's validation images these take 15 seconds
    layout=("gt_image", "gt_category", "gt_ignored"),
    metrics={
        f"{kind} {name}": partial(detection, kind, thresholds)
        for kind in ("bbox", "mask")
        for name, thresholds in (("AP", slice(None)), ("AP50", slice(0, 1)), ("AP75", slice(5, 6)))
    },
)
SEGMENTATION = Measure(
    unit="image",
    key="image",
    layout=("image", "label"),
    metrics={
        "mIoU": partial(class_mean, iou_by_class),
        "mAcc": partial(class_mean, accuracy_by_class),
        "aAcc": pixel_accuracy,
    },
)
VIDEO = Measure(
    unit="sequence",
    key="sequence",
    layout=("sequence", "object", "frame"),
    metrics={"J&F": partial(video, mean, "JF")}
    | {
        f"{kind}{suffix}": partial(video, statistic, kind)
        for kind in "JF"
        for suffix, statistic in (("", mean), (" recall", recall), (" decay", decay))
    },
    part="object",
    named=True,
    lower=frozenset({"J decay", "F decay"}),
)
CLASSIFICATION = Measure(unit="image", key="image", layout=("image",), metrics={}, columns=True)
