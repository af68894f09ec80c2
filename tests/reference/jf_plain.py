"""J and F as the DAVIS 2017 evaluation is usually written: whole stacks, full frames, one dilation a mask.

Kept beside the tests for two uses: ``selfpatch.eval.measures.jf`` must equal it bit for bit, and ``tools/bench.py``
times the two against each other. Every frame of every object is a full-size boolean image here, whether the object is
in it or not.
"""

from __future__ import annotations

import cv2
import numpy as np


def object_stack(masks: np.ndarray, objects: int) -> np.ndarray:
    """One boolean video an object, (objects, n, H, W), from index masks (n, H, W)."""
    ids = np.arange(1, objects + 1)[:, None, None, None]
    return masks[None] == ids  # (objects, n, H, W)


def region_similarity(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """J of every frame of one object; both (n, H, W) boolean."""
    shared = np.sum(truth & prediction, axis=(1, 2))
    either = np.sum(truth | prediction, axis=(1, 2))
    with np.errstate(invalid="ignore"):
        values = shared / either
    values[either == 0] = 1.0
    return values


def boundary_map(mask: np.ndarray) -> np.ndarray:
    """The pixels of one boolean mask (H, W) that differ from their right, lower or lower-right neighbour."""
    right, below, diagonal = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    right[:, :-1] = mask[:, 1:]
    below[:-1] = mask[1:]
    diagonal[:-1, :-1] = mask[1:, 1:]
    edge = (mask ^ right) | (mask ^ below) | (mask ^ diagonal)
    edge[-1] = mask[-1] ^ right[-1]
    edge[:, -1] = mask[:, -1] ^ below[:, -1]
    edge[-1, -1] = False
    return edge


def boundary_accuracy(truth: np.ndarray, prediction: np.ndarray) -> float:
    """F of one frame of one object; both (H, W) boolean."""
    radius = int(np.ceil(0.008 * np.linalg.norm(truth.shape)))
    offset = np.arange(-radius, radius + 1)
    disk = (offset[:, None] ** 2 + offset[None] ** 2 <= radius**2).astype(np.uint8)
    true_edge, predicted_edge = boundary_map(truth), boundary_map(prediction)
    near_truth = cv2.dilate(true_edge.astype(np.uint8), disk).astype(bool)
    near_prediction = cv2.dilate(predicted_edge.astype(np.uint8), disk).astype(bool)
    true_count, predicted_count = np.sum(true_edge), np.sum(predicted_edge)
    if true_count and predicted_count:
        precision = np.sum(predicted_edge & near_truth) / float(predicted_count)
        recall = np.sum(true_edge & near_prediction) / float(true_count)
    else:
        precision, recall = float(predicted_count == 0), float(true_count == 0)
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def score_sequence(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """J and F, each (objects, n - 2), of index masks (n, H, W) uint8."""
    truth = np.where(truth == 255, 0, truth)  # void is background
    objects = int(truth[0].max())
    true_stack = object_stack(truth[1:-1], objects)
    predicted_stack = object_stack(prediction[1:-1], objects)
    J, F = np.zeros(true_stack.shape[:2]), np.zeros(true_stack.shape[:2])
    for index in range(objects):
        J[index] = region_similarity(true_stack[index], predicted_stack[index])
        for frame in range(true_stack.shape[1]):
            F[index, frame] = boundary_accuracy(true_stack[index, frame], predicted_stack[index, frame])
    return J, F


def statistics(values: np.ndarray) -> tuple[float, float, float]:
    """Mean, recall and decay of the values of one object."""
    edges = (np.round(np.linspace(1, len(values), 5) + 1e-10) - 1).astype(int)
    bins = [values[edges[index] : edges[index + 1] + 1] for index in range(4)]
    return np.nanmean(values), np.nanmean(values > 0.5), np.nanmean(bins[0]) - np.nanmean(bins[3])
