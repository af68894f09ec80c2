"""Linear classification: how well a linear layer on frozen global features tells the class of an image.

Protocol ``linear-logistic@1``: multinomial logistic regression on the feature of each image's centre crop, its weight
decay chosen on training images that are held out, fitted by L-BFGS to the optimum. It is not the published linear
evaluation (SGD for 100 epochs over augmented crops, arXiv 2104.14294, appendix F.1): figures compare with each other,
not with those of papers. In return it has no learning rate, no randomness, and one pass over the images.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selfpatch.eval.checkpoints.load import LoadedBackbone
from selfpatch.eval.datasets import features
from selfpatch.eval.datasets.features import DATA  # noqa: F401 - DATA is this task's too
from selfpatch.eval.tasks.knn import units_of
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.progress import Meter
from selfpatch.reports.record import Dataset, Evaluation, Protocol

DECAYS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # strongest first: each fit starts from the one before
HELD_OUT = 10  # every tenth training image of a class chooses among them
ITERATIONS = 200  # at most, of L-BFGS
LOGITS = 1 << 26  # at a time: 256 MB


def fit(
    inputs: Tensor,
    labels: Tensor,
    weights: Tensor,
    decay: float,
    iterations: int = ITERATIONS,
    meter: Meter | None = None,
) -> Tensor:
    """The weights that minimise mean cross-entropy + decay/2 · |W|², by L-BFGS with a strong-Wolfe line search.

    Args:
        inputs: (N, C).
        labels: (N,), int64.
        weights: (C + 1, classes) to start from; the last row is the bias, which does not decay.
        decay: strength of the penalty, above 0: the minimum is then unique.
        iterations: at most.
        meter: is advanced at each evaluation of the loss.

    Returns:
        (C + 1, classes).
    """
    weights = weights.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=iterations, tolerance_grad=1e-6, line_search_fn="strong_wolfe")
    rows = max(1, LOGITS // weights.shape[1])

    def closure() -> float:
        optimizer.zero_grad()
        penalty = decay / 2 * weights[:-1].square().sum()
        penalty.backward()
        total = float(penalty.detach())
        for some, true in zip(inputs.split(rows), labels.split(rows)):
            loss = F.cross_entropy(logits(some, weights), true, reduction="sum") / len(inputs)
            loss.backward()
            total += float(loss.detach())
        if meter:
            meter.advance()
        return total

    optimizer.step(closure)
    return weights.detach()


def logits(inputs: Tensor, weights: Tensor) -> Tensor:
    """Scores (N, classes) of inputs (N, C) under weights (C + 1, classes)."""
    return torch.addmm(weights[-1], inputs, weights[:-1])


def accuracy(inputs: Tensor, labels: Tensor, weights: Tensor) -> float:
    """Share, in per cent, of the inputs whose best score is that of their label."""
    return 100 * float((logits(inputs, weights).argmax(1) == labels).float().mean())


# --- the task, as selfpatch.eval.run finds it ------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the fit and of the features."""
    shown = ", ".join(f"{decay:g}" for decay in DECAYS)
    parser.add_argument(
        "--decay", type=float, metavar="X", help=f"weight decay, instead of the best of {shown} on held-out images"
    )
    features.add_arguments(parser)


def check(args: argparse.Namespace) -> None:
    """Raise UserError on options out of range and on a folder that gives no classes or too few images."""
    folder = features.check(args)
    if args.decay is not None and not 0 < args.decay < math.inf:
        raise UserError(f"--decay {args.decay}: must be above 0")
    if args.decay is None and not features.every(HELD_OUT, folder.train.labels).any():
        raise UserError(f"{args.data} has one training image per class, so none can be held out: give a --decay")


def protocol_of(args: argparse.Namespace, backbone: LoadedBackbone) -> Protocol:
    """The protocol's name and all parameters."""
    own = {
        "classifier": "multinomial logistic regression on features standardised by the training images",
        "solver": f"L-BFGS, at most {ITERATIONS} iterations",
        "weight_decay": list(DECAYS) if args.decay is None else args.decay,
        "chosen_on": None if args.decay else f"every {HELD_OUT}th training image of a class, from its 2nd; then all",
        "split": features.check(args).split,
    }
    return Protocol("linear-logistic@1" + features.changed(args, {"decay": None}), {**features.parameters(args), **own})


def fingerprint(args: argparse.Namespace) -> Dataset:
    """The data set; ``imagenet1k-val`` if it is that, else the folder's name."""
    return features.check(args).dataset


def evaluate(backbone: LoadedBackbone, args: argparse.Namespace, out: Path) -> Evaluation:
    """Top-1 and top-5 in per cent, which images are right, and the weight decay that was chosen."""
    folder = features.check(args)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train, val = (
        torch.from_numpy(np.array(features.features_of(backbone, part, args, title, folder.fingerprint))).to(device)
        for title, part in (("train", folder.train), ("val", folder.val))
    )
    mean, std = train.mean(0), train.std(0, correction=0).clamp_min(1e-6)
    train, val = (train - mean) / std, (val - mean) / std
    labels = torch.from_numpy(folder.train.labels).to(device)
    start = torch.zeros(train.shape[1] + 1, len(folder.classes), device=device)

    decay, notes = args.decay, features.notes(backbone)
    if decay is None:
        decay, start, said = choose(train, labels, start)
        notes.append(said)
    with Meter("linear", ITERATIONS, "loss evaluations") as meter:
        weights = fit(train, labels, start, decay, meter=meter)
    units = units_of(folder, logits(val, weights).cpu())
    metrics = {name: 100 * float(right.mean()) for name, right in units.items() if name != "image"}
    return Evaluation(metrics, units, notes)


def choose(inputs: Tensor, labels: Tensor, start: Tensor) -> tuple[float, Tensor, str]:
    """The decay of :data:`DECAYS` under which held-out inputs are right most often; of equal ones, the strongest.

    Returns:
        the decay, the weights fitted with it, and a line that tells of the choice.
    """
    held = torch.from_numpy(features.every(HELD_OUT, labels.cpu().numpy())).to(inputs.device)
    best = (-1.0, 0.0, start)
    weights = start
    for decay in DECAYS:
        with Meter(f"linear, weight decay {decay:g}", ITERATIONS, "loss evaluations") as meter:
            weights = fit(inputs[~held], labels[~held], weights, decay, meter=meter)
        right = accuracy(inputs[held], labels[held], weights)
        print(f"linear: weight decay {decay:g}: {right:.2f} % of {int(held.sum())} held-out images", flush=True)
        if right > best[0]:
            best = (right, decay, weights)
    right, decay, weights = best
    return decay, weights, f"weight decay {decay:g}, by {right:.2f} % of {int(held.sum())} held-out training images"
