"""What a checkpoint's tensors show of their network: [CLS], LayerScale, a square grid, a fixed table of positions."""

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from selfpatch.eval.checkpoints.family import MAE_TABLE, MAE_TABLE_WITHOUT_CLS, MOCO_V3_TABLE


def has_layer_scale(names: Collection[str]) -> bool:
    """Whether most blocks have factors on their branches; one too many or one lacking must not change the answer."""
    factors = sum(name.endswith((".ls1.gamma", ".ls2.gamma")) for name in names)
    return factors > 0 and factors >= sum(name.endswith(".attn.qkv.weight") for name in names)


def has_cls(tensors: Mapping[str, Tensor]) -> bool:
    """Whether most of three signs say [CLS]: the token, its row in the table of positions, and a final norm.

    The published ViTs have all of them or none, so that a single broken tensor does not change the answer.
    """
    norm = "norm.weight" in tensors or "norm.bias" in tensors
    return ("cls_token" in tensors) + has_cls_row(tensors.get("pos_embed")) + norm >= 2


def has_cls_row(table: Tensor | None) -> bool:
    """Whether a table of positions (1, N, C) has a row beside those of a square grid."""
    return table is not None and table.ndim == 3 and len(table) == 1 < table.shape[1] and is_square(table.shape[1] - 1)


def is_square(number: int) -> bool:
    """Whether so many positions fill a square grid."""
    return number >= 0 and math.isqrt(number) ** 2 == number


def shape_text(tensor: Tensor) -> str:
    """A tensor's shape, as messages have it: 1x197x384."""
    return "x".join(map(str, tensor.shape)) or "scalar"


def fixed_table(table: Tensor | None) -> str | None:
    """Whose table (1, [1 +] side², C) of sines and cosines this is; None: none of those, learned.

    MAE (arXiv 2111.06377), MoCo v3 (arXiv 2104.02057) and I-JEPA (arXiv 2301.08243) never train theirs: a row of zeros
    for [CLS], where there is one, then half of the channels for the place in the row, half for that in the column, in
    MoCo v3 the other way round.
    """
    if table is None or table.ndim != 3 or len(table) != 1 or table.shape[2] % 4 or table.shape[1] < 4:
        return None
    cls_row = has_cls_row(table)
    if not cls_row and not is_square(table.shape[1]):
        return None
    side, quarter = math.isqrt(table.shape[1]), table.shape[2] // 4
    place = torch.arange(side, dtype=torch.float64)
    angles = place[:, None] * 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, C/2)
    across, down = waves.expand(side, side, -1), waves[:, None].expand(side, side, -1)
    marks = ((MAE_TABLE, (across, down)), (MOCO_V3_TABLE, (down, across)))
    for mark, halves in marks if cls_row else ((MAE_TABLE_WITHOUT_CLS, (across, down)),):
        rows = torch.cat(halves, dim=2).flatten(0, 1)  # (side², C)
        rows = torch.cat([torch.zeros_like(rows[:1]), rows]) if cls_row else rows
        if (table[0].double() - rows).abs().max() < 5e-3:  # half precision
            return mark
    return None
