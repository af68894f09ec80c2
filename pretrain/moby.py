"""MoBY (Xie et al., arXiv 2105.04553): BYOL's asymmetric networks and MoCo's queues."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfpatch.pretrain.backbone import build_backbone
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.contrastive import ContrastiveHead, KeyQueue, info_nce
from selfpatch.pretrain.method import Method, logged, move_average
from selfpatch.pretrain.schedules import MoBYSchedule
from selfpatch.pretrain.settings import Count, Positive


class MoBYPretraining(Method):
    """An online network predicts, for each of two views, the key network's answer to the other among a queue of keys.

    ``student`` is the online and ``teacher`` the key network; downstream tasks take the online one, as published. All
    networks, the keys' too, stay in training mode: batch norms use, and track, their own batch.

    Args:
        backbone: config of the online backbone; the key network's is the same without drop path.
        hidden_dim, out_dim: widths of projector and predictor.
        queue: how many keys each of the two queues holds.
        temperature: τ.
    """

    display_name = "MoBY"
    downstream = "student"
    smallest_batch = 2  # the heads' batch norms know no variance of one
    schedule_class = MoBYSchedule

    def __init__(
        self,
        backbone: dict,
        hidden_dim: Count = 4096,
        out_dim: Count = 256,
        queue: Count = 4096,
        temperature: Positive = 0.2,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        network = build_backbone(backbone)
        self.add(backbone=network, projector=ContrastiveHead(network.embed_dim, hidden_dim, out_dim))
        self.student["predictor"] = ContrastiveHead(out_dim, hidden_dim, out_dim)
        self.queue1, self.queue2 = KeyQueue(out_dim, queue), KeyQueue(out_dim, queue)

    def check_crops(self, sizes: Sequence[int], local: Sequence[int] = ()) -> None:
        super().check_crops(sizes, local)
        if (given := len(sizes) + len(local)) != 2:
            raise UserError(f"MoBY compares two views of an image, and the config's views give {given}")

    def loss(self, crops: list[Tensor]) -> dict[str, Tensor]:
        """The symmetric loss of two normalised views, (2, B, 3, S, S), or (1, B, 3, S, S) each where sizes differ.

        A backbone has no batch statistics, so that views of one size go through it together.
        """
        features, keys = [], []
        for salt, views in enumerate(crops):
            tokens, _, _ = self.student["backbone"](views.flatten(0, 1), self.noise(views, salt))
            features += by_view(tokens, views)
        queries = self.queries(features)
        self.move_keys()
        with torch.no_grad():
            for views in crops:
                keys += by_view(self.teacher["backbone"](views.flatten(0, 1))[0], views)
            keys = self.keys(keys)
        loss = self.contrast(queries, keys)
        return {"loss": loss, **logged(image=loss)}

    def queries(self, features: list[Tensor]) -> list[Tensor]:
        """The normalised predictions (B, D) of each view's features (B, C); a view has its own batch statistics."""
        return project(features, self.student["projector"], self.student["predictor"])

    def keys(self, features: list[Tensor]) -> list[Tensor]:
        """The normalised key projections (B, D) of each view's features (B, C)."""
        return project(features, self.teacher["projector"])

    def move_keys(self) -> None:
        """Move the key network's parameters; published MoBY does so between the queries and the keys of a step."""
        if self.training:
            for name, part in self.teacher.items():
                move_average(part, self.student[name], self.step.momentum)

    def contrast(self, queries: list[Tensor], keys: list[Tensor]) -> Tensor:
        """Each view's queries against the other view's keys and queue; then the keys enter the queues."""
        (q1, q2), (k1, k2) = queries, keys
        loss = info_nce(q1, k2, self.queue2.negatives(), self.temperature)
        loss = loss + info_nce(q2, k1, self.queue1.negatives(), self.temperature)
        self.queue1.push(k1)
        self.queue2.push(k2)
        return loss


def by_view(outputs: Tensor, views: Tensor) -> list[Tensor]:
    """What a network gave (V·B, ...) for ``views`` (V, B, 3, S, S), one tensor (B, ...) a view."""
    return list(outputs.unflatten(0, views.shape[:2]))


def project(features: list[Tensor], *heads: nn.Module) -> list[Tensor]:
    """Unit rows: each element of ``features`` (n, C) by itself through ``heads``, one head after the other."""
    for head in heads:
        features = [head(rows) for rows in features]
    return [F.normalize(rows.float(), dim=-1) for rows in features]
