"""MoBY (Xie et al., arXiv 2105.04553): BYOL's asymmetric networks and MoCo's queues; and SelfPatch on top of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.dist import get_dist_info
from mmengine.registry import MODELS
from torch import Tensor, nn

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.contrastive import ContrastiveHead, KeyQueue, info_nce
from selfpatch.pretrain.method import Method, frozen_copy, logged, move_average, seed_of
from selfpatch.pretrain.schedules import MoBYSchedule
from selfpatch.pretrain.selfpatch import AggregationModule, check_grids, check_neighbourhood, patch_targets


@MODELS.register_module()
class MoBYPretraining(Method):
    """An online network predicts, for each of two views, the key network's answer to the other among a queue of keys.

    ``student`` is the online and ``teacher`` the key network; downstream tasks take the online one, as published.

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
        hidden_dim: int = 4096,
        out_dim: int = 256,
        queue: int = 4096,
        temperature: float = 0.2,
    ) -> None:
        super().__init__()
        if queue < 1 or not temperature > 0:
            raise UserError(f"model.queue={queue}, model.temperature={temperature}: both must be above 0")
        self.temperature = temperature
        network = MODELS.build(backbone)
        self.student = nn.ModuleDict(
            {
                "backbone": network,
                "projector": ContrastiveHead(network.embed_dim, hidden_dim, out_dim),
                "predictor": ContrastiveHead(out_dim, hidden_dim, out_dim),
            }
        )
        self.queue1, self.queue2 = KeyQueue(out_dim, queue), KeyQueue(out_dim, queue)
        self.make_teacher({key: value for key, value in backbone.items() if key != "drop_path_rate"})

    def make_teacher(self, backbone: dict) -> None:
        """Start the key network as a copy of the online one, but for predictors and drop path.

        Like the online one it stays in training mode: its batch norms use, and track, their own batch.
        """
        kept = {name: part for name, part in self.student.items() if not name.endswith("predictor")}
        self.teacher = frozen_copy(nn.ModuleDict(kept))
        without_drop_path = MODELS.build(backbone).requires_grad_(False)
        without_drop_path.load_state_dict(self.student["backbone"].state_dict())
        self.teacher["backbone"] = without_drop_path

    def check_crops(self, sizes: Sequence[int], local: Sequence[int] = ()) -> None:
        """Refuse anything but two views."""
        super().check_crops(sizes, local)
        if (given := len(sizes) + len(local)) != 2:
            raise UserError(f"MoBY compares two views of an image, and the config's views give {given}")

    def loss(self, crops: list[Tensor]) -> dict[str, Tensor]:
        """The symmetric loss of two normalised views, (2, B, 3, S, S), or (1, B, 3, S, S) each where sizes differ."""
        features = [view for salt, views in enumerate(crops) for view in self.embed_online(views, salt)]
        queries = self.queries(features)
        self.move_keys()
        with torch.no_grad():
            keys = self.keys([view for views in crops for view in self.embed_key(views)])
        loss = self.contrast(queries, keys)
        return {"loss": loss, **logged(image=loss)}

    def embed_online(self, views: Tensor, salt: int) -> Tensor:
        """The online global features (V, B, C) of views (V, B, 3, S, S) of one size.

        Its backbone has no batch statistics, so that the views can go through it together.
        """
        V, B = views.shape[:2]
        backbone = self.student["backbone"]
        return backbone(views.flatten(0, 1), self.noise(V, B, backbone, salt))[0].view(V, B, -1)

    @torch.no_grad()
    def embed_key(self, views: Tensor) -> Tensor:
        """The key network's global features (V, B, C) of views (V, B, 3, S, S) of one size."""
        return self.teacher["backbone"](views.flatten(0, 1))[0].view(*views.shape[:2], -1)

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


