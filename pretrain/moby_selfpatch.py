"""SelfPatch's patch level on top of MoBY.

The paper (arXiv 2206.07990) reports SelfPatch on MoBY with positives only and with negatives, and its published code
holds neither. What is here is this project's reading, which changes as little of either method as can be:

- as on DINO, the global feature of both networks comes from the aggregation module, which is so trained;
- as on DINO, targets are of the *same* view: a patch of the online network answers to what the key network aggregates
  from that patch's positives;
- as in MoBY, both sides are compared as unit vectors after a projector (and, online, a predictor) of their own, a view
  at a time;
- positives only: 2 - 2·cosine, BYOL's loss (arXiv 2006.07733, equation 2);
- with negatives: InfoNCE against a queue of patch keys a view. All keys of a batch would fill it with the patches of a
  few images, so each image and view gives a few of them (``patch_keys``), drawn from an address;
- the loss is MoBY's plus λ times the mean over views and patches.
"""

import torch
from mmengine.dist import get_dist_info
from torch import Tensor

from selfpatch.pretrain.backbone import sent_to
from selfpatch.pretrain.contrastive import ContrastiveHead, KeyQueue, info_nce
from selfpatch.pretrain.method import logged, seed_of
from selfpatch.pretrain.moby import MoBYPretraining, by_view, project
from selfpatch.pretrain.selfpatch import Aggregation, Neighbourhood, PatchAggregation
from selfpatch.pretrain.settings import Count, NotNegative, Positive


class MoBYSelfPatchPretraining(MoBYPretraining):
    """MoBY plus SelfPatch's loss on every patch, with positives only or with negatives.

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
        patch_queue: Count = 4096,
        patch_keys: Count = 1,
        patch_temperature: Positive = 0.2,
        neighbourhood: Neighbourhood = 3,
        wrap: bool = True,
        k: Count = 4,
        aggregation: Aggregation = "attention",
        patch_loss_weight: NotNegative = 0.1,
        hidden_dim: Count = 4096,
        out_dim: Count = 256,
        queue: Count = 4096,
        temperature: Positive = 0.2,
    ) -> None:
        super().__init__(backbone, hidden_dim, out_dim, queue, temperature)
        self.negatives, self.patch_keys, self.patch_temperature = negatives, patch_keys, patch_temperature
        self.patch_loss_weight = patch_loss_weight
        dim, heads = self.student["backbone"].embed_dim, self.student["backbone"].heads
        self.add(aggregation=PatchAggregation(dim, heads, neighbourhood, wrap, k, aggregation))
        if patch_loss_weight:
            self.neighbourhood = neighbourhood
            self.add(patch_projector=ContrastiveHead(dim, hidden_dim, out_dim))
            self.student["patch_predictor"] = ContrastiveHead(out_dim, hidden_dim, out_dim)
            if negatives:
                self.patch_queue1, self.patch_queue2 = KeyQueue(out_dim, patch_queue), KeyQueue(out_dim, patch_queue)

    @property
    def display_name(self) -> str:
        """The row's name in the reports: without a patch loss only the aggregated global feature is left."""
        if not self.patch_loss_weight:
            return "MoBY+Agg"
        return f"MoBY+SelfPatch ({'with negatives' if self.negatives else 'positives only'})"

    def loss(self, crops: list[Tensor]) -> dict[str, Tensor]:
        """MoBY's loss + λ·L_patch of two normalised views, (2, B, 3, S, S), or (1, B, 3, S, S) each."""
        student, features, patches = self.student["aggregation"], [], []
        for salt, views in enumerate(crops):
            _, x, _ = self.student["backbone"](views.flatten(0, 1), self.noise(views, salt))  # (V·B, N, C)
            features += by_view(student.pool_all(student.keys_values(x)), views)
            patches += [view.flatten(0, 1) for view in by_view(student.norm(x), views)]  # (B·N, C)
        queries = self.queries(features)
        if self.patch_loss_weight:
            patch_queries = project(patches, self.student["patch_projector"], self.student["patch_predictor"])
        self.move_keys()
        with torch.no_grad():
            features, targets = self.key_features(crops)
            keys = self.keys(features)

        loss = image_loss = self.contrast(queries, keys)
        if not self.patch_loss_weight:
            return {"loss": loss, **logged(image=image_loss)}
        with torch.no_grad():
            patch_keys = project(targets, self.teacher["patch_projector"])
        patch_loss = self.contrast_patches(patch_queries, patch_keys, images=len(keys[0]))
        loss = image_loss + self.patch_loss_weight * patch_loss
        return {"loss": loss, **logged(image=image_loss, patch=patch_loss)}

    @torch.no_grad()
    def key_features(self, crops: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The key network's global features (B, C) of each view, and what each of its patches answers to (B·N, C)."""
        teacher, features, targets = self.teacher["aggregation"], [], []
        for views in crops:
            _, y, grid = self.teacher["backbone"](views.flatten(0, 1))
            tokens = teacher.keys_values(y)
            features += by_view(teacher.pool_all(tokens), views)
            if self.patch_loss_weight:
                targets += [view.flatten(0, 1) for view in by_view(teacher.targets(y, tokens, grid), views)]
        return features, targets

    def contrast_patches(self, queries: list[Tensor], keys: list[Tensor], images: int) -> Tensor:
        """The mean over the views of each patch's loss against its own target; queries and keys (B·N, D) a view."""
        if not self.negatives:
            return sum((2 - 2 * (q * k).sum(-1)).mean() for q, k in zip(queries, keys)) / len(queries)
        loss = 0
        for number, (q, k, queue) in enumerate(zip(queries, keys, (self.patch_queue1, self.patch_queue2))):
            loss = loss + info_nce(q, k, queue.negatives(), self.patch_temperature) / len(queries)
            queue.push(self.drawn_keys(k.unflatten(0, (images, -1)), number))
        return loss

    def drawn_keys(self, keys: Tensor, salt: int) -> Tensor:
        """:attr:`patch_keys` different patches of each image (B, N, D) -> (B, n, D), the same however it is shared."""
        B, N, D = keys.shape
        rank, world = get_dist_info()
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.iteration, 1000 + salt))
        order = torch.rand(B * world, N, generator=generator).argsort(1)[rank::world, : self.patch_keys]  # (B, n)
        return keys.gather(1, sent_to(keys.device, order).unsqueeze(-1).expand(-1, -1, D))
