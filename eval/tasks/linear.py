"""Linear classification: how well a linear layer on frozen global features tells the class of an image.

Protocol ``linear-logistic@1``: multinomial logistic regression on the feature of each image's centre crop, its weight
decay chosen on training images that are held out, fitted by L-BFGS to the optimum. It is not the published linear
evaluation (SGD for 100 epochs over augmented crops, arXiv 2104.14294, appendix F.1): figures compare with each other,
not with those of papers. In return it has no learning rate, no randomness, and one pass over the images.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from selfpatch.eval.checkpoints import features
from selfpatch.eval.checkpoints.features import FeatureSettings, Preprocessing
from selfpatch.eval.checkpoints.load import LoadedBackbone
from selfpatch.eval.checkpoints.pixels import Pixels, pixels_of
from selfpatch.eval.datasets.image_folder import LabelledFolder, held_out, open_folder, split_of
from selfpatch.eval.tasks import TaskSettings
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.progress import Meter
from selfpatch.pretrain.settings import changed
from selfpatch.reports.metrics import CLASSIFICATION
from selfpatch.reports.record import Evaluation, Protocol

TITLE = "Linear classification"
HEADLINE = ["top-1"]
MEASURE = CLASSIFICATION
SOURCE = "imagenet"
DECAYS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # strongest first: each fit starts from the one before
HELD_OUT = 10  # every tenth training image of a class chooses among them
ITERATIONS = 200  # at most, of L-BFGS
LOGITS = 1 << 26  # at a time: 256 MB


class Fit(Preprocessing):
    """The parameters of the protocol."""

    decay: float | None = Field(
        None,
        gt=0,
        description=f"weight decay, instead of the best of {', '.join(f'{x:g}' for x in DECAYS)} on held-out images",
    )


class Settings(Fit, FeatureSettings, TaskSettings):
    """The options of the task."""

    data: Path = Field(Path("data/imagenet"), description="where the data set lies")


def fit(inputs: Tensor, labels: Tensor, weights: Tensor, decay: float, meter: Meter | None = None) -> Tensor:
    """The weights that minimise mean cross-entropy + decay/2 · |W|², by L-BFGS with a strong-Wolfe line search.

    Args:
        inputs: (N, C).
        labels: (N,), int64.
        weights: (C + 1, classes) to start from; the last row is the bias, which does not decay.
        decay: strength of the penalty, above 0: the minimum is then unique.
        meter: is advanced at each evaluation of the loss.

    Returns:
        (C + 1, classes).
    """
    weights = weights.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=ITERATIONS, tolerance_grad=1e-6, line_search_fn="strong_wolfe")
    rows = max(1, LOGITS // weights.shape[1])

    def closure() -> float:
        optimizer.zero_grad()
        penalty = decay / 2 * weights[:-1].square().sum()
        penalty.backward()
        total = float(penalty.detach())
        for chunk, true in zip(inputs.split(rows), labels.split(rows)):
            loss = F.cross_entropy(logits(chunk, weights), true, reduction="sum") / len(inputs)
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


# --- the task --------------------------------------------------------------------------------------------------------


def open(settings: Settings) -> LabelledFolder:
    """The folder of labelled images; raises UserError if it has no classes or too few images."""
    folder = open_folder(settings.data)
    if settings.decay is None and not held_out(HELD_OUT, folder.train.labels).any():
        raise UserError(f"{settings.data} has one training image per class, so none can be held out: give a --decay")
    return folder


def protocol(settings: Settings, backbone: LoadedBackbone) -> Protocol:
    """The protocol's name and all parameters."""
    own = {
        "classifier": "multinomial logistic regression on features standardised by the training images",
        "solver": f"L-BFGS, at most {ITERATIONS} iterations",
        "weight_decay": settings.decay or list(DECAYS),
        "chosen_on": None
        if settings.decay
        else f"every {HELD_OUT}th training image of a class, from its 2nd; then all",
        "split": split_of(settings.data),
    }
    departing = changed(settings, Fit) + changed(pixels_of(settings, backbone), Pixels)
    return Protocol("linear-logistic@1" + departing, {**features.parameters(settings, backbone), **own})


def evaluate(backbone: LoadedBackbone, dataset: LabelledFolder, settings: Settings, out: Path) -> Evaluation:
    """Top-1 and top-5 in per cent, which images are right, and the weight decay that was chosen."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train, val = (part.to(device) for part in features.features_of_folder(backbone, dataset, settings))
    mean, std = train.mean(0), train.std(0, correction=0).clamp_min(1e-6)
    train, val = (train - mean) / std, (val - mean) / std
    labels = torch.from_numpy(dataset.train.labels).to(device)
    start = torch.zeros(train.shape[1] + 1, len(dataset.classes), device=device)

    decay, notes = settings.decay, features.notes(backbone)
    if decay is None:
        decay, start, line = choose(train, labels, start)
        notes.append(line)
    with Meter("linear", ITERATIONS, "loss evaluations") as meter:
        weights = fit(train, labels, start, decay, meter=meter)
    units = dataset.units(logits(val, weights).cpu())
    return Evaluation(CLASSIFICATION.evaluate(units), units, notes)


def choose(inputs: Tensor, labels: Tensor, start: Tensor) -> tuple[float, Tensor, str]:
    """The decay of :data:`DECAYS` under which held-out inputs are right most often; of equal ones, the strongest.

    Returns:
        the decay, the weights fitted with it, and a line that tells of the choice.
    """
    unseen = torch.from_numpy(held_out(HELD_OUT, labels.cpu().numpy())).to(inputs.device)
    best = (-1.0, 0.0, start)
    weights = start
    for decay in DECAYS:
        with Meter(f"linear, weight decay {decay:g}", ITERATIONS, "loss evaluations") as meter:
            weights = fit(inputs[~unseen], labels[~unseen], weights, decay, meter=meter)
        right = accuracy(inputs[unseen], labels[unseen], weights)
        print(f"linear: weight decay {decay:g}: {right:.2f} % of {int(unseen.sum())} held-out images", flush=True)
        if right > best[0]:
            best = (right, decay, weights)
    right, decay, weights = best
    return decay, weights, f"weight decay {decay:g}, by {right:.2f} % of {int(unseen.sum())} held-out training images"
