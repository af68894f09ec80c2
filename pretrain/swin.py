"""The Swin transformer (arXiv 2103.14030) as a backbone.

Parameter names are those of the published code, so that its checkpoints need no translation. mmdet's own Swin keeps the
same weights under other names and merges patches in another order: :func:`to_mmdet` and :func:`from_mmdet` translate.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfpatch.pretrain.backbone import Backbone
from selfpatch.pretrain.settings import Count, Rate
from selfpatch.pretrain.vit import MLP, Block

SIZES = {  # name: (width of the first stage, depths, heads), as in arXiv 2103.14030, section 3.3
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
}
PATCH = 4  # pixels; each further stage halves the grid
STAGES = 4


class WindowAttention(nn.Module):
    """Self-attention within windows of a grid, the windows shifted or not (section 3.2 of the paper).

    A grid that is no larger than one window is not shifted (as published; mmdet's Swin shifts it).
    """

    def __init__(self, dim: int, heads: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.heads, self.window, self.shifted = heads, window, shifted
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        place = torch.cartesian_prod(torch.arange(window), torch.arange(window))  # (window², 2)
        down, right = (place.unsqueeze(1) - place + window - 1).unbind(-1)  # each (window², window²), from 0
        # follows from the window, so that no checkpoint needs to hold it
        self.register_buffer("relative_position_index", down * (2 * window - 1) + right, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend on a grid (B, h, w, C) of any size; its last windows are filled up with zeros."""
        B, h, w, C = x.shape
        window = self.window
        shift = window // 2 if self.shifted and min(h, w) > window else 0
        x = F.pad(x, (0, 0, 0, -w % window, 0, -h % window))
        H, W = x.shape[1:3]
        mask = None
        if shift:
            x = x.roll((-shift, -shift), (1, 2))
            mask = shift_mask(H, W, window, shift).to(x.device, x.dtype)
        x = x.view(B, H // window, window, W // window, window, C).transpose(2, 3)
        x = self.attend(x.reshape(-1, window * window, C), mask)  # (B·windows, window², C)
        x = x.view(B, H // window, W // window, window, window, C).transpose(2, 3).reshape(B, H, W, C)
        if shift:
            x = x.roll((shift, shift), (1, 2))
        return x[:, :h, :w]

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within each window: x (windows, N, C); mask (windows of one image, N, N) is added to the scores."""
        W, N, C = x.shape
        q, k, v = self.qkv(x).view(W, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        scores = (q * (C // self.heads) ** -0.5) @ k.transpose(-2, -1)  # (W, heads, N, N)
        scores = scores + self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if mask is not None:
            scores = (scores.unflatten(0, (-1, len(mask))) + mask.unsqueeze(1)).flatten(0, 1)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(W, N, C))


@lru_cache(maxsize=32)
def shift_mask(height: int, width: int, window: int, shift: int) -> Tensor:
    """What is added to the attention (windows, window², window²): -100 between tokens that only the roll made near."""
    parts = []
    for side in (height, width):
        place = torch.arange(side)
        parts.append((place >= side - window).long() + (place >= side - shift))  # 0, 1 or 2
    region = 3 * parts[0].view(-1, 1) + parts[1]  # (height, width)
    region = region.unflatten(1, (-1, window)).unflatten(0, (-1, window)).transpose(1, 2).reshape(-1, window * window)
    return (region.unsqueeze(1) != region.unsqueeze(2)) * -100.0


class PatchMerging(nn.Module):
    """Every 2x2 tokens become one of twice the width: (B, h, w, C) -> (B, h/2, w/2, 2C); odd sides get zeros."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        B, h, w, C = x.shape
        x = x.view(B, h // 2, 2, w // 2, 2, C).permute(0, 1, 3, 4, 2, 5)  # down first, then right, as published
        return self.reduction(self.norm(x.reshape(B, h // 2, w // 2, 4 * C)))


class Stage(nn.Module):
    """Blocks on one grid, and the merging that leads to the next stage's."""

    def __init__(self, dim: int, heads: int, window: int, depth: int, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(dim, WindowAttention(dim, heads, window, shifted=i % 2 == 1), MLP(dim, 4 * dim), eps=1e-5)
            for i in range(depth)
        )
        self.downsample = None if last else PatchMerging(dim)


class PatchEmbed(nn.Module):
    """Cuts an image into patches, projects and normalises each: (B, 3, H, W) -> (B, h, w, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        images = F.pad(images, (0, -images.shape[3] % PATCH, 0, -images.shape[2] % PATCH))
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class Swin(Backbone):
    """A Swin transformer that gives a global feature and the patch tokens of its last grid, for any image size.

    Args:
        size: a row of :data:`SIZES`; ``embed_dim``, ``depths`` and ``heads`` override its parts.
        window: side of a window in tokens.
        final_norm: whether a LayerNorm follows the last stage (MoBY, DINO: yes; SelfPatch on DINO: no).
        drop_path_rate: rate of stochastic depth at the last block, growing linearly from 0 at the first.
        embed_dim: width of the first stage; every further stage is twice as wide.
        checkpointing: recompute each block's activations in the backward pass, to save memory.

    Raises:
        ValueError: unknown size, other than four stages, or the heads do not divide a stage's width.
    """

    place = "stage"
    strides = tuple(PATCH * 2**i for i in range(STAGES))
    default_out_indices = tuple(range(STAGES))
    out_indices_fixed = True
    default_index = 2  # stride 16, as most ViTs
    final_norm_fits = False  # it is as wide as the last stage alone
    patch_size = PATCH
    fingerprint_unit = 16  # grids of 16x24 and 8x12 tokens, where windows shift, and of 4x6 and 2x3, where they do not

    def __init__(
        self,
        size: str = "tiny",
        window: Count = 7,
        final_norm: bool = True,
        drop_path_rate: Rate = 0.0,
        embed_dim: Count | None = None,
        depths: tuple[Count, ...] | None = None,
        heads: tuple[Count, ...] | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"unknown Swin size {size!r}: choose one of {', '.join(SIZES)}")
        dim, depths, stage_heads = (
            own if given is None else given for given, own in zip((embed_dim, depths, heads), SIZES[size])
        )
        self.depths, self.stage_heads, self.window = tuple(depths), tuple(stage_heads), window
        self.widths = [dim * 2**i for i in range(STAGES)]
        if not len(self.depths) == len(self.stage_heads) == STAGES:
            raise ValueError(f"a Swin has {STAGES} stages: depths={self.depths}, heads={self.stage_heads}")
        if any(width % count for width, count in zip(self.widths, self.stage_heads)):
            raise ValueError(f"heads={self.stage_heads} do not divide the stages' widths {self.widths}")
        self.embed_dim, self.heads, self.checkpointing = self.widths[-1], self.stage_heads[-1], checkpointing

        self.patch_embed = PatchEmbed(dim)
        self.layers = nn.ModuleList(
            Stage(width, count, window, depth, last=width == self.embed_dim)
            for width, count, depth in zip(self.widths, self.stage_heads, self.depths)
        )
        self.norm = nn.LayerNorm(self.embed_dim) if final_norm else nn.Identity()
        self.set_drop_path(drop_path_rate)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw fresh weights: truncated normal 0.02 for Linears and relative positions, zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, WindowAttention):
                nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)

    @property
    def blocks(self) -> list[Block]:
        return [block for stage in self.layers for block in stage.blocks]

    @property
    def arch(self) -> dict:
        return {
            "family": "swin",
            "dim": self.widths[0],
            "depths": list(self.depths),
            "heads": list(self.stage_heads),
            "window": self.window,
            "patch": PATCH,
            "final_norm": isinstance(self.norm, nn.LayerNorm),
        }

    def forward(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """As every backbone's; the global feature is the mean of the last grid's tokens, after the final norm.

        Sides that the stages do not divide are filled up with zeros.
        """
        x = self.norm(self.stages(images, STAGES - 1, noise)[-1])  # (B, h, w, C)
        tokens = x.flatten(1, 2)
        return tokens.mean(1), tokens, (x.shape[1], x.shape[2])

    def stages(self, images: Tensor, last: int = STAGES - 1, noise: Tensor | None = None) -> list[Tensor]:
        """The grids (B, h, w, C) after the blocks of stages 0 … ``last``, without any norm, at strides 4, 8, 16, 32."""
        x, taken, number = self.patch_embed(images), [], 0
        for i, stage in enumerate(self.layers[: last + 1]):
            for _ in stage.blocks:
                x = self.run_block(number, x, noise)
                number += 1
            taken.append(x)
            if i < last:
                x = stage.downsample(x)
        return taken

    def forward_intermediates(self, images: Tensor, indices: Sequence[int], norm: bool = True) -> list[Tensor]:
        """The grids of chosen stages as maps (B, C, h, w); ``norm`` is for the last stage, the others have none."""
        wanted = [index % STAGES for index in indices]
        stages = self.stages(images, max(wanted))
        if norm and max(wanted) == STAGES - 1:
            stages[-1] = self.norm(stages[-1])
        return [stages[i].permute(0, 3, 1, 2) for i in wanted]

    def tokens_along(self, side: int) -> int:
        """How many tokens of the last grid lie along a side in pixels; what does not fill one is filled up."""
        return -(-side // self.stride)

    def scaled_out_indices(self, published: Sequence[int]) -> list[int]:
        return list(self.default_out_indices)

    def first_parts(self, count: int) -> list[nn.Module]:
        return [self.patch_embed, *self.layers[:count]]

    def unused_parts(self, indices: Sequence[int], norm: bool) -> list[nn.Module]:
        """Later stages, and the final norm where it is not asked for."""
        last = self.layers[max(indices)]
        later = [*self.layers[max(indices) + 1 :], *filter(None, [last.downsample])]
        return later if norm else [self.norm, *later]


# --- mmdet's names ---------------------------------------------------------------------------------------------------

# mmdet takes the four tokens of a merge row by row and puts their channels side by side: channel c of token t lies at
# 4·c + t there, and at C·t' + c here, with t' counting down first
ROW_FIRST = (0, 2, 1, 3)
NAMES = (  # ours, mmdet's; ^ is the beginning
    ("^layers.", "^stages."),
    ("^patch_embed.proj.", "^patch_embed.projection."),
    (".attn.", ".attn.w_msa."),
    (".mlp.fc1.", ".ffn.layers.0.0."),
    (".mlp.fc2.", ".ffn.layers.1."),
    ("^norm.", f"^norm{STAGES - 1}."),
)


def to_mmdet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A Swin's weights under the names, and in the order of merged channels, of mmdet's ``SwinTransformer``.

    mmdet has a norm for every stage; no classification checkpoint does, so its ``norm0`` to ``norm2`` are not among
    them. mmdet's shifts windows even where a grid is no larger than one: there its features are others.
    """
    return {_renamed(name, NAMES): _merge_order(name, tensor, False) for name, tensor in state.items()}


def from_mmdet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of :func:`to_mmdet`."""
    names = [(theirs, ours) for ours, theirs in reversed(NAMES)]
    return {_renamed(name, names): _merge_order(name, tensor, True) for name, tensor in state.items()}


def _renamed(name: str, names: Iterable[tuple[str, str]]) -> str:
    name = f"^{name}"
    for old, new in names:
        name = name.replace(old, new)
    return name[1:]


def _merge_order(name: str, tensor: Tensor, back: bool) -> Tensor:
    """The last dimension of a merge's reduction or norm in the other order."""
    if ".downsample." not in name:
        return tensor
    parts = tensor.unflatten(-1, (-1, 4)).transpose(-1, -2) if back else tensor.unflatten(-1, (4, -1))  # (…, 4, C)
    parts = parts[..., ROW_FIRST, :]  # swapping the two in the middle is its own inverse
    return (parts if back else parts.transpose(-1, -2)).flatten(-2).contiguous()
