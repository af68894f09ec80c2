"""J and F of one frame on packed masks: 64 pixels a word, cropped to where the object is.

J is the overlap of two masks (Jaccard), F the agreement of their boundaries within a small disk (Perazzi et al., CVPR
2016, section 4). Both only ever count pixels, so packing changes no bit of a result. What makes it fast: nothing but
the object's box is looked at, both masks travel in one long row of words, and dilating by the disk is a few shifts
(its rows of equal width are grown one from another) and one OR a row of the disk.
"""

import math

import numpy as np

TOLERANCE = 0.008  # of the image's diagonal: the radius within which boundaries agree


def disk_radius(height: int, width: int) -> int:
    """The radius in pixels within which two boundaries agree: 0.008 of the diagonal, rounded up (8 at 854 x 480)."""
    return math.ceil(TOLERANCE * math.sqrt(height * height + width * width))


def score_frame(truth: np.ndarray, prediction: np.ndarray, objects: int) -> tuple[list[float], list[float]]:
    """J and F of the objects 1 … ``objects`` in one frame; both masks (H, W) uint8 indices.

    An object that is in neither mask has J = F = 1. Ids above ``objects`` count as background here.
    """
    height, width = truth.shape
    radius = disk_radius(height, width)
    here = np.empty((height, width), bool)
    J, F = [], []
    for index in range(1, objects + 1):
        packed = []
        for mask in (truth, prediction):
            np.equal(mask, index, out=here)
            packed.append(np.packbits(here, axis=1, bitorder="little"))  # (H, ⌈W/8⌉)
        j, f = _score_object(*packed, width, radius)
        J.append(j)
        F.append(f)
    return J, F


def _score_object(truth: np.ndarray, prediction: np.ndarray, width: int, radius: int) -> tuple[float, float]:
    """J and F of two masks (H, ⌈W/8⌉) with a bit a pixel."""
    either = truth | prediction
    rows = np.flatnonzero(np.bitwise_or.reduce(either, axis=1))
    if not rows.size:
        return 1.0, 1.0
    columns = np.flatnonzero(np.bitwise_or.reduce(either[rows[0] : rows[-1] + 1], axis=0))
    # The boundary begins a pixel above and to the left of the object. The row below it is taken too: so the last row of
    # the box holds object only where it is the last row of the image.
    left = max(columns[0] - 1, 0)
    box = np.s_[max(rows[0] - 1, 0) : rows[-1] + 2, left : columns[-1] + 1]
    h, w = either[box].shape
    # Rows stand at least `radius` empty pixels apart and the two masks `radius` empty rows: whatever a shift pushes out
    # of one lands in a gap, never on another's pixels.
    stride = -(-(8 * w + radius) // 64)  # words a row
    canvas = np.zeros((2, h + radius, 8 * stride), np.uint8)
    canvas[0, :h, :w], canvas[1, :h, :w] = truth[box], prediction[box]
    masks = canvas.view("<u8")  # (2, h + radius, stride)

    true, predicted = _count(masks)
    both = _count(masks[:1] & masks[1:])[0]
    j = both / (true + predicted - both)

    has_right = (1 << min(8 * w, width - 1 - 8 * int(left))) - 1  # every column but the last one of the image
    edges = _boundary(masks, h, np.frombuffer(has_right.to_bytes(8 * stride, "little"), "<u8"))
    true, predicted = _count(edges)
    if not (true and predicted):  # precision and recall are 1 and 0, 0 and 1, or both 1
        return j, float(true == predicted)
    near = _dilate(edges.reshape(-1), stride, radius).reshape(edges.shape)
    true_met, predicted_met = _count(edges & near[::-1])
    precision, recall = predicted_met / predicted, true_met / true
    return j, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _count(words: np.ndarray) -> list[int]:
    """The set pixels of each mask of (masks, rows, words)."""
    return np.bitwise_count(words).sum(axis=(1, 2), dtype=np.int64).tolist()


def _boundary(masks: np.ndarray, height: int, has_right: np.ndarray) -> np.ndarray:
    """The pixels that differ from their right, lower or lower-right neighbour, where the image has one."""
    line = masks.reshape(-1)
    right = line >> 1
    right[:-1] |= line[1:] << 63
    right = right.reshape(masks.shape)  # each pixel's right neighbour
    upper, lower = np.s_[:, : height - 1], np.s_[:, 1:height]
    edges = masks ^ right
    edges[upper] |= masks[upper] ^ right[lower]
    edges &= has_right
    edges[upper] |= masks[upper] ^ masks[lower]
    return edges


def _dilate(line: np.ndarray, stride: int, radius: int) -> np.ndarray:
    """Every pixel of the words (n,) with a set one within ``radius``; the gaps hold rubbish afterwards.

    From the disk's rim to its middle row the rows only get wider: each is grown from the one before.
    """
    run, wider, carry = line.copy(), np.empty_like(line), np.empty_like(line)
    disk, reach = np.zeros_like(line), 0
    for y in range(radius, -1, -1):
        half_width = math.isqrt(radius * radius - y * y)
        while reach < half_width:
            # The run -reach … reach, moved to both sides, leaves no hole up to 2 · reach + 1 (and no disk of a radius
            # below 2048 asks for a step of a whole word).
            step = min(half_width - reach, 2 * reach + 1)
            np.left_shift(run, step, out=wider)
            wider |= np.right_shift(run, step, out=carry)
            np.right_shift(run, 64 - step, out=carry)
            wider[1:] |= carry[:-1]
            np.left_shift(run, 64 - step, out=carry)
            wider[:-1] |= carry[1:]
            run |= wider
            reach += step
        if y == 0:
            disk |= run
        else:
            disk[y * stride :] |= run[: -y * stride]
            disk[: -y * stride] |= run[y * stride :]
    return disk
