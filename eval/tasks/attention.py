"""Attention of query patches: do they look at different places, how far, how widely, and at their own object?

Protocol ``attention@1``, after figure 1 of SelfPatch (arXiv 2206.07990): a block's attention rows of some patches of an
image over all its patches, averaged over heads; [CLS] and registers are left out. Nothing is trained.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import cv2
import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from selfpatch.eval.checkpoints.load import LoadedBackbone
from selfpatch.eval.datasets import frames
from selfpatch.eval.datasets.ade20k import open_label_maps
from selfpatch.eval.datasets.davis import open_videos
from selfpatch.eval.measures import attention as measures
from selfpatch.eval.tasks import TaskSettings
from selfpatch.pretrain import settings as declared
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.folders import list_files
from selfpatch.pretrain.images import read_labels, read_picture
from selfpatch.pretrain.progress import Meter
from selfpatch.pretrain.settings import as_json, changed
from selfpatch.reports.metrics import Measure, Units
from selfpatch.reports.record import Dataset, Evaluation, Protocol

TITLE = "Attention of query patches"
HEADLINE = ["similarity", "own object"]
DIAGNOSTIC = True  # it explains other figures: eval_all.sh leaves it out
BACKGROUND, VOID = 0, 255


def mean_of(name: str, units: Units, weights: np.ndarray) -> np.ndarray:
    """The mean of ``units[name]`` (I,), in per cent; images without a value are left out."""
    values = units[name][np.argsort(units["image"])]
    known = np.isfinite(values)
    total = weights @ known
    sums = weights @ np.where(known, values, 0)
    return 100 * np.divide(sums, total, out=np.full(len(weights), np.nan), where=total > 0)


MEASURE = Measure(
    unit="image",
    key="image",
    layout=("image",),
    metrics={name: partial(mean_of, name) for name in HEADLINE},
    lower=frozenset({"similarity"}),
)


class Look(declared.Settings):
    """The parameters of the protocol."""

    short_side: int = Field(480, ge=1, description="pixels of an image's short side; both are floored to whole patches")
    block: int = Field(-1, ge=-1, description="the block of the headline figures; -1: the last")
    queries: int = Field(8, ge=1, description="query patches on objects, and as many off; without masks on a grid")
    limit: int = Field(100, ge=1, description="images, evenly chosen")


class Settings(Look, TaskSettings):
    """The options of the task."""

    data: Path = Field(Path("data/DAVIS"), description="a DAVIS or ADE20K tree, a folder of images, or one image")


@dataclass(frozen=True)
class Item:
    """One image and, where there is one, its label map: 0 is off all objects, 255 is void."""

    name: str
    image: Path
    labels: Path | None = None


@dataclass(frozen=True)
class Items:
    """The images that are looked at."""

    root: Path
    items: tuple[Item, ...]
    findings: tuple[str, ...]
    known: Dataset | None = None  # as its own benchmark names it

    @cached_property
    def identity(self) -> Dataset:
        """As records name it: as its benchmark does, or by the folder's name and the content of these images."""
        if self.known:
            return self.known
        digest = hashlib.sha256()
        for item in self.items:
            content = item.image.read_bytes()
            digest.update(f"{item.name} {len(content)}\n".encode(errors="surrogateescape") + content)
        return Dataset(self.root.resolve().name, "all", digest.hexdigest(), miniature=True)


# --- one image -------------------------------------------------------------------------------------------------------


