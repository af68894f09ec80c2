"""Projection heads: from a token to the logits that student and teacher compare."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WeightNormLinear(nn.Module):
    """A Linear without bias whose every output row is g·v/‖v‖ (arXiv 1602.07868), with g fixed at 1.

    ``weight_g`` stays a parameter, as in published checkpoints, but is never trained.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_dim, 1), requires_grad=False)
        self.weight_v = nn.Parameter(nn.init.trunc_normal_(torch.empty(out_dim, in_dim), std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight_g / self.weight_v.norm(dim=1, keepdim=True)  # (out_dim, 1)
        if x[..., 0].numel() < x.shape[-1]:  # few tokens and many logits: the product is smaller than the weights
            return F.linear(x, self.weight_v) * scale.T
        return F.linear(x, self.weight_v * scale)


class DINOHead(nn.Module):
    """DINO's head (arXiv 2104.14294, appendix C): a 3-layer MLP, L2 normalisation, a weight-normed Linear."""

    def __init__(self, in_dim: int, out_dim: int, hidden_dim: int = 2048, bottleneck_dim: int = 256) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(in_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, bottleneck_dim),
        )
        for layer in self.mlp[::2]:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.last_layer = WeightNormLinear(bottleneck_dim, out_dim)

    def bottleneck(self, tokens: Tensor) -> Tensor:
        """The normalised feature (..., bottleneck_dim) of tokens (..., in_dim)."""
        return F.normalize(self.mlp(tokens), dim=-1)

    def with_mean(self, tokens: Tensor, count: int | None = None) -> tuple[Tensor, Tensor]:
        """``head(tokens)[:count], head(tokens).mean(0)`` of tokens (T, in_dim): logits, and the mean logits (out_dim,).

        Since the last layer is linear, the mean of the logits is the logits of the mean bottleneck: one more row of the
        product instead of a walk over T x out_dim numbers.
        """
        rows = self.bottleneck(tokens)
        rows = torch.cat([rows[:count], rows.mean(0, keepdim=True)])
        logits, mean = self.last_layer(rows).split([len(rows) - 1, 1])
        return logits, mean[0]

    def forward(self, tokens: Tensor) -> Tensor:
        return self.last_layer(self.bottleneck(tokens))
