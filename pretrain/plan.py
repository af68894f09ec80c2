"""Scaling on paper: images/s, workers, all-reduce and GPU-hours of N GPUs from figures of one, with the arithmetic.

What is not given is measured here and now, on this machine's GPU, or its CPU where there is none:

  selfpatch plan selfpatch_vit-s16_8xb128-200e_in1k --data data/imagenet/train
  selfpatch plan dino_vit-s16_8xb128-200e_in1k --images-per-s 1400 --augment-ms 3.5 --gpus 8 64
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from selfpatch.pretrain.cli import command_parser, run_command
from selfpatch.pretrain.config import ConfigOptions, load_config
from selfpatch.pretrain.measure import augmentation_seconds, seconds_of, some_pictures, training_step
from selfpatch.pretrain.train import build_method

SETS = {"ImageNet-1k": 1_281_167, "ImageNet-22k": 14_197_122, "a billion": 1_000_000_000}  # images


@dataclass(frozen=True)
class Figures:
    """What one GPU, one core and one link do; times in seconds, sizes in bytes."""

    batch: int  # images a GPU and step
    step: float  # seconds of a step on one GPU alone
    augment: float  # seconds of one core for an image
    image: float  # bytes of an image's file
    gradients: int  # bytes that are averaged a step
    bandwidth: float  # bytes a second out of each GPU

    def reduced(self, gpus: int) -> float:
        """Bytes that each GPU sends a step: a ring passes every part on N - 1 times to add and N - 1 to spread."""
        return 2 * (gpus - 1) / gpus * self.gradients

    def reduce_seconds(self, gpus: int) -> float:
        return self.reduced(gpus) / self.bandwidth

    def images_per_second(self, gpus: int) -> float:
        """Of all GPUs together, as if no all-reduce ran beside the backward pass."""
        return gpus * self.batch / (self.step + self.reduce_seconds(gpus))

    def workers(self, gpus: int) -> int:
        """Data workers a GPU, one core each, that keep it fed."""
        return math.ceil(self.images_per_second(gpus) / gpus * self.augment)

    def read(self, gpus: int) -> float:
        """Bytes a second that storage must give."""
        return self.images_per_second(gpus) * self.image

    def gpu_hours(self, gpus: int, images: float) -> float:
        return gpus * images / self.images_per_second(gpus) / 3600


def gradient_bytes(method: torch.nn.Module) -> int:
    """The bytes that DDP averages: float32 gradients of all trained parameters."""
    return sum(4 * p.numel() for p in method.parameters() if p.requires_grad)


def arithmetic(figures: Figures, gpus: Sequence[int], epochs: int) -> str:
    """The plan as text: each column's formula, then the figures."""
    f, MB = figures, 1e6
    lines = [
        f"one GPU     {f.batch} images / {f.step:.4g} s = {f.batch / f.step:,.0f} images/s",
        f"one core    1 image / {1000 * f.augment:.3g} ms = {1 / f.augment:,.0f} images/s",
        f"gradients   {f.gradients / 4 / MB:.1f} M numbers x 4 bytes = {f.gradients / MB:.0f} MB a step",
        f"all-reduce  2·(N - 1)/N · {f.gradients / MB:.0f} MB out of each GPU, at {f.bandwidth / 1e9:.3g} GB/s",
        f"images/s    N · {f.batch} / ({f.step:.4g} s + all-reduce): as if none of it ran beside the backward pass",
        f"workers     images/s a GPU · {1000 * f.augment:.3g} ms, rounded up: cores for each GPU",
        f"storage     images/s · {f.image / 1000:.0f} kB an image",
        "GPU-hours   N · images · epochs / images/s / 3600",
        "",
        f"{'GPUs':>5}{'images/s':>12}{'workers/GPU':>13}{'storage MB/s':>14}{'all-reduce MB':>15}{'ms':>8}"
        + "".join(f"{name:>16}" for name in SETS),
        " " * 67 + "".join(f"{f'{n} epoch' + 's' * (n > 1):>16}" for n in (epochs, epochs, 1)) + "   (GPU-hours)",
    ]
    for n in gpus:
        hours = [f.gpu_hours(n, images * (1 if images >= 1e9 else epochs)) for images in SETS.values()]
        lines.append(
            f"{n:>5}{f.images_per_second(n):>12,.0f}{f.workers(n):>13}{f.read(n) / MB:>14,.0f}"
            f"{f.reduced(n) / MB:>15,.0f}{1000 * f.reduce_seconds(n):>8.1f}" + "".join(f"{h:>16,.0f}" for h in hours)
        )
    return "\n".join(lines)


