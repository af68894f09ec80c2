"""What query patches look at, as figures: pure functions of attention rows, nothing about files or networks.

Rows (..., Q, N) are of Q query patches over the N = h*w patches of an image and sum to 1; the dimensions in front
(blocks, heads) are kept apart.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def similarity(rows: Tensor) -> Tensor:
    """The mean cosine of the rows of two query patches, over all pairs (...): 1 where all look at the same.

    The claim of figure 1 of SelfPatch (arXiv 2206.07990). NaN for fewer than two queries.
    """
    unit = F.normalize(rows.double(), dim=-1)
    count = rows.shape[-2]
    pairs = unit.sum(-2).square().sum(-1) - unit.square().sum((-1, -2))  # without each row's cosine with itself
    return pairs / (count * (count - 1)) if count > 1 else torch.full_like(pairs, math.nan)


def distance(rows: Tensor, queries: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    """The mean distance in pixels from a query patch to what it looks at (...) (arXiv 2010.11929, figure 7).

    Args:
        rows: (..., Q, h*w).
        queries: (Q,) flat numbers of the query patches.
        grid: (h, w).
        stride: pixels from one patch to the next.
    """
    h, w = grid
    place = torch.cartesian_prod(torch.arange(h), torch.arange(w)).to(rows)  # (h*w, 2)
    away = stride * torch.cdist(place[queries], place)  # (Q, h*w)
    return (rows * away).sum(-1).mean(-1)


def entropy(rows: Tensor) -> Tensor:
    """The mean entropy of a row (...), as a share of ln N: 1 where a patch looks at all others alike."""
    return torch.special.entr(rows).sum(-1).mean(-1) / math.log(rows.shape[-1])


def own_share(rows: Tensor, queries: Tensor, labels: Tensor) -> Tensor:
    """The mean share of a query's attention that stays on patches of its own label (...)."""
    same = labels[queries].unsqueeze(1) == labels  # (Q, N)
    return (rows * same).sum(-1).mean(-1)
