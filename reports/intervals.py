"""The numbers behind a verdict: draws of units and seeds, and the interval that so many of them call for."""

import math

import numpy as np
from scipy.special import ndtr, stdtrit

INTERVAL = (2.5, 97.5)  # percentiles of a 95 % interval


def expanded(units: int) -> tuple[float, float]:
    """The percentiles of draws of so many units that bound a 95 % interval: beyond 2.5 and 97.5 where units are few.

    n drawn from n show (n - 1) / n of their variance, and its estimate has n - 1 degrees of freedom: over six units of
    simulated data plain percentiles hold the truth 85 % of the time, these 92 %. This is the expanded percentile
    interval (Hesterberg 2015, The American Statistician 69:4).
    """
    if units < 2:
        return INTERVAL
    reach = stdtrit(units - 1, INTERVAL[1] / 100) * math.sqrt(units / (units - 1))
    return 100 * float(ndtr(-reach)), 100 * float(ndtr(reach))


def two_level(
    a: np.ndarray, b: np.ndarray, whole_a: np.ndarray, whole_b: np.ndarray, units: int, rng: np.random.Generator
) -> np.ndarray:
    """Differences (R,) in which both seeds and units are drawn.

    With one seed a side, these are the paired differences as they are (:func:`expanded` is for the number of units).
    With a few, plain resampling is too sure of itself: k seeds drawn from k show (k - 1) / k of their variance, and its
    estimate has only k - 1 degrees of freedom. So the draws are stretched about the difference until their 95 %
    interval is as wide as that of Student's t. Its variance is the unbiased sum of three parts: what the seeds of each
    side vary by, and what the draw of units varies by that is common to a side's seeds; its degrees of freedom are
    those of that sum (Welch 1947; Satterthwaite 1946 for two seeds). The variance of seeds on a side that has one alone
    is unknown and not counted. On simulated data of known variances these intervals hold the truth 93 to 96 % of the
    time, drawing units alone under 70 %.

    Args:
        a: (seeds, R) the metric of each seed of the first side in each draw of units.
        b: the same of the other side.
        whole_a: (seeds,) the metric of each seed over all units.
        whole_b: the same of the other side.
        units: how many there are.
        rng: draws the seeds.
    """
    if len(a) == len(b) == 1:
        return a[0] - b[0]
    seen = np.isfinite(a).all(axis=0) & np.isfinite(b).all(axis=0)
    a, b = a[:, seen], b[:, seen]
    deltas, parts = np.zeros(a.shape[1]), []
    shared = np.var(a.mean(axis=0) - b.mean(axis=0))  # of the units' draw
    for side, whole, sign in ((a, whole_a, 1), (b, whole_b, -1)):
        k = len(side)
        chosen = rng.integers(k, size=(k, side.shape[1]))
        deltas += sign * np.take_along_axis(side, chosen, axis=0).mean(axis=0)
        if k > 1:
            parts.append((np.var(whole, ddof=1) / k, k - 1))
            # What the seeds answer differently to the same draw varies between the seeds already: count it once
            shared -= np.var(side - side.mean(axis=0), axis=1).sum() / (k - 1) / k
    parts.append((max(shared, 0.0) * units / max(units - 1, 1), max(units - 1, 1)))
    variance = sum(part for part, _ in parts)
    width = np.diff(np.percentile(deltas, INTERVAL)) if len(deltas) else 0
    if variance == 0 or width == 0:
        return deltas
    correction = 2 if min(len(side) for side in (a, b) if len(side) > 1) > 2 else 0  # Welch's; two seeds are too few
    freedom = variance**2 / sum(part**2 / (own + correction) for part, own in parts) - correction
    stretch = 2 * stdtrit(freedom, INTERVAL[1] / 100) * np.sqrt(variance) / width
    middle = whole_a.mean() - whole_b.mean()
    return middle + stretch * (deltas - middle)


def draw_weights(rng: np.random.Generator, units: int, rows: int) -> np.ndarray:
    """How often each unit occurs in ``rows`` draws of ``units`` units with replacement: (rows, units), float."""
    drawn = rng.integers(units, size=(rows, units)) + np.arange(rows)[:, None] * units
    return np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units).astype(float)
