"""k-NN classification: how well neighbours among frozen features tell the class of an image.

Protocol ``knn-dino@1``, as published with DINO (arXiv 2104.14294, appendix F): the k nearest training images by cosine
vote, each with the weight exp(cosine / T) (arXiv 1805.01978, section 3.4). Nothing is trained.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selfpatch.eval.checkpoints.load import LoadedBackbone
from selfpatch.eval.datasets import features
from selfpatch.eval.datasets.features import DATA  # noqa: F401 - DATA is this task's too
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.progress import Meter
from selfpatch.reports.record import Dataset, Evaluation, Protocol

K, TEMPERATURE = 20, 0.07
SIMILARITIES = 1 << 26  # at a time: 256 MB


def knn_votes(train: Tensor, labels: Tensor, queries: Tensor, classes: int, k: int, temperature: float) -> Tensor:
    """The weight of the votes for each class.

    Args:
        train: features (N, C) of length 1.
        labels: their classes (N,), int64.
        queries: features (M, C) of length 1.
        classes: how many there are.
        k: how many neighbours vote, at most N.
        temperature: a neighbour at cosine c votes with exp(c / temperature).

    Returns:
        (M, classes), float32.
    """
    nearest, index = (queries @ train.T).topk(k, dim=1)  # (M, k)
    votes = torch.zeros(len(queries), classes, device=queries.device)
    return votes.scatter_add_(1, labels[index], (nearest / temperature).exp())


def top(scores: Tensor, labels: Tensor, n: int) -> Tensor:
    """Whether the true class is among the ``n`` best of (M, classes); of equal scores the lower class wins."""
    best = scores.argsort(dim=1, descending=True, stable=True)[:, :n]
    return (best == labels[:, None]).any(dim=1)


def units_of(folder: features.LabelledFolder, scores: Tensor) -> dict[str, np.ndarray]:
    """Per image of ``val``: its place in the folder, whether it is right; top-5 if classes are more than 5."""
    labels = torch.from_numpy(folder.val.labels)
    units = {"image": np.array([path.relative_to(folder.root).as_posix() for path in folder.val.paths])}
    units |= {f"top-{n}": top(scores, labels, n).numpy() for n in (1, 5) if n == 1 or len(folder.classes) > n}
    return units


# --- the task, as selfpatch.eval.run finds it ------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the vote and of the features."""
    parser.add_argument("--k", type=int, default=K, help="how many neighbours vote")
    parser.add_argument(
        "--temperature", type=float, default=TEMPERATURE, help="a vote weighs exp(cosine / temperature)"
    )
    features.add_arguments(parser)


def check(args: argparse.Namespace) -> None:
    """Raise UserError on options out of range and on a folder that gives no classes or too few images."""
    folder = features.check(args)
    if not 1 <= args.k <= len(folder.train):
        raise UserError(
            f"--k {args.k}: {args.data} has {len(folder.train)} images to learn from; choose 1 to that many"
        )
    if not args.temperature >= 0.02:  # exp(1 / 0.01) = 3e43 would overflow float32
        raise UserError(f"--temperature {args.temperature}: must be 0.02 or more")


def protocol_of(args: argparse.Namespace, backbone: LoadedBackbone) -> Protocol:
    """The protocol's name and all parameters."""
    own = {"k": args.k, "temperature": args.temperature, "split": features.check(args).split}
    name = "knn-dino@1" + features.changed(args, {"k": K, "temperature": TEMPERATURE})
    return Protocol(name, {**features.parameters(args), **own})


def fingerprint(args: argparse.Namespace) -> Dataset:
    """The data set; ``imagenet1k-val`` if it is that, else the folder's name."""
    return features.check(args).dataset


def evaluate(backbone: LoadedBackbone, args: argparse.Namespace, out: Path) -> Evaluation:
    """Top-1 and top-5 in per cent, and which images are right."""
    folder = features.check(args)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train, val = (
        torch.from_numpy(np.array(features.features_of(backbone, part, args, title, folder.fingerprint)))
        for title, part in (("train", folder.train), ("val", folder.val))
    )
    train, labels = F.normalize(train).to(device), torch.from_numpy(folder.train.labels).to(device)
    rows = max(1, SIMILARITIES // len(train))
    scores = []
    with Meter("k-NN", len(val), "images") as meter:
        for queries in F.normalize(val).split(rows):
            votes = knn_votes(train, labels, queries.to(device), len(folder.classes), args.k, args.temperature)
            scores.append(votes.cpu())
            meter.advance(len(queries))
    units = units_of(folder, torch.cat(scores))
    metrics = {name: 100 * float(right.mean()) for name, right in units.items() if name != "image"}
    return Evaluation(metrics, units, features.notes(backbone))
