"""Cheap figures of a network while it is pretrained: k-NN on a folder of images, and the rank of its features."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image
from torch import Tensor

from selfpatch.pretrain.backbone import Backbone
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.folders import list_files
from selfpatch.pretrain.images import read_picture
from selfpatch.pretrain.runner import unwrapped

BATCH = 32  # images that are encoded at a time
DENSE = 64  # images whose patch tokens the rank of patch tokens is taken of


class Probe(Hook):
    """Every ``interval`` epochs, and after the last, logs figures of the network that downstream tasks take.

    - ``probe_knn``: the share, in per cent, of images whose class the 10 nearest other images tell; the folders of
      ``root`` are the classes, without two of them there is no such figure;
    - ``probe_rankme`` and ``probe_patch_rankme``: :func:`rankme` of the images' features and of patch tokens.

    It draws no random number and changes no weight: a run is the same with and without it.

    Args:
        root: the folder of images.
        interval: epochs between figures.
        side: pixels of the squares that images are squashed to.
        most: images that are used, evenly spread over the folder.

    Raises:
        UserError: there are fewer than two images.
    """

    def __init__(self, root: Path, interval: int, side: int, most: int = 1000) -> None:
        paths = list_files(root).paths
        if len(paths) < 2:
            raise UserError(f"--probe {root} holds {len(paths)} images: give a folder of images, better one of classes")
        self.paths = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, most).round().astype(int))]
        classes = [path.relative_to(root).parts[0] if path.parent != root else "" for path in self.paths]
        self.labels = torch.from_numpy(np.unique(classes, return_inverse=True)[1])
        self.interval, self.side = interval, side

    def after_train_epoch(self, runner: Runner) -> None:
        """Look at the network, on the first process."""
        last = runner.epoch + 1 == runner.max_epochs
        if is_main_process() and (last or self.every_n_epochs(runner, self.interval)):
            found = self.figures(unwrapped(runner.model).backbone)
            runner.visualizer.add_scalars(found, step=runner.iter)
            runner.logger.info("probe  %s", "  ".join(f"{name}: {value:.2f}" for name, value in found.items()))

    @torch.no_grad()
    def figures(self, backbone: Backbone) -> dict[str, float]:
        """What the probe says of a network."""
        mode, features, tokens = backbone.training, [], []
        backbone.eval()
        for start in range(0, len(self.paths), BATCH):
            images = torch.stack([self._image(path) for path in self.paths[start : start + BATCH]])
            mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
            one, patches, _ = backbone(((images - mean) / std).to(next(backbone.parameters()).device))
            features.append(one.float().cpu())
            tokens += [patches.flatten(0, 1).float().cpu()] * (start < DENSE)
        backbone.train(mode)
        features = torch.cat(features)
        found = {"probe_knn": nearest_accuracy(features, self.labels)} if self.labels.max() else {}
        return found | {"probe_rankme": rankme(features), "probe_patch_rankme": rankme(torch.cat(tokens))}

    def _image(self, path: Path) -> Tensor:
        picture = Image.fromarray(read_picture(path)).resize((self.side, self.side), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def rankme(features: Tensor) -> float:
    """How many dimensions features (N, C) fill, smoothly counted: 1 … min(N, C).

    RankMe (arXiv 2210.02885, equation 1): the exponential of the entropy of the singular values' shares.
    """
    squares = torch.linalg.eigvalsh(features.double().T @ features.double()).clamp(min=0)
    shares = squares.sqrt() / squares.sqrt().sum().clamp(min=1e-12)
    return float(torch.special.entr(shares).sum().exp())


def nearest_accuracy(features: Tensor, labels: Tensor, k: int = 10, temperature: float = 0.07) -> float:
    """The share in per cent of features (N, C) whose label (N,) their k nearest others vote for.

    Votes are weighted by exp(cosine / temperature), as in DINO's k-NN (arXiv 2104.14294, appendix).
    """
    unit = F.normalize(features, dim=-1)
    cosines = (unit @ unit.T).fill_diagonal_(-torch.inf)
    near, at = cosines.topk(min(k, len(labels) - 1), dim=1)
    votes = F.one_hot(labels[at]).float() * (near / temperature).exp().unsqueeze(-1)  # (N, k, classes)
    return 100 * float((votes.sum(1).argmax(1) == labels).float().mean())
