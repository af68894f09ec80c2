"""Dense k-NN segmentation: labels of training patches are looked up by the nearest neighbours of validation patches.

"In-context scene understanding" (Hummingbird, arXiv 2306.01667): nothing is trained, nothing is random. It departs from
the open re-implementation in two points: pixels without a label count neither in the memory nor in the score (there
they are class 0), and which patches of a class a bounded memory takes follows from an image's number, not from chance.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from selfpatch.eval.checkpoints.load import LoadedBackbone
from selfpatch.eval.checkpoints.pixels import Pixels
from selfpatch.eval.datasets.ade20k import VOID, LabelMaps, read_classes
from selfpatch.eval.dense.pixels import evaluation_of, pixel_counts, small_png
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.files import atomic_path
from selfpatch.pretrain.images import read_picture
from selfpatch.pretrain.progress import Meter
from selfpatch.pretrain.settings import Settings, as_json, changed
from selfpatch.reports.record import Evaluation, Protocol

BLOCK = 1 << 15  # patches of the memory that are compared at a time
QUERIES = 1 << 11  # patches that ask at a time, whole images: with BLOCK a product of 256 MB
CLASSES = 16  # whose maps are upsampled at a time


class LookupSettings(Settings):
    """How labels are looked up; the defaults are those of the protocol dense-knn@1, published for ADE20K."""

    k: int = Field(30, ge=1, description="neighbours that are asked")
    temperature: float = Field(0.02, gt=0, description="of the softmax over the cosines of these neighbours")
    memory: int = Field(10_240_000, ge=1, description="training patches that are kept, the same number of each image")
    side: int = Field(512, ge=32)  # of the squares that images are squashed to, in pixels; the task's --crop


def protocol(settings: LookupSettings, pixels: Pixels) -> Protocol:
    """The protocol ``dense-knn@1``, with what the settings and the pixels' mean and std change of it in its name."""
    default = LookupSettings()
    renamed = changed(settings, default).replace("+side=", "+crop=")  # as the option is called
    fixed = {"feature": "patch tokens of the last layer", "resize": "square, bilinear", "unlabelled": "left out"}
    return Protocol(f"dense-knn@1{renamed}{changed(pixels, Pixels)}", {**as_json(settings), **as_json(pixels), **fixed})


def evaluate(
    backbone: LoadedBackbone,
    dataset: LabelMaps,
    settings: LookupSettings,
    pixels: Pixels,
    names: Sequence[str],
    save_to: Path | None,
) -> Evaluation:
    """mIoU, mAcc, aAcc and IoU per class, in per cent, of a set in ADE20K's format.

    Args:
        save_to: a folder for the predicted label maps in ADE20K's format; None: not saved.
    """
    counted, encoder = {}, Encoder(backbone.model, settings.side, pixels)
    with tempfile.TemporaryDirectory() as folder:
        pairs = [dataset.pairs(split) for split in ("training", "validation")]
        for picture, predicted, truth in segment(encoder, settings, *pairs, len(names), Path(folder)):
            shown = predicted + np.uint8(1)
            counted[picture.stem] = (*pixel_counts(predicted, truth, len(names)), small_png(shown))
            if save_to is not None:
                with atomic_path(save_to / f"{picture.stem}.png") as path:
                    Image.fromarray(shown).save(path)
    return replace(evaluation_of(counted, names), notes=[f"labels looked up in {len(pairs[0])} images"])