def project(features: list[Tensor], *heads: nn.Module) -> list[Tensor]:
    """Unit rows: each element of ``features`` (n, C) by itself through ``heads``, one head after the other."""
    for head in heads:
        features = [head(rows) for rows in features]
    return [F.normalize(rows.float(), dim=-1) for rows in features]


@MODELS.register_module()
class MoBYSelfPatchPretraining(MoBYPretraining):
    """MoBY plus SelfPatch's loss on every patch, with positives only or with negatives.

    The paper (arXiv 2206.07990) reports SelfPatch on MoBY in both variants, and its published code holds neither. What
    is here is this project's reading, which changes as little of either method as can be:

    - as on DINO, the global feature of both networks comes from the aggregation module, which is so trained;
    - as on DINO, targets are of the *same* view: a patch of the online network answers to what the key network
      aggregates from that patch's positives;
    - as in MoBY, both sides are compared as unit vectors after a projector (and, online, a predictor) of their own, a
      view at a time;
    - positives only: 2 - 2·cosine, BYOL's loss (arXiv 2006.07733, equation 2);
    - with negatives: InfoNCE against a queue of patch keys a view. All keys of a batch would fill it with the patches
      of a few images, so each image and view gives :attr:`patch_keys` of them, drawn from an address;
    - the loss is MoBY's plus λ times the mean over views and patches.

    Args:
        negatives: whether other patches are negatives.
        patch_queue: how many patch keys each of the two queues holds (with negatives).
        patch_keys: how many patches of an image and view enter its queue (with negatives).
        patch_temperature: τ of the patch level (with negatives).
        neighbourhood, wrap, k, aggregation, patch_loss_weight: as in SelfPatch on DINO.
        backbone, hidden_dim, out_dim, queue, temperature: as in MoBY; the patch heads are as wide as the others.
    """

    def __init__(
        self,
        backbone: dict,
        negatives: bool = False,
        patch_queue: int = 4096,
        patch_keys: int = 1,
        patch_temperature: float = 0.2,
        neighbourhood: int | str = 3,
        wrap: bool = True,
        k: int = 4,
        aggregation: str = "attention",
        patch_loss_weight: float = 0.1,
        hidden_dim: int = 4096,
        out_dim: int = 256,
        queue: int = 4096,
        temperature: float = 0.2,
    ) -> None:
        super().__init__(backbone, hidden_dim, out_dim, queue, temperature)
        check_neighbourhood(neighbourhood, k, aggregation)
        if min(patch_queue, patch_keys) < 1 or not patch_temperature > 0:
            raise UserError("model.patch_queue, model.patch_keys and model.patch_temperature must be above 0")
        self.neighbourhood, self.wrap, self.k, self.aggregation = neighbourhood, wrap, k, aggregation
        self.negatives, self.patch_keys, self.patch_temperature = negatives, patch_keys, patch_temperature
        self.patch_loss_weight = patch_loss_weight
        network = self.student["backbone"]
        self.student["aggregation"] = AggregationModule(network.embed_dim, network.heads)
        if patch_loss_weight:
            self.student["patch_projector"] = ContrastiveHead(network.embed_dim, hidden_dim, out_dim)
            self.student["patch_predictor"] = ContrastiveHead(out_dim, hidden_dim, out_dim)
            if negatives:
                self.patch_queue1, self.patch_queue2 = KeyQueue(out_dim, patch_queue), KeyQueue(out_dim, patch_queue)
        self.make_teacher({key: value for key, value in backbone.items() if key != "drop_path_rate"})

    @property
    def display_name(self) -> str:
        """The row's name in the reports: without a patch loss only the aggregated global feature is left."""
        if not self.patch_loss_weight:
            return "MoBY+Agg"
        return f"MoBY+SelfPatch ({'with negatives' if self.negatives else 'positives only'})"

    def check_crops(self, sizes: Sequence[int], local: Sequence[int] = ()) -> None:
        """Refuse anything but two views, and views whose grid is smaller than the neighbourhood."""
        super().check_crops(sizes, local)
        if self.patch_loss_weight:
            check_grids([*sizes, *local], self.student["backbone"], self.neighbourhood)

    def loss(self, crops: list[Tensor]) -> dict[str, Tensor]:
        """MoBY's loss + λ·L_patch of two normalised views, (2, B, 3, S, S), or (1, B, 3, S, S) each."""
        online = [view for salt, views in enumerate(crops) for view in self.embed_online(views, salt)]
        features, patches = zip(*online)
        queries = self.queries(list(features))
        if self.patch_loss_weight:
            patch_queries = project(list(patches), self.student["patch_projector"], self.student["patch_predictor"])
        self.move_keys()
        with torch.no_grad():
            features, targets = zip(*(view for views in crops for view in self.embed_key(views)))
            keys = self.keys(list(features))

        loss = image_loss = self.contrast(queries, keys)
        parts = {"image": image_loss}
        if self.patch_loss_weight:
            with torch.no_grad():
                patch_keys = project(list(targets), self.teacher["patch_projector"])
            parts["patch"] = self.contrast_patches(patch_queries, patch_keys, images=len(keys[0]))
            loss = image_loss + self.patch_loss_weight * parts["patch"]
        return {"loss": loss, **logged(**parts)}

    def embed_online(self, views: Tensor, salt: int) -> list[tuple[Tensor, Tensor]]:
        """For each view of (V, B, 3, S, S): the online global features (B, C), normalised patch tokens (B·N, C)."""
        V, B = views.shape[:2]
        backbone, aggregation = self.student["backbone"], self.student["aggregation"]
        _, x, _ = backbone(views.flatten(0, 1), self.noise(V, B, backbone, salt))  # (V·B, N, C)
        features = aggregation.global_token(aggregation.keys_values(x)).view(V, B, -1)
        return list(zip(features, aggregation.norm(x).view(V, -1, x.shape[-1])))

    @torch.no_grad()
    def embed_key(self, views: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """For each view of (V, B, 3, S, S): the key network's global features (B, C) and patch targets (B·N, C)."""
        V, B = views.shape[:2]
        aggregation = self.teacher["aggregation"]
        _, x, grid = self.teacher["backbone"](views.flatten(0, 1))
        keys_values = aggregation.keys_values(x)
        features = aggregation.global_token(keys_values).view(V, B, -1)
        if not self.patch_loss_weight:
            return [(view, None) for view in features]
        options = (self.neighbourhood, self.wrap, self.k, self.aggregation)
        targets = patch_targets(aggregation, x, keys_values, grid, *options)
        return list(zip(features, targets.view(V, -1, x.shape[-1])))

    def contrast_patches(self, queries: list[Tensor], keys: list[Tensor], images: int) -> Tensor:
        """The mean over the views of each patch's loss against its own target; queries and keys (B·N, D) a view."""
        if not self.negatives:
            return sum((2 - 2 * (q * k).sum(-1)).mean() for q, k in zip(queries, keys)) / len(queries)
        loss = 0
        for number, (q, k, queue) in enumerate(zip(queries, keys, (self.patch_queue1, self.patch_queue2))):
            loss = loss + info_nce(q, k, queue.negatives(), self.patch_temperature) / len(queries)
            queue.push(self.some_keys(k.unflatten(0, (images, -1)), number))
        return loss

    def some_keys(self, keys: Tensor, salt: int) -> Tensor:
        """:attr:`patch_keys` different patches of each image (B, N, D) -> (B, n, D), the same however it is shared."""
        B, N, D = keys.shape
        rank, world = get_dist_info()
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.iteration, 1000 + salt))
        order = torch.rand(B * world, N, generator=generator).argsort(1)[rank::world, : self.patch_keys]  # (B, n)
        return keys.gather(1, order.to(keys.device).unsqueeze(-1).expand(-1, -1, D))
