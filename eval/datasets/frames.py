"""The frames of a video as a backbone takes them, and how what comes next is made while the last is looked at."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.images import read_picture

TOKENS_AT_ONCE = 16_384  # that a GPU encodes: 10 frames of 480p at patch 16, 2 at patch 8
T, R = TypeVar("T"), TypeVar("R")


@dataclass(frozen=True)
class FramePreparation:
    """How the frames of a video are read."""

    # (height, width) of its masks, and so of its frames: it tells whether they are turned by their EXIF data
    size: tuple[int, int]
    resized: tuple[int, int]  # the (h, w) that they are resized to
    mean: Sequence[float]  # R, G, B that normalise pixels in 0 … 1
    std: Sequence[float]

    def read(self, path: Path) -> Tensor:
        """A frame as a backbone takes it, (3, h, w), float32.

        Raises:
            UserError: the file is no image that can be read to its end, or has another size.
        """
        frame = read_picture(path, self.size)  # (H, W, RGB), uint8
        if frame.shape[:2] != self.size:
            (height, width), (H, W) = frame.shape[:2], self.size
            raise UserError(f"{path} is {width}x{height}, the first frame {W}x{H}")
        frame = cv2.resize(frame, self.resized[::-1], interpolation=cv2.INTER_LINEAR)
        return torch.from_numpy(normalised(frame, self.mean, self.std))


def normalised(picture: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """A picture (H, W, 3), uint8, as a network takes it, (3, H, W), float32: less the mean, over the std."""
    pixels = (picture.astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def encoded_frames(
    paths: Sequence[Path],
    preparation: FramePreparation,
    encode: Callable[[Tensor], Tensor],
    device: torch.device,
    stride: int,
) -> Iterator[Tensor]:
    """The tokens (h, w, C) of each frame, in order: some threads read, another encodes one batch ahead.

    A GPU encodes several frames at once, of up to :data:`TOKENS_AT_ONCE` tokens; a CPU, which gains nothing by that,
    each alone.

    Args:
        encode: images (B, 3, H, W) on the device to tokens (B, h, w, C).
        stride: pixels from one token to the next.

    Raises:
        UserError: a frame cannot be read, or patches do not tile it.
    """
    H, W = preparation.resized
    together = max(1, TOKENS_AT_ONCE // (H * W // stride**2)) if device.type == "cuda" else 1

    def encoded(frames: list[Tensor]) -> Tensor:
        images = torch.stack(frames)
        if device.type == "cuda":
            images = images.pin_memory().to(device, non_blocking=True)
        with torch.inference_mode():
            tokens = encode(images)
        h, w = tokens.shape[1:3]
        if (h * stride, w * stride) != (H, W):
            raise UserError(
                f"{h}x{w} patches of {stride} pixels do not tile a frame resized to {H}x{W}: "
                f"add --side-multiple {stride}"
            )
        return tokens

    with ThreadPoolExecutor(4) as readers, ThreadPoolExecutor(1) as encoder:
        frames = ahead(readers, preparation.read, paths, depth=together + 3)
        batches = iter(lambda: list(islice(frames, together)), [])
        for tokens in ahead(encoder, encoded, batches, depth=1):
            yield from tokens


def ahead(pool: Executor, job: Callable[[T], R], items: Iterable[T], depth: int) -> Iterator[R]:
    """``job(item)`` of each item, in order; ``depth`` more than were asked for are in the pool's hands."""
    waiting = deque()
    for item in items:
        waiting.append(pool.submit(job, item))
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
