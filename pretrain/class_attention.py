"""Class attention (CaiT, arXiv 2103.17239, section 3): a [CLS] token gathers what a set of tokens says.

A block on a token c and a set of tokens x (n, C), where u = [c, x] and LN is a LayerNorm:

    z = LN1(u)
    q = W_q z[0],   K = W_k z,   V = W_v z            the query from [CLS] alone, which also attends to itself
    c ← c + W_proj softmax(q Kᵀ / √d) V               heads of width d side by side
    c ← c + MLP(LN2(c))                               x is the same in every block

Keys and values of a token do not depend on c. So they are computed once a token, by :meth:`ClassAttention.keys_values`,
and shared by all sets that the token is in: in SelfPatch each patch is a positive of k others on average.
"""

import torch
from torch import Tensor, nn

from selfpatch.pretrain.vit import LAYER_NORM_EPS, MLP


class ClassAttention(nn.Module):
    """Multi-head attention of one query token over itself and a set."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))

    def keys_values(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (..., C) of normalised tokens (..., C)."""
        return self.k(z), self.v(z)

    def forward(self, c: Tensor, keys: Tensor, values: Tensor, valid: Tensor | None = None) -> Tensor:
        """Attend from normalised [CLS] tokens c (M, C), or (1, C) for one that asks M sets.

        Args:
            c: the tokens that ask.
            keys, values: (M, n, C) of each set.
            valid: (M, n) which tokens of a set count; None: all.
        """
        M, _, C = keys.shape
        split = (self.heads, C // self.heads)
        q = (self.q(c) * split[1] ** -0.5).unflatten(-1, split)  # (M or 1, heads, d)
        cls_key, cls_value = self.k(c).unflatten(-1, split), self.v(c).unflatten(-1, split)
        cls_logit = (q * cls_key).sum(-1).expand(M, -1)  # (M, heads)
        logits = (q.unsqueeze(1) * keys.unflatten(-1, split)).sum(-1)  # (M, n, heads)
        if valid is not None:
            logits = logits.masked_fill(~valid.unsqueeze(-1), -torch.inf)
        weights = torch.cat([cls_logit.unsqueeze(1), logits], dim=1).softmax(1).unsqueeze(-1)  # (M, 1 + n, heads, 1)
        mixed = weights[:, 0] * cls_value + (weights[:, 1:] * values.unflatten(-1, split)).sum(1)  # (M, heads, d)
        return self.proj(mixed.flatten(1))


class ClassAttentionBlock(nn.Module):
    """One update of [CLS]: class attention, then an MLP, each a residual branch."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = ClassAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = MLP(dim, 4 * dim)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (..., C) of tokens (..., C)."""
        return self.attn.keys_values(self.norm1(x))

    def forward(self, c: Tensor, keys: Tensor, values: Tensor, valid: Tensor | None = None) -> Tensor:
        """The updated tokens (M, C); arguments as for :class:`ClassAttention`."""
        c = c + self.attn(self.norm1(c), keys, values, valid)
        return c + self.mlp(self.norm2(c))


class ClassAttentionPooling(nn.Module):
    """A learned [CLS] token, class-attention blocks and a LayerNorm: sets of patch tokens become one token each."""

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
        """Each block's keys and values (B, N, C) of patch tokens (B, N, C): what :meth:`pool` draws sets from."""
        return [block.keys_values(x) for block in self.blocks]

    def pool_all(self, keys_values: list[tuple[Tensor, Tensor]]) -> Tensor:
        """One normalised token an image (B, C), from all its patches."""
        c = self.cls_token[0]  # (1, C)
        for block, (keys, values) in zip(self.blocks, keys_values):
            c = block(c, keys, values)
        return self.norm(c)

    def pool(self, keys_values: list[tuple[Tensor, Tensor]], sets: Tensor, valid: Tensor) -> Tensor:
        """One normalised token a set (B, S, C), from some patches of its image.

        Args:
            keys_values: of all patches, from :meth:`keys_values`.
            sets: (B, S, k) flat indices of the patches of each set.
            valid: (B, S, k) which of them count.
        """
        B, S, k = sets.shape
        N = keys_values[0][0].shape[1]
        rows = (sets + N * torch.arange(B, device=sets.device).view(B, 1, 1)).view(B * S, k)
        valid = None if valid.all() else valid.view(B * S, k)
        c = self.cls_token[0]
        for block, (keys, values) in zip(self.blocks, keys_values):
            c = block(c, keys.flatten(0, 1)[rows], values.flatten(0, 1)[rows], valid)
        return self.norm(c).view(B, S, -1)
