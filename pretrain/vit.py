"""The vision transformer: the only one in the project, for pretraining and for every downstream task.

Parameter names are those of the published DINO code, so that its checkpoints need no translation. What published
families add to the plain ViT (a [CLS] token or none, a final norm or none, LayerScale, register tokens) are options of
this one class.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfpatch.pretrain.backbone import Backbone
from selfpatch.pretrain.positions import RESIZINGS, RotaryPositions, resized_table, rotate
from selfpatch.pretrain.settings import Count, Natural, Rate

SIZES = {  # name: (width, depth, heads), as in DeiT (arXiv 2012.12877, table 1)
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
}
LAYER_NORM_EPS = 1e-6  # every published ViT of this family; torch's default is 1e-5
# Up to so many tokens two bf16 products are faster on a CPU than the fused kernel, whose gain is memory: about twice
# with the backward pass at 196 tokens, and level with it at 2500 (tools/bench.py).
PLAIN_ATTENTION = 1024


class Attention(nn.Module):
    """Multi-head self-attention over tokens (B, N, C)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor] | None = None) -> Tensor:
        B, N, C = x.shape
        q, k, v = self.split(x, turn)
        if q.device.type == "cpu" and q.dtype == torch.bfloat16 and N <= PLAIN_ATTENTION:
            x = ((q * (C // self.heads) ** -0.5) @ k.mT).softmax(-1) @ v  # (B, heads, N, d)
        else:
            x = F.scaled_dot_product_attention(q, k, v)  # scale d^-1/2
        return self.proj(x.transpose(1, 2).reshape(B, N, C))

    def split(self, x: Tensor, turn: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of tokens (B, N, C), each (B, heads, N, d), after rotary positions."""
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # their gradients stack in place
        return (q, k, v) if turn is None else (rotate(q, turn), rotate(k, turn), v)


class MLP(nn.Module):
    """Linear, exact (erf) GELU, Linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    """Two Linears, one through SiLU as the gate of the other, and a third (arXiv 2002.05202); DINOv2's ViT-g has it."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch (CaiT, arXiv 2103.17239, eq. 4); DINOv2 has it."""

    def __init__(self, dim: int, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class DropPath(nn.Module):
    """Drops a residual branch for whole images at random (stochastic depth, arXiv 1603.09382); identity in eval mode.

    ``noise`` (B,) in [0, 1), when given, decides instead of torch's global generator: pretraining draws it from an
    address, so that it is the same however many processes share the batch.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor, noise: Tensor | None = None) -> Tensor:
        if not self.training or self.rate == 0:
            return branch
        if noise is None:
            noise = torch.rand(len(branch), device=branch.device)
        kept = (noise >= self.rate).to(branch.dtype) / (1 - self.rate)
        return branch * kept.view(-1, *[1] * (branch.ndim - 1))


class Block(nn.Module):
    """A pre-norm transformer block: attention, then MLP, each a residual branch; of a ViT and of a Swin.

    Args:
        layer_scale: initial value of LayerScale; None for none.
    """

    def __init__(
        self, dim: int, attn: nn.Module, mlp: nn.Module, layer_scale: float | None = None, eps: float = LAYER_NORM_EPS
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = mlp
        self.ls1, self.ls2 = (nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale) for _ in range(2))
        self.drop_path = DropPath()

    def forward(self, x: Tensor, noise: Tensor | None = None, *more: Any) -> Tensor:
        """The updated tokens; ``more`` is for the attention, such as a ViT's rotary positions."""
        first, second = (None, None) if noise is None else noise
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), *more)), first)
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))), second)


