"""SelfPatch: patch-level self-supervision for vision transformers (Yun et al., arXiv 2206.07990).

The paper's steps, in its order: neighbours -> match_positives -> aggregate -> project -> loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.dino import DINOPretraining
from selfpatch.pretrain.heads import DINOHead
from selfpatch.pretrain.losses import move_centre, patch_cross_entropy, teacher_probabilities
from selfpatch.pretrain.method import logged
from selfpatch.pretrain.vit import LAYER_NORM_EPS, MLP


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
    flat = (rows % h) * w + columns % w
    if not wrap:
        flat = flat.masked_fill(~inside, N)  # N sorts behind every patch
    flat = flat.view(N, window * window)
    others = flat[flat != torch.arange(N).view(N, 1)].view(N, window * window - 1).sort(dim=1).values
    return others.masked_fill(others == N, -1)


def match_positives(x: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """For each patch, its k most similar candidates by cosine (arXiv 2206.07990, section 3.1).

    Args:
        x: the teacher's patch tokens (B, N, C).
        candidates: (N, K) from :func:`neighbours`.
        k: how many positives; fewer where a patch has fewer candidates.

    Returns:
        ranks (B, N, k) of the positives within their row of ``candidates``, most similar first, and which of them are
        real (B, N, k): all, but for a patch with fewer than k candidates.
    """
    with torch.autocast(x.device.type, enabled=False):  # the order of near ties needs float32
        unit = F.normalize(x.float(), dim=-1)
        similarity = (unit @ unit.mT).gather(2, candidates.clamp(min=0).expand(len(x), -1, -1))  # (B, N, K)
    similarity = similarity.masked_fill(candidates < 0, -torch.inf)
    best, ranks = similarity.topk(k, dim=-1)
    return ranks, best > -torch.inf


class ClassAttentionBlock(nn.Module):
    """Class attention (CaiT, arXiv 2103.17239, section 3): one token asks, itself and a set of tokens answer.

    Keys and values depend on the set's tokens alone, so they are computed once a token and shared by every set that
    the token is in.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = nn.ModuleDict({name: nn.Linear(dim, dim) for name in ("q", "k", "v", "proj")})
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = MLP(dim, 4 * dim)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (..., C) of tokens (..., C)."""
        z = self.norm1(x)
        return self.attn["k"](z), self.attn["v"](z)

    def forward(self, c: Tensor, keys: Tensor, values: Tensor, real: Tensor | None = None) -> Tensor:
        """One update of the asking tokens c (M, C), or (1, C) for one that asks M sets.

        Args:
            c: the asking tokens.
            keys, values: (M, n, C) of each set.
            real: (M, n) which tokens of a set count; None: all.
        """
        M, _, C = keys.shape
        split = (self.heads, C // self.heads)
        z = self.norm1(c)
        q = (self.attn["q"](z) * split[1] ** -0.5).unflatten(-1, split)  # (M or 1, heads, d)
        own_key, own_value = self.attn["k"](z).unflatten(-1, split), self.attn["v"](z).unflatten(-1, split)
        own = (q * own_key).sum(-1).expand(M, -1)  # (M, heads)
        others = (q.unsqueeze(1) * keys.unflatten(-1, split)).sum(-1)  # (M, n, heads)
        if real is not None:
            others = others.masked_fill(~real.unsqueeze(-1), -torch.inf)
        share = torch.cat([own.unsqueeze(1), others], dim=1).softmax(1).unsqueeze(-1)  # (M, 1 + n, heads, 1)
        mixed = share[:, 0] * own_value + (share[:, 1:] * values.unflatten(-1, split)).sum(1)  # (M, heads, d)
        c = c + self.attn["proj"](mixed.flatten(1))
        return c + self.mlp(self.norm2(c))


class AggregationModule(nn.Module):
    """A learned [CLS] token, two class-attention blocks and a LayerNorm: any set of patch tokens becomes one token.

    SelfPatch (arXiv 2206.07990, section 3.2): the whole image's tokens give the global token, a patch's positives its
    target.

    Args:
        dim: width of the tokens.
        heads: attention heads, as in the backbone.
        depth: number of class-attention blocks.
    """

    def __init__(self, dim: int, heads: int, depth: int = 2) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, dim), std=0.02))
        self.blocks = nn.ModuleList(ClassAttentionBlock(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def keys_values(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Each block's keys and values (B, N, C) of patch tokens (B, N, C)."""
        return [block.keys_values(x) for block in self.blocks]

    def global_token(self, keys_values: list[tuple[Tensor, Tensor]]) -> Tensor:
        """One normalised token an image (B, C), from all its patches."""
        c = self.cls_token[0]
        for block, (keys, values) in zip(self.blocks, keys_values):
            c = block(c, keys, values)
        return self.norm(c)

    def aggregate(self, keys_values: list[tuple[Tensor, Tensor]], positives: Tensor, real: Tensor) -> Tensor:
        """One normalised token a patch (B, N, C), from its positives.

        Args:
            keys_values: of all patches, from :meth:`keys_values`.
            positives: (B, N, k) flat indices of each patch's positives.
            real: (B, N, k) which of them count.
        """
        B, N, k = positives.shape
        rows = (positives + N * torch.arange(B, device=positives.device).view(B, 1, 1)).view(B * N, k)
        real = None if real.all() else real.view(B * N, k)
        c = self.cls_token[0]
        for block, (keys, values) in zip(self.blocks, keys_values):
            c = block(c, keys.flatten(0, 1)[rows], values.flatten(0, 1)[rows], real)
        return self.norm(c).view(B, N, -1)