class Memory:
    """Unit-length features (M, C) and soft labels (M, classes) of patches, float16, in files that vanish with it."""

    def __init__(self, folder: Path, rows: int, dim: int, classes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.rows, self.count = rows, 0
        self.features, self.labels = (
            np.memmap(tempfile.TemporaryFile(dir=folder), np.float16, "w+", shape=(rows, width))  # noqa: SIM115 - mapped
            for width in (dim, classes)
        )

    def add(self, features: Tensor, labels: Tensor) -> None:
        rows = slice(self.count, self.count + len(features))
        self.features[rows], self.labels[rows] = features.numpy(), labels.numpy()
        self.count += len(features)

    def blocks(self, device: torch.device) -> Iterator[Tensor]:
        """All features, float32, :data:`BLOCK` rows at a time."""
        for start in range(0, self.count, BLOCK):
            block = self.features[start : min(start + BLOCK, self.count)]
            yield torch.from_numpy(np.ascontiguousarray(block)).to(device).float()

    def nearest(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Cosines (Q, k) and rows (Q, k) of the k nearest of each unit-length query (Q, C), nearest first."""
        best = torch.full((len(queries), 0), 0.0, device=queries.device)
        rows = torch.zeros((len(queries), 0), dtype=torch.long, device=queries.device)
        start = 0
        for block in self.blocks(queries.device):
            near, at = (queries @ block.T).topk(min(k, len(block)), dim=1)
            best, rows = torch.cat([best, near], 1), torch.cat([rows, at + start], 1)
            best, kept = best.topk(min(k, best.shape[1]), dim=1)
            rows, start = rows.gather(1, kept), start + len(block)
        return best, rows

    def look_up(self, queries: Tensor, k: int, temperature: float) -> Tensor:
        """The soft labels (Q, classes) of unit-length queries (Q, C): those of the k nearest, weighted by softmax."""
        cosines, rows = self.nearest(queries, k)
        weights = (cosines / temperature).softmax(1)  # (Q, k)
        labels = torch.from_numpy(self.labels[rows.cpu().numpy()]).to(queries.device).float()  # (Q, k, classes)
        return (weights.unsqueeze(1) @ labels).squeeze(1)


def patch_labels(labels: np.ndarray, grid: tuple[int, int], patch: int, classes: int) -> Tensor:
    """The share of each class among the labelled pixels of each patch: (h*w, classes); without any, zeros.

    Args:
        labels: classes of the pixels (H, W), uint8, 255 where there is none; resized to the grid by nearest neighbour.
        grid: (h, w) of patches.
        patch: side of a patch in pixels.
        classes: how many there are.
    """
    h, w = grid
    pixels = F.interpolate(torch.from_numpy(labels)[None, None], size=(h * patch, w * patch), mode="nearest-exact")[
        0, 0
    ]
    cells = pixels.view(h, patch, w, patch).transpose(1, 2).reshape(h * w, patch * patch).long()
    cells = torch.where(cells == VOID, classes, cells)  # one class more, for those without
    counts = torch.zeros(h * w, classes + 1).scatter_add_(1, cells, torch.ones(cells.shape))[:, :classes]
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def chosen_patches(labels: Tensor, most: int, image: int) -> Tensor:
    """Which labelled patches of an image the memory takes: of rare classes in it first, then in a fixed mixed order.

    Args:
        labels: shares (N, classes) from :func:`patch_labels`.
        most: how many may be taken.
        image: its number, which the order comes from.

    Returns:
        their numbers, ascending.
    """
    shown = labels > 0
    labelled = shown.any(1).nonzero()[:, 0]
    if len(labelled) <= most:
        return labelled
    frequency = shown.sum(0).expand_as(shown).masked_fill(~shown, len(shown) + 1).amin(1)  # of its rarest class
    mixed = labelled[torch.from_numpy(np.random.default_rng(image).permutation(len(labelled)))]
    return mixed[frequency[mixed].argsort(stable=True)][:most].sort().values


def upsampled_argmax(soft: Tensor, size: tuple[int, int]) -> np.ndarray:
    """The class (H, W), uint8, that soft labels (h, w, classes) say of each pixel, upsampled bilinearly."""
    maps = soft.permute(2, 0, 1).unsqueeze(0)
    best = torch.full(size, -1.0, device=soft.device)
    label = torch.zeros(size, dtype=torch.uint8, device=soft.device)
    for start in range(0, maps.shape[1], CLASSES):  # few at a time: all classes of a large image would be gigabytes
        large = F.interpolate(maps[:, start : start + CLASSES], size=size, mode="bilinear", align_corners=False)
        value, at = large[0].max(0)
        label[value > best] = (at + start).to(torch.uint8)[value > best]
        best = torch.maximum(best, value)
    return label.cpu().numpy()


class Encoder:
    """Unit-length patch features of images squashed to a square, as published.

    Args:
        side: pixels; what is no multiple of the patch is left out.
    """

    def __init__(self, model: nn.Module, side: int, pixels: Pixels) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model, self.stride = model.to(self.device).eval(), model.stride
        self.side = side // self.stride * self.stride
        self.mean, self.std = (torch.tensor(v, device=self.device).view(3, 1, 1) for v in (pixels.mean, pixels.std))

    @torch.inference_mode()
    def __call__(self, picture: np.ndarray) -> tuple[Tensor, tuple[int, int]]:
        """Features (N, C) of a picture (H, W, 3), and their grid."""
        pixels = torch.from_numpy(picture).to(self.device).permute(2, 0, 1).float().unsqueeze(0)
        pixels = F.interpolate(pixels, size=(self.side, self.side), mode="bilinear", antialias=True)[0] / 255
        _, tokens, grid = self.model(((pixels - self.mean) / self.std).unsqueeze(0))
        return F.normalize(tokens[0].float(), dim=-1), grid


def check_memory(settings: LookupSettings, images: int, patches: int) -> int:
    """How many patches of an image the memory takes; UserError if it cannot hold as many as neighbours are asked."""
    each = min(patches, settings.memory // images)
    if each < 1:
        raise UserError(f"--memory {settings.memory}: {images} training images need at least one patch each")
    if settings.k > each * images:
        raise UserError(
            f"--k {settings.k}: {images} training images of {each} patches give only {each * images} neighbours"
        )
    return each


def segment(
    encoder: Encoder,
    settings: LookupSettings,
    training: Sequence[tuple[Path, Path]],
    validation: Sequence[tuple[Path, Path]],
    classes: int,
    folder: Path,
) -> Iterator[tuple[Path, np.ndarray, np.ndarray]]:
    """Of each validation image its path, the predicted classes and the true ones (H, W), uint8; 255 has no class.

    Raises:
        UserError: too few patches for the neighbours, or a file that cannot be read or used.
    """
    each = check_memory(settings, len(training), (encoder.side // encoder.stride) ** 2)
    memory = None
    with Meter("memory", len(training), "images") as meter:
        for number, (picture, labels) in enumerate(training):
            truth = read_classes(labels, classes)
            features, grid = encoder(read_picture(picture, size=truth.shape))
            soft = patch_labels(truth, grid, encoder.stride, classes)
            taken = chosen_patches(soft, each, number)
            memory = memory or Memory(folder, each * len(training), features.shape[1], classes)
            memory.add(features.cpu()[taken], soft[taken])
            meter.advance()
    if settings.k > memory.count:
        raise UserError(f"--k {settings.k}: the training images have only {memory.count} patches with labels")
    together = max(1, QUERIES // (encoder.side // encoder.stride) ** 2)
    with Meter("look-up", len(validation), "images") as meter:
        for start in range(0, len(validation), together):
            group = validation[start : start + together]
            truths = [read_classes(labels, classes) for _, labels in group]
            encoded = [encoder(read_picture(pair[0], size=truth.shape)) for pair, truth in zip(group, truths)]
            soft = memory.look_up(torch.cat([x for x, _ in encoded]), settings.k, settings.temperature)
            parts = soft.split([len(x) for x, _ in encoded])
            for (picture, _), truth, own, (_, grid) in zip(group, truths, parts, encoded):
                yield picture, upsampled_argmax(own.unflatten(0, grid), truth.shape), truth
                meter.advance()
