"""SelfPatch: patch-level self-supervision for vision transformers (Yun et al., CVPR 2022, arXiv 2206.07990).

Student and teacher, its moving average, see crops of an image. A ViT without [CLS] gives the patch tokens x_i of a crop
(the student's) and y_i (the teacher's); class attention over all of them gives a crop's global token. The loss is

    L = L_cls + λ·L_patch,   λ = 0.1

    L_cls     DINO's (arXiv 2104.14294, equation 3) on the global tokens: the teacher's global crops against all
              other crops of the student; head g, 65,536 outputs.
    L_patch   = mean over crops, images, patches i of  -Σ softmax((h_t(t_i) - center)/τ_t) · log softmax(h_s(s_i)/τ_s)
              within the *same* crop; head h, 4,096 outputs; τ_s = 0.1, τ_t = 0.04.

What stands in L_patch, step by step; section 3.1 and 3.2 of the paper, and where it leaves details open its code:

 1. neighbours       N(i): the 8 patches around patch i, round the edges of the grid (3.1)
 2. match_positives  P(i): the k = 4 of N(i) whose y_j are most similar to y_i by cosine (3.1)
 3. aggregate        t_i = LN(class attention of a learned [CLS] over the raw y_j, j in P(i)), as the global token (3.2)
 4. project          s_i = LN(x_i): the student's patch gets that LayerNorm alone and is *not* aggregated; then the head
 5. loss             cross-entropy of the two; then each center moves, momentum 0.9, to the mean of the teacher's logits

Unlike DINO's, the teacher here sees *all* crops, since L_patch compares each with itself; so the [CLS] center, too, is
the mean over all of them. Gradients reach the student alone.
"""

from functools import lru_cache
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from selfpatch.pretrain.backbone import sent_to
from selfpatch.pretrain.class_attention import ClassAttentionPooling
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.dino import DINOPretraining
from selfpatch.pretrain.heads import DINOHead
from selfpatch.pretrain.losses import move_center, patch_cross_entropy, teacher_probabilities
from selfpatch.pretrain.method import logged
from selfpatch.pretrain.settings import Count, NotNegative, Positive, Share

Neighbourhood = Annotated[int, Field(ge=3)] | Literal["all"]  # the side of an odd window in patches, or all patches
Aggregation = Literal["attention", "mean"]