def gloo_seconds(processes: int, volume: int, times: int = 5) -> float:
    """The seconds in which ``processes`` of this machine average ``volume`` bytes over gloo."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    results = torch.multiprocessing.get_context("spawn").SimpleQueue()
    torch.multiprocessing.spawn(_reduce, (processes, store.port, volume, times, results), processes, daemon=True)
    return max(results.get() for _ in range(processes))


def _reduce(rank: int, processes: int, port: int, volume: int, times: int, results) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore("localhost", port, timeout=timedelta(seconds=60))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=processes)
    numbers, spent = torch.ones(volume // 4), []
    for _ in range(times):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(numbers)
        spent.append(time.perf_counter() - start)
    results.put(sorted(spent)[times // 2])
    dist.destroy_process_group()


def main(argv: Sequence[str]) -> None:
    """The command line."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("config", help="a file, or a name in configs/pretrain")
    add("--data", type=Path, metavar="DIR", help="images to measure augmentation and file sizes with")
    add("--gpus", type=int, nargs="+", default=[1, 8, 16, 64], metavar="N", help="how many GPUs (1 8 16 64)")
    add("--images-per-s", type=float, help="of one GPU alone; without it measured here, with --batch images")
    add("--augment-ms", type=float, help="of one core for an image; without it measured here")
    add("--image-kb", type=float, help="a file's size; without it that of --data, else 110 (ImageNet's mean)")
    add("--bandwidth", type=float, default=50.0, metavar="GB/S", help="out of each GPU between GPUs (50: 400 Gbit/s)")
    add("--batch", type=int, help="images a GPU and step (default: the config's)")
    add("--gloo", type=int, nargs="+", default=[], metavar="N", help="time the all-reduce of N processes here, too")
    add("--cfg-options", nargs="+", action=ConfigOptions, default={}, metavar="KEY=VALUE", help="override config keys")
    args = parser.parse_args(argv)

    config = load_config(args.config, args.cfg_options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = args.batch or config.data.batch_size
    method = build_method(config).to(device).train()
    pictures = some_pictures(args.data)
    size = sum(map(len, pictures)) / len(pictures) if args.data else 110_000
    rate, augment = args.images_per_s, args.augment_ms
    figures = Figures(
        batch=batch,
        step=batch / rate if rate else seconds_of(training_step(method, config, batch), device, steps=3),
        augment=augment / 1000 if augment else augmentation_seconds(config, pictures),
        image=1000 * args.image_kb if args.image_kb else size,
        gradients=gradient_bytes(method),
        bandwidth=1e9 * args.bandwidth,
    )
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    told = f"step {'given' if rate else f'measured on {where}'}; augmentation {'given' if augment else 'measured here'}"
    print(f"{Path(args.config).stem}, {config.precision}: {told}\n")
    print(arithmetic(figures, args.gpus, config.schedule.epochs))
    for n in args.gloo:
        seconds = gloo_seconds(n, figures.gradients)
        sent = figures.reduced(n)
        speed = f"{seconds:.3f} s = {sent / seconds / 1e9:.2f} GB/s"
        print(f"gloo here   {n} processes: {sent / 1e6:,.0f} MB each in {speed}")


if __name__ == "__main__":
    run_command(main)
