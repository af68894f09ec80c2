"""How fast this machine pretrains: a step, an image's augmentation and its reading, each measured alone."""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from selfpatch.pretrain.augment import MultiCrop
from selfpatch.pretrain.data import open_images
from selfpatch.pretrain.method import Method
from selfpatch.pretrain.optim import optimiser_of
from selfpatch.pretrain.schedules import Step

BF16_PEAK = {  # dense bf16 products a second, by the vendors' data sheets; a card's name holds the key
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}


def random_crops(config: Config, batch: int) -> list[Tensor]:
    """uint8 crops of ``batch`` images as a loader gives them, one tensor (V, B, 3, S, S) a group."""
    kinds = MultiCrop(config.views)
    counts = {group: sum((local, view.size) == group for local, view in kinds.crops) for group in kinds.groups}
    crops = [torch.randint(0, 256, (V, batch, 3, S, S), dtype=torch.uint8) for (_, S), V in counts.items()]
    return [crop.pin_memory() for crop in crops] if torch.cuda.is_available() else crops


def training_step(method: Method, config: Config, batch: int) -> Callable[[], Tensor]:
    """A whole step of a method on its device, from crops in host memory to the moved teacher; it gives the loss."""
    wrapper = optimiser_of(method, config, lr=1e-6)
    crops = random_crops(config, batch)
    method.set_step(config.seed, 0, Step(lr=1e-6, weight_decay=0.04, momentum=0.996, teacher_temp=0.04))

    def take() -> Tensor:
        with wrapper.optim_context(method):
            parts = method(**method.data_preprocessor({"crops": crops}, training=True))
        wrapper.update_params(parts["loss"])
        method.after_step()
        return parts["loss"].detach()

    return take


def seconds_of(take: Callable[[], object], device: torch.device, steps: int = 5) -> float:
    """The median seconds of a call, after two that are not counted; a GPU is waited for."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    spent = []
    for _ in range(steps + 2):
        wait()
        start = time.perf_counter()
        take()
        wait()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent[2:])


def operations_of(take: Callable[[], object]) -> int:
    """The floating-point operations of the products in a call: two a multiplication and addition."""
    with FlopCounterMode(display=False) as counter:
        take()
    return counter.get_total_flops()


def share_of_peak(operations: float, seconds: float) -> float | None:
    """Operations a second as a share of the card's bf16 peak; None for a card that is not in :data:`BF16_PEAK`."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    peak = next((peak for key, peak in BF16_PEAK.items() if key in name), None)
    return operations / seconds / peak if peak else None


def some_pictures(root: Path | None, count: int = 32) -> list[bytes]:
    """The bytes of image files below a folder, evenly spread; without one, of a made-up photograph of 500x375."""
    if root is None:
        noise = np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)
        blurred = cv2.GaussianBlur(noise, (0, 0), 2)  # about 20 kB; a photograph of this size has 110
        return [cv2.imencode(".jpg", cv2.addWeighted(blurred, 3, blurred, 0, -256))[1].tobytes()]
    images = open_images(root)
    sources = (images[number] for number in range(0, len(images), -(-len(images) // count)))
    return [source if isinstance(source, bytes) else source.read_bytes() for source in sources]


def augmentation_seconds(config: Config, pictures: Sequence[bytes], least: float = 2.0) -> float:
    """The seconds of one core that decoding and augmenting an image takes, measured for ``least`` seconds or more."""
    multi_crop, threads = MultiCrop(config.views), (torch.get_num_threads(), cv2.getNumThreads())
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    count, start = 0, time.process_time()
    while time.process_time() - start < least:
        multi_crop.read(pictures[count % len(pictures)], np.random.default_rng([0, count]))
        count += 1
    spent = time.process_time() - start
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])
    return spent / count