@MODELS.register_module()
class SelfPatchPretraining(DINOPretraining):
    """DINO on a class-attention [CLS], plus SelfPatch's loss on every patch.

    Args:
        backbone: config of the backbone; a ViT without [CLS] and without final norm, as published, or a Swin.
        neighbourhood: side of the window in which positives are looked for, or "all".
        wrap: whether the window wraps round the edges (as published).
        k: positives a patch.
        aggregation: "attention", or "mean" for the mean of the positives.
        patch_loss_weight: λ; at 0 there is no patch level at all ("DINO+Agg").
        patch_out_dim: number of logits of the patch head.
        patch_student_temp, patch_teacher_temp: τ_s and τ_t of the patch level.
        out_dim, hidden_dim, bottleneck_dim, student_temp, centre_momentum: as in DINO.
    """

    def __init__(
        self,
        backbone: dict,
        neighbourhood: int | str = 3,
        wrap: bool = True,
        k: int = 4,
        aggregation: str = "attention",
        patch_loss_weight: float = 0.1,
        patch_out_dim: int = 4096,
        patch_student_temp: float = 0.1,
        patch_teacher_temp: float = 0.04,
        out_dim: int = 65536,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        student_temp: float = 0.1,
        centre_momentum: float = 0.9,
    ) -> None:
        super().__init__(backbone, out_dim, hidden_dim, bottleneck_dim, student_temp, centre_momentum)
        check_neighbourhood(neighbourhood, k, aggregation)
        self.neighbourhood, self.wrap, self.k, self.aggregation = neighbourhood, wrap, k, aggregation
        self.patch_loss_weight = patch_loss_weight
        self.patch_student_temp, self.patch_teacher_temp = patch_student_temp, patch_teacher_temp
        network = self.student["backbone"]
        self.student["aggregation"] = AggregationModule(network.embed_dim, network.heads)
        if patch_loss_weight:
            self.student["patch_head"] = DINOHead(network.embed_dim, patch_out_dim, hidden_dim, bottleneck_dim)
            self.register_buffer("patch_centre", torch.zeros(patch_out_dim))
        self.make_teacher()

    @property
    def display_name(self) -> str:
        """The row's name in the reports: without a patch loss only the aggregated [CLS] is left."""
        return "DINO+SelfPatch" if self.patch_loss_weight else "DINO+Agg"

    def check_crops(self, sizes: Sequence[int], local: Sequence[int] = ()) -> None:
        """As DINO's; and refuse a grid that is smaller than the neighbourhood: a wrapped window would meet itself."""
        super().check_crops(sizes, local)
        if self.patch_loss_weight:
            check_grids([*sizes, *local], self.student["backbone"], self.neighbourhood)

    def loss(self, crops: list[Tensor]) -> dict[str, Tensor]:
        """L_cls + λ·L_patch of normalised crops, one tensor (V, B, 3, S, S) a group, the global crops first."""
        cls_tokens, student_patches, bottlenecks, targets, weights = [], [], [], [], []
        V_all = sum(len(views) for views in crops)
        for salt, views in enumerate(crops):
            V, B = views.shape[:2]
            x, cls = self.embed_student(views, salt)
            cls_tokens.append(cls.view(V, B, -1))
            target_tokens, cls = self.embed_teacher(views.flatten(0, 1))
            bottlenecks.append(self.teacher["cls_head"].bottleneck(cls).view(V, B, -1))
            if self.patch_loss_weight:
                student_patches.append(x.flatten(0, 1))  # (V·B·N, C)
                targets.append(target_tokens.flatten(0, 1))
                share = 1 / (V_all * B * x.shape[1])  # the loss is the mean over crops of the mean over patches
                weights.append(torch.full((V * B * x.shape[1],), share, device=x.device))

        loss = cls_loss = self.distil_cls(torch.cat(cls_tokens), torch.cat(bottlenecks), teacher_crops=len(crops[0]))
        parts = {"cls": cls_loss}
        if self.patch_loss_weight:
            parts["patch"] = self.distil_patches(torch.cat(student_patches), torch.cat(targets), torch.cat(weights))
            loss = cls_loss + self.patch_loss_weight * parts["patch"]
        return {"loss": loss, **logged(**parts)}

    def embed_student(self, views: Tensor, salt: int) -> tuple[Tensor, Tensor]:
        """The student's patch tokens (V·B, N, C) and global tokens (V·B, C) of the crops of one size."""
        V, B = views.shape[:2]
        backbone, aggregation = self.student["backbone"], self.student["aggregation"]
        _, x, _ = backbone(views.flatten(0, 1), self.noise(V, B, backbone, salt))
        return x, aggregation.global_token(aggregation.keys_values(x))

    @torch.no_grad()
    def embed_teacher(self, images: Tensor) -> tuple[Tensor | None, Tensor]:
        """The teacher's target token of each patch (M, N, C), None without a patch loss, and global tokens (M, C)."""
        aggregation = self.teacher["aggregation"]
        _, x, grid = self.teacher["backbone"](images)
        keys_values = aggregation.keys_values(x)
        global_tokens = aggregation.global_token(keys_values)
        if not self.patch_loss_weight:
            return None, global_tokens
        options = (self.neighbourhood, self.wrap, self.k, self.aggregation)
        return patch_targets(aggregation, x, keys_values, grid, *options), global_tokens

    @torch.no_grad()
    def diagnose(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The teacher's patch tokens, and its targets for the image level and for patches."""
        tokens = self.teacher["backbone"](images)[1]
        target_tokens, feature = self.embed_teacher(images)
        targets = {"cls": self.cls_targets(feature)}
        if target_tokens is not None:
            logits = self.teacher["patch_head"](target_tokens.flatten(0, 1))
            targets["patch"] = teacher_probabilities(logits, self.patch_centre, self.patch_teacher_temp)
        return tokens, targets

    def distil_patches(self, student: Tensor, target_tokens: Tensor, weights: Tensor) -> Tensor:
        """The patch-level loss of the student's patch tokens (T, C) against their target tokens (T, C)."""
        head = self.teacher["patch_head"]
        with torch.no_grad():
            rows = head.bottleneck(target_tokens)
            rows = torch.cat([rows, rows.mean(0, keepdim=True)])  # the last row gives the mean logits, for the centre
            targets, mean = head.last_layer(rows).split([len(rows) - 1, 1])
        logits = self.student["patch_head"](self.student["aggregation"].norm(student))
        temperatures = (self.patch_student_temp, self.patch_teacher_temp)
        loss = patch_cross_entropy(logits, targets, self.patch_centre, weights, *temperatures)
        move_centre(self.patch_centre, mean[0], self.centre_momentum)
        return loss


def patch_targets(
    module: AggregationModule,
    x: Tensor,
    keys_values: list[tuple[Tensor, Tensor]],
    grid: tuple[int, int],
    neighbourhood: int | str,
    wrap: bool,
    k: int,
    aggregation: str,
) -> Tensor:
    """What each patch of the student answers to (M, N, C): its positives' aggregate, from the teacher's tokens.

    Args:
        module: the teacher's aggregation module.
        x: the teacher's patch tokens (M, N, C) on ``grid``.
        keys_values: the module's, of ``x``.
        grid: (h, w).
        neighbourhood, wrap, k, aggregation: as for :class:`SelfPatchPretraining`.
    """
    candidates = neighbours(*grid, neighbourhood, wrap).to(x.device)
    ranks, real = match_positives(x, candidates, min(k, candidates.shape[1]))
    positives = candidates.expand(len(x), -1, -1).gather(2, ranks)  # (M, N, k)
    if aggregation == "mean":
        return module.norm(mean_of(x, positives, real))
    return module.aggregate(keys_values, positives.clamp(min=0), real)


def mean_of(x: Tensor, positives: Tensor, real: Tensor) -> Tensor:
    """The mean (B, N, C) of each patch's positives (B, N, k) among tokens (B, N, C)."""
    rows = torch.zeros(*positives.shape[:2], x.shape[1], device=x.device)
    rows.scatter_(2, positives.clamp(min=0), real.float())  # one row of ones and zeros a patch
    return rows.to(x.dtype) @ x / real.sum(-1, keepdim=True)


def check_grids(sizes: Sequence[int], backbone: nn.Module, neighbourhood: int | str) -> None:
    """Raise :class:`UserError` if a crop of one of these sides (pixels) has a grid smaller than the neighbourhood."""
    for size in sizes:
        side = backbone.tokens_along(size)
        if isinstance(neighbourhood, int) and side < neighbourhood:
            raise UserError(
                f"a crop of {size} pixels has a grid of {side}x{side} patches, smaller than "
                f"model.neighbourhood={neighbourhood}: enlarge the crop or lower the neighbourhood"
            )


def check_neighbourhood(neighbourhood: int | str, k: int, aggregation: str) -> None:
    """Raise :class:`UserError` for settings that name no neighbourhood, number of positives or aggregation."""
    if neighbourhood != "all" and not (isinstance(neighbourhood, int) and neighbourhood >= 3 and neighbourhood % 2):
        raise UserError(f"model.neighbourhood={neighbourhood!r}: it must be an odd number from 3, or 'all'")
    if k < 1 or (neighbourhood != "all" and k >= neighbourhood**2):
        raise UserError(
            f"model.k={k}: it must be from 1 to the number of neighbours (model.neighbourhood={neighbourhood})"
        )
    if aggregation not in ("attention", "mean"):
        raise UserError(f"model.aggregation={aggregation!r}: choose 'attention' or 'mean'")