class PatchEmbed(nn.Module):
    """Cuts an image into patches and projects each to a token: (B, 3, H, W) -> (B, h*w, C)."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        x = self.proj(images)  # (B, C, h, w); a border narrower than a patch is left out
        return x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3])


class VisionTransformer(Backbone):
    """A plain vision transformer (arXiv 2010.11929) that gives a global feature and patch tokens for any image size.

    Args:
        size: a row of :data:`SIZES`; ``embed_dim``, ``depth`` and ``heads`` override its parts.
        patch_size: side of a patch in pixels.
        img_size: side in pixels of the square images whose grid the table of position embeddings belongs to.
        cls_token: whether there is a [CLS] token (DINO: yes, SelfPatch: no).
        final_norm: whether a LayerNorm follows the last block (DINO: yes, SelfPatch: no).
        drop_path_rate: rate of stochastic depth at the last block, growing linearly from 0 at the first.
        layer_scale: initial value of LayerScale; None for none.
        register_tokens: how many learned extra tokens without position go along (arXiv 2309.16588).
        checkpointing: recompute each block's activations in the backward pass, to save memory.
        mlp_width: hidden width of the MLP; None for four times the tokens'.
        swiglu: whether the MLP is gated (DINOv2's ViT-g, DINOv3's larger ones).
        rope: whether positions are rotary (DINOv3) instead of a learned table.
        eps: of the LayerNorms.
        positions: how the table is resized to another grid (:func:`~selfpatch.pretrain.positions.resized_table`).

    Raises:
        ValueError: if the image side is not a multiple of the patch, or the heads do not divide the width.
    """

    place = "block"
    default_index = -1

    def __init__(
        self,
        size: str = "small",
        patch_size: Count = 16,
        img_size: Count = 224,
        cls_token: bool = True,
        final_norm: bool = True,
        drop_path_rate: Rate = 0.0,
        layer_scale: float | None = None,
        register_tokens: Natural = 0,
        embed_dim: Count | None = None,
        depth: Count | None = None,
        heads: Count | None = None,
        checkpointing: bool = False,
        mlp_width: int | None = None,
        swiglu: bool = False,
        rope: bool = False,
        eps: float = LAYER_NORM_EPS,
        positions: str = "dino",
    ) -> None:
        super().__init__()
        if positions not in RESIZINGS:
            raise ValueError(f"unknown positions {positions!r}: choose one of {', '.join(RESIZINGS)}")
        if size not in SIZES:
            raise ValueError(f"unknown ViT size {size!r}: choose one of {', '.join(SIZES)}")
        dim, self.depth, self.heads = (
            own if given is None else given for given, own in zip((embed_dim, depth, heads), SIZES[size])
        )
        if img_size % patch_size:
            raise ValueError(f"img_size {img_size} is not a multiple of patch_size {patch_size}")
        if dim % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {dim}")
        self.embed_dim, self.patch_size, self.grid_side = dim, patch_size, img_size // patch_size
        self.widths, self.strides = [dim] * self.depth, [patch_size] * self.depth
        self.final_norm_fits, self.fingerprint_unit, self.checkpointing = final_norm, patch_size, checkpointing
        self.eps, self.positions = eps, positions
        self.mlp_width, self.swiglu = mlp_width or 4 * dim, swiglu

        self.patch_embed = PatchEmbed(patch_size, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if cls_token else None
        self.register_tokens = nn.Parameter(torch.zeros(1, register_tokens, dim)) if register_tokens else None
        table = torch.zeros(1, int(cls_token) + self.grid_side**2, dim)
        self.pos_embed = None if rope else nn.Parameter(table)
        self.rope_embed = RotaryPositions(dim // self.heads) if rope else None
        mlp = SwiGLU if swiglu else MLP
        self.blocks = nn.ModuleList(
            Block(dim, Attention(dim, self.heads), mlp(dim, self.mlp_width), layer_scale, eps)
            for _ in range(self.depth)
        )
        self.set_drop_path(drop_path_rate)
        self.norm = nn.LayerNorm(dim, eps=eps) if final_norm else nn.Identity()
        self.init_weights()

    def init_weights(self) -> None:
        """Draw fresh weights: truncated normal 0.02 for Linears and learned tokens, zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for token in (self.cls_token, self.register_tokens, self.pos_embed):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)

    @property
    def num_prefix(self) -> int:
        """How many tokens stand before the patch tokens: [CLS] and the registers."""
        registers = 0 if self.register_tokens is None else self.register_tokens.shape[1]
        return int(self.cls_token is not None) + registers

    @property
    def default_out_indices(self) -> tuple[int, ...]:
        """The published 3, 5, 7, 11 of 12 blocks, scaled to the depth."""
        return tuple(self.scaled_out_indices((3, 5, 7, 11)))

    @property
    def arch(self) -> dict:
        return {
            "family": "vit",
            "dim": self.embed_dim,
            "depth": self.depth,
            "heads": self.heads,
            "patch": self.patch_size,
            "grid": None if self.pos_embed is None else self.grid_side,
            "cls_token": self.cls_token is not None,
            "final_norm": isinstance(self.norm, nn.LayerNorm),
            "layer_scale": isinstance(self.blocks[0].ls1, LayerScale),
            "registers": self.num_prefix - int(self.cls_token is not None),
            "mlp_width": self.mlp_width,
            "swiglu": self.swiglu,
            "rope": self.rope_embed is not None,
            "eps": self.eps,
            "positions": self.positions,
        }

    def forward(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """As every backbone's; the global feature is [CLS], or the mean of the patch tokens where there is no [CLS]."""
        (x,), grid = self.tokens_of(images, [self.depth - 1], noise=noise)
        patches = x[:, self.num_prefix :]
        return (patches.mean(1) if self.cls_token is None else x[:, 0]), patches, grid

    def forward_intermediates(self, images: Tensor, indices: Sequence[int], norm: bool = True) -> list[Tensor]:
        """The patch tokens after chosen blocks as maps (B, C, h, w), each after the final norm if ``norm``."""
        tokens, grid = self.tokens_of(images, indices, norm)
        return [t[:, self.num_prefix :].transpose(1, 2).unflatten(2, grid) for t in tokens]

    def tokens_of(
        self, images: Tensor, blocks: Sequence[int], norm: bool = True, noise: Tensor | None = None
    ) -> tuple[list[Tensor], tuple[int, int]]:
        """All tokens after chosen blocks.

        Returns:
            for each chosen block its tokens (B, :attr:`num_prefix` + h*w, C), and the grid (h, w).
        """
        wanted = [block % self.depth for block in blocks]
        x, grid = self.embed(images)
        taken, turn = {}, self._turn(grid)
        for i in range(max(wanted) + 1):
            x = self.run_block(i, x, noise, turn)
            if i in wanted:
                taken[i] = self.norm(x) if norm else x
        return [taken[i] for i in wanted], grid

    def attention(self, images: Tensor, blocks: Sequence[int], queries: Tensor) -> tuple[list[Tensor], tuple[int, int]]:
        wanted = [block % self.depth for block in blocks]
        x, grid = self.embed(images)
        taken, turn = {}, self._turn(grid)
        for i in range(max(wanted) + 1):
            if i in wanted:
                attn = self.blocks[i].attn
                q, k, _ = (part[:, :, self.num_prefix :] for part in attn.split(self.blocks[i].norm1(x), turn))
                scores = (q[:, :, queries] * q.shape[-1] ** -0.5) @ k.mT  # (B, heads, Q, h*w)
                taken[i] = scores.float().softmax(-1)  # over the patches alone: [CLS] and registers are left out
            x = self.run_block(i, x, None, turn)
        return [taken[i] for i in wanted], grid

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The tokens that enter the first block, (B, :attr:`num_prefix` + h*w, C), and the grid (h, w)."""
        x, (h, w) = self.patch_embed(images)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        if self.pos_embed is not None:
            x = x + resized_table(self.pos_embed, self.grid_side, h, w, self.positions)
        if self.register_tokens is not None:  # after [CLS], without a position
            x = torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], dim=1)
        return x, (h, w)

    def _turn(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
        """Cosine and sine of every token's rotation, where positions are rotary."""
        return None if self.rope_embed is None else self.rope_embed(*grid, self.num_prefix)

    def tokens_along(self, side: int) -> int:
        """How many patches lie along a side in pixels; what does not fill a patch is left out."""
        return side // self.patch_size

    def first_parts(self, count: int) -> list[nn.Module | nn.Parameter]:
        parts = [self.patch_embed, self.cls_token, self.register_tokens, self.pos_embed, *self.blocks[:count]]
        return [part for part in parts if part is not None]

    def unused_parts(self, indices: Sequence[int], norm: bool) -> list[nn.Module]:
        """The blocks behind the last index, and the final norm where it is not asked for."""
        return [*self.blocks[max(indices) + 1 :], *([] if norm else [self.norm])]