def read_item(item: Item, settings: Look, backbone: LoadedBackbone) -> tuple[np.ndarray, np.ndarray | None]:
    """An image as the network sees it, RGB (H, W, 3) uint8, and the labels of its patches (h, w), or None.

    Raises:
        UserError: a file cannot be read, or nothing of the image is left.
    """
    labels = None if item.labels is None else read_labels(item.labels)
    pixels = read_picture(item.image, None if labels is None else labels.shape)
    side = backbone.model.stride
    scale = settings.short_side / min(pixels.shape[:2])
    grid = tuple(round(length * scale) // side for length in pixels.shape[:2])
    if min(grid) < 2:
        raise UserError(f"--short-side {settings.short_side} leaves {grid[0]}x{grid[1]} patches of {side}: raise it")
    pixels = cv2.resize(pixels, (grid[1] * side, grid[0] * side), interpolation=cv2.INTER_AREA)
    if labels is not None:  # that of a patch's centre
        rows, columns = (((np.arange(n) + 0.5) * size / n).astype(int) for n, size in zip(grid, labels.shape))
        labels = labels[np.ix_(rows, columns)]
    return pixels, labels


def normalised(pixels: np.ndarray, backbone: LoadedBackbone) -> Tensor:
    """An image (H, W, 3) as the network takes it: (1, 3, H, W), by the mean and std that it was trained with."""
    images = torch.from_numpy(frames.normalised(pixels, backbone.mean, backbone.std))[None]
    return images.to(next(backbone.model.parameters()).device)


def choose_queries(labels: np.ndarray | None, grid: tuple[int, int], count: int) -> np.ndarray:
    """Flat numbers of query patches: ``count`` on objects and ``count`` off, in reading order; without labels a grid.

    Args:
        labels: (h, w) of the patches, or None.
        grid: (h, w).
        count: of each kind; of a grid, about twice as many in all.
    """
    if labels is None:
        side = max(2, round((2 * count) ** 0.5))
        rows, columns = (((np.arange(side) + 0.5) * n / side).astype(int) for n in grid)
        return np.unique(rows[:, None] * grid[1] + columns)
    flat = labels.ravel()
    kinds = [np.flatnonzero((flat != BACKGROUND) & (flat != VOID)), np.flatnonzero(flat == BACKGROUND)]
    return np.concatenate([kind[np.unique(np.linspace(0, len(kind) - 1, count + 2)[1:-1].round().astype(int))]
                           for kind in kinds if len(kind)])  # fmt: skip


def figures(rows: Tensor, queries: Tensor, grid: tuple[int, int], stride: int, labels: Tensor | None) -> dict:
    """Every measure of rows (blocks, heads, Q, N): name -> (blocks, heads), float64; shares are in 0 … 1."""
    found = {
        "similarity": measures.similarity(rows),
        "distance px": measures.distance(rows, queries, grid, stride),
        "entropy": measures.entropy(rows),
    }
    on = torch.zeros(0) if labels is None else ((labels != BACKGROUND) & (labels != VOID))[queries]
    if on.any():
        found["own object"] = measures.own_share(rows[..., on, :], queries[on], labels)
    return {name: values.double().cpu().numpy() for name, values in found.items()}


# --- the task --------------------------------------------------------------------------------------------------------


def open(settings: Settings) -> Items:
    """The images: of a DAVIS tree the first frame of each sequence, of an ADE20K tree the validation images, or all."""
    root = settings.data
    if (root / "JPEGImages").is_dir():
        videos = open_videos(root)
        items = [Item(video.name, video.frames[0], video.masks[0]) for video in videos.videos]
        return Items(root, tuple(evenly(items, settings.limit)), tuple(videos.findings), videos.identity)
    if (root / "annotations/validation").is_dir():
        maps = open_label_maps(root)
        items = [Item(image.name, image, labels) for image, labels in maps.pairs("validation")]
        return Items(root, tuple(evenly(items, settings.limit)), tuple(maps.findings), maps.identity)
    if not root.exists():
        raise UserError(f"{root} is missing: give --data a DAVIS or ADE20K tree, a folder of images, or one image")
    if root.is_file():
        return Items(root, (Item(root.name, root),), ())
    listing = list_files(root)
    if not listing.paths:
        raise UserError(f"{root} holds no image")
    items = [Item(path.relative_to(root).as_posix(), path) for path in evenly(listing.paths, settings.limit)]
    return Items(root, tuple(items), tuple(listing.passed_by()))


def evenly(items: list, most: int) -> list:
    """All of ``items``, or ``most`` of them at equal distances."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)]


def protocol(settings: Settings, backbone: LoadedBackbone) -> Protocol:
    """The protocol's name and all parameters; raises UserError where the network has no such block."""
    depth = len(backbone.model.blocks)
    if settings.block >= depth:
        raise UserError(f"--block {settings.block}: {backbone.arch['name']} has 0 … {depth - 1}, and -1 for the last")
    pixels = {"mean": list(backbone.mean), "std": list(backbone.std)}
    return Protocol("attention@1" + changed(settings, Look), as_json(settings, Look) | pixels)


def evaluate(backbone: LoadedBackbone, dataset: Items, settings: Settings, out: Path) -> Evaluation:
    """Similarity and share on the own object in per cent; by block and head these, distance and entropy, too."""
    model = backbone.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    device = next(model.parameters()).device
    found: list[dict[str, np.ndarray]] = []
    even = []  # what attention that is spread evenly would leave on the own object
    with Meter("attention", len(dataset.items), "images") as meter, torch.inference_mode():
        for item in dataset.items:
            pixels, labels = read_item(item, settings, backbone)
            grid = tuple(side // model.stride for side in pixels.shape[:2])
            queries = torch.from_numpy(choose_queries(labels, grid, settings.queries)).to(device)
            rows, _ = model.attention(normalised(pixels, backbone), range(len(model.blocks)), queries)
            rows = torch.cat(rows)  # (blocks, heads, Q, h*w)
            rows = torch.cat([rows.mean(1, keepdim=True), rows], dim=1)  # the first of "heads": their mean
            flat = None if labels is None else torch.from_numpy(labels.astype(np.int64).ravel()).to(device)
            found.append(figures(rows, queries, grid, model.stride, flat))
            if "own object" in found[-1]:
                even.append(figures(torch.full_like(rows[:1, :1], 1 / rows.shape[-1]), queries, grid, 1, flat))
            meter.advance(1)
    names = {name: None for one in found for name in one}
    missing = np.full_like(found[0]["similarity"], np.nan)
    stacked = {name: np.stack([one.get(name, missing) for one in found]) for name in names}  # (I, blocks, 1 + heads)
    units = {"image": np.array([item.name for item in dataset.items])}
    units |= {name: stacked[name][:, settings.block, 0] for name in HEADLINE if name in stacked}
    notes = []
    if even:
        share = 100 * np.mean([one["own object"] for one in even])
        notes.append(f"attention that is spread evenly would leave {share:.1f} % on the own object")
    metrics = {name: float(mean_of(name, units, np.ones((1, len(found))))[0]) for name in HEADLINE if name in units}
    return Evaluation(metrics | by_head(stacked), units, notes)


def by_head(stacked: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Means over images (I, blocks, 1 + heads) as figures of each block and head, in pixels or per cent."""
    return {
        f"{name}/block {block}" + (f" head {head}" if head else " all heads averaged"): scale * float(value)
        for name, values in stacked.items()
        for scale in (1 if name.endswith(" px") else 100,)
        for block, line in enumerate(np.nanmean(values, axis=0))
        for head, value in enumerate(line)
    }
