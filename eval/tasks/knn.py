"""k-NN classification: how well neighbours among frozen features tell the class of an image.

Protocol ``knn-dino@1``, as published with DINO (arXiv 2104.14294, appendix F): the k nearest training images by cosine
vote, each with the weight exp(cosine / T) (arXiv 1805.01978, section 3.4). Nothing is trained.
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
from selfpatch.eval.datasets.image_folder import LabelledFolder, open_folder, split_of
from selfpatch.eval.tasks import TaskSettings
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.progress import Meter
from selfpatch.pretrain.settings import as_json, changed
from selfpatch.reports.metrics import CLASSIFICATION
from selfpatch.reports.record import Evaluation, Protocol

TITLE = "k-NN classification"
HEADLINE = ["top-1"]
MEASURE = CLASSIFICATION
SOURCE = "imagenet"
SIMILARITIES = 1 << 26  # at a time: 256 MB


class Vote(Preprocessing):
    """The parameters of the protocol."""

    k: int = Field(20, ge=1, description="how many neighbours vote")
    temperature: float = Field(  # exp(1 / 0.01) = 3e43 would overflow float32
        0.07, ge=0.02, description="a vote weighs exp(cosine / temperature)"
    )


class Settings(Vote, FeatureSettings, TaskSettings):
    """The options of the task."""

    data: Path = Field(Path("data/imagenet"), description="where the data set lies")


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


# --- the task --------------------------------------------------------------------------------------------------------


def open(settings: Settings) -> LabelledFolder:
    """The folder of labelled images; raises UserError if it has no classes or too few images."""
    folder = open_folder(settings.data)
    if settings.k > len(folder.train):
        images = f"{settings.data} has {len(folder.train)} images to learn from"
        raise UserError(f"--k {settings.k}: {images}; choose 1 to that many")
    return folder


def protocol(settings: Settings, backbone: LoadedBackbone) -> Protocol:
    """The protocol's name and all parameters."""
    own = {**features.parameters(settings, backbone), **as_json(settings, Vote), "split": split_of(settings.data)}
    departing = changed(settings, Vote) + changed(pixels_of(settings, backbone), Pixels)
    return Protocol("knn-dino@1" + departing, own)


def evaluate(backbone: LoadedBackbone, dataset: LabelledFolder, settings: Settings, out: Path) -> Evaluation:
    """Top-1 and top-5 in per cent, and which images are right."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train, val = features.features_of_folder(backbone, dataset, settings)
    train, labels = F.normalize(train).to(device), torch.from_numpy(dataset.train.labels).to(device)
    rows = max(1, SIMILARITIES // len(train))
    scores = []
    with Meter("k-NN", len(val), "images") as meter:
        for queries in F.normalize(val).split(rows):
            votes = knn_votes(train, labels, queries.to(device), len(dataset.classes), settings.k, settings.temperature)
            scores.append(votes.cpu())
            meter.advance(len(queries))
    units = dataset.units(torch.cat(scores))
    return Evaluation(CLASSIFICATION.evaluate(units), units, features.notes(backbone))