@lru_cache(maxsize=16)
def neighbours(h: int, w: int, window: int | str = 3, wrap: bool = True) -> Tensor:
    """Which patches surround each patch of an h x w grid.

    Args:
        h, w: the grid.
        window: side of the odd square window around a patch, or "all" for every other patch of the image.
        wrap: whether the window wraps round the edges of the grid, as in the published code.

    Returns:
        (h*w, K) flat row-major indices, ascending in each row, the patch itself left out; without ``wrap`` a patch at
        an edge has fewer, and its row is filled up with -1 at the end.
    """
    N = h * w
    if window == "all":
        return torch.arange(N).repeat(N, 1)[~torch.eye(N, dtype=torch.bool)].view(N, N - 1)
    reach = torch.arange(-(window // 2), window // 2 + 1)
    rows = torch.arange(h).view(h, 1, 1, 1) + reach.view(1, 1, -1, 1)  # (h, 1, window, 1)
    columns = torch.arange(w).view(1, w, 1, 1) + reach.view(1, 1, 1, -1)  # (1, w, 1, window)
    inside = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)  # (h, w, window, window)
    flat = (rows % h * w + columns % w).masked_fill(~(inside | wrap), N).view(N, window**2)  # N sorts behind all others
    others = flat[flat != torch.arange(N).view(N, 1)].view(N, window**2 - 1).sort(dim=1).values
    return others.masked_fill(others == N, -1)


def match_positives(y: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """For each patch, its k most similar candidates by cosine.

    Args:
        y: the teacher's patch tokens (B, N, C).
        candidates: (N, K) from :func:`neighbours`.
        k: how many positives; fewer where a patch has fewer candidates.

    Returns:
        flat indices (B, N, k) of the positives, most similar first, and which of them are valid (B, N, k): all, but for
        a patch with fewer than k candidates.
    """
    candidates = sent_to(y.device, candidates).expand(len(y), -1, -1)  # (B, N, K)
    with torch.autocast(y.device.type, enabled=False):  # the order of near ties needs float32
        unit = F.normalize(y.float(), dim=-1)
        similarity = (unit @ unit.mT).gather(2, candidates.clamp(min=0))  # (B, N, K)
    similarity = similarity.masked_fill(candidates < 0, -torch.inf)
    best, ranks = similarity.topk(min(k, candidates.shape[2]), dim=-1)
    return candidates.gather(2, ranks).clamp(min=0), best > -torch.inf


class PatchAggregation(ClassAttentionPooling):
    """What a patch learns from: its positives, aggregated; and the global token, by the same class attention.

    Args:
        dim, heads: of the backbone.
        neighbourhood: side of the window in which positives are looked for, or "all".
        wrap: whether the window wraps round the edges (as published).
        k: positives a patch.
        aggregation: "attention", or "mean" for the LayerNorm of the positives' mean.
    """

    def __init__(self, dim: int, heads: int, neighbourhood: int | str, wrap: bool, k: int, aggregation: str) -> None:
        if neighbourhood != "all" and (neighbourhood % 2 == 0 or k >= neighbourhood**2):
            wanted = "an odd window, and fewer positives than it has patches"
            raise UserError(f"model.neighbourhood={neighbourhood}, model.k={k}: there must be {wanted}")
        super().__init__(dim, heads)
        self.neighbourhood, self.wrap, self.k, self.aggregation = neighbourhood, wrap, k, aggregation

    def aggregate(self, y: Tensor, tokens: list, positives: Tensor, valid: Tensor) -> Tensor:
        """The target token (B, N, C) of each patch, from its positives; ``tokens`` are :meth:`keys_values` of y."""
        if self.aggregation == "attention":
            return self.pool(tokens, positives, valid)
        ones = torch.zeros(*positives.shape[:2], y.shape[1], device=y.device)
        ones.scatter_(2, positives, valid.float())  # one row of ones and zeros a patch
        return self.norm(ones.to(y.dtype) @ y / valid.sum(-1, keepdim=True))

    def targets(self, y: Tensor, tokens: list, grid: tuple[int, int]) -> Tensor:
        """The target token (B, N, C) of each patch: the first three steps at once."""
        candidates = neighbours(*grid, self.neighbourhood, self.wrap)
        return self.aggregate(y, tokens, *match_positives(y, candidates, self.k))


class SelfPatchPretraining(DINOPretraining):
    """DINO on class-attention [CLS] tokens, plus SelfPatch's loss on every patch.

    Args:
        backbone: config of the backbone; a ViT without [CLS] and without final norm, as published, or a Swin.
        neighbourhood, wrap, k, aggregation: as for :class:`PatchAggregation`.
        patch_loss_weight: λ; at 0 there is no patch level at all ("DINO+Agg").
        patch_out_dim: number of logits of the patch head.
        patch_student_temp, patch_teacher_temp: τ_s and τ_t of the patch level.
        out_dim, hidden_dim, bottleneck_dim, student_temp, center_momentum: as in DINO.
    """

    def __init__(
        self,
        backbone: dict,
        neighbourhood: Neighbourhood = 3,
        wrap: bool = True,
        k: Count = 4,
        aggregation: Aggregation = "attention",
        patch_loss_weight: NotNegative = 0.1,
        patch_out_dim: Count = 4096,
        patch_student_temp: Positive = 0.1,
        patch_teacher_temp: Positive = 0.04,
        out_dim: Count = 65536,
        hidden_dim: Count = 2048,
        bottleneck_dim: Count = 256,
        student_temp: Positive = 0.1,
        center_momentum: Share = 0.9,
    ) -> None:
        super().__init__(backbone, out_dim, hidden_dim, bottleneck_dim, student_temp, center_momentum)
        self.patch_loss_weight = patch_loss_weight
        self.patch_student_temp, self.patch_teacher_temp = patch_student_temp, patch_teacher_temp
        dim, heads = self.student["backbone"].embed_dim, self.student["backbone"].heads
        self.add(aggregation=PatchAggregation(dim, heads, neighbourhood, wrap, k, aggregation))
        if patch_loss_weight:
            self.neighbourhood = neighbourhood
            self.add(patch_head=DINOHead(dim, patch_out_dim, hidden_dim, bottleneck_dim))
            self.register_buffer("patch_center", torch.zeros(patch_out_dim))

    @property
    def display_name(self) -> str:
        """The row's name in the reports: without a patch loss only the aggregated [CLS] is left."""
        return "DINO+SelfPatch" if self.patch_loss_weight else "DINO+Agg"

    def loss(self, crops: list[Tensor]) -> dict[str, Tensor]:
        """L_cls + λ·L_patch of normalised crops, one tensor (V, B, 3, S, S) for each size, the global crops first."""
        student, teacher = self.student["aggregation"], self.teacher["aggregation"]
        student_cls, teacher_cls, patches, targets, weights = [], [], [], [], []
        crops_of_image = sum(len(views) for views in crops)
        for salt, views in enumerate(crops):
            V, B = views.shape[:2]
            _, x, _ = self.student["backbone"](views.flatten(0, 1), self.noise(views, salt))  # (V·B, N, C)
            student_cls.append(student.pool_all(student.keys_values(x)).view(V, B, -1))
            with torch.no_grad():
                _, y, grid = self.teacher["backbone"](views.flatten(0, 1))
                tokens = teacher.keys_values(y)
                teacher_cls.append(teacher.pool_all(tokens).view(V, B, -1))
                if self.patch_loss_weight:
                    candidates = neighbours(*grid, teacher.neighbourhood, teacher.wrap)
                    positives, valid = match_positives(y, candidates, teacher.k)
                    targets.append(teacher.aggregate(y, tokens, positives, valid).flatten(0, 1))  # (V·B·N, C)
            patches.append(x.flatten(0, 1))
            weights.append(x.new_full((len(patches[-1]),), 1 / (crops_of_image * B * x.shape[1]), dtype=torch.float32))

        cls_loss = self.distil_cls(torch.cat(student_cls), torch.cat(teacher_cls), teacher_crops=len(crops[0]))
        if not self.patch_loss_weight:
            return {"loss": cls_loss, **logged(cls=cls_loss)}
        logits, target_logits, mean = self.project(torch.cat(patches), torch.cat(targets))
        temperatures = (self.patch_student_temp, self.patch_teacher_temp)
        patch_loss = patch_cross_entropy(logits, target_logits, self.patch_center, torch.cat(weights), *temperatures)
        move_center(self.patch_center, mean, self.center_momentum)
        return {"loss": cls_loss + self.patch_loss_weight * patch_loss, **logged(cls=cls_loss, patch=patch_loss)}

    def project(self, patches: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (T, K) of the student's patches (T, C), of their targets (T, C), and the mean (K,) of the latter."""
        with torch.no_grad():
            target_logits, mean = self.teacher["patch_head"].with_mean(targets)
        return self.student["patch_head"](self.student["aggregation"].norm(patches)), target_logits, mean

    @torch.no_grad()
    def diagnose(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        aggregation = self.teacher["aggregation"]
        _, y, grid = self.teacher["backbone"](images)
        tokens = aggregation.keys_values(y)
        targets = {"cls": self.cls_targets(aggregation.pool_all(tokens))}
        if self.patch_loss_weight:
            logits = self.teacher["patch_head"](aggregation.targets(y, tokens, grid).flatten(0, 1))
            targets["patch"] = teacher_probabilities(logits, self.patch_center, self.patch_teacher_temp)
        return y, targets
