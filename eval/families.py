"""How each published family of checkpoints is laid out: one entry a family, the first whose signs fit is taken.

An entry is data, not code. It says by which names a file is recognised, under which prefix each of its networks lies,
which of its names are no part of a backbone (``left_out``: anything else that is not explained is an error), how the
rest is renamed to ours, and what the family fixes about its architecture. Patterns are those of :mod:`fnmatch`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

# Head counts cannot be read off tensors: (width, depth) -> heads, for the sizes that were published.
HEADS = {
    (192, 12): 3,
    (384, 12): 6,
    (768, 12): 12,
    (1024, 24): 16,
    (1280, 32): 16,
    (1536, 40): 24,
}
MOCO_V3_HEADS = {**HEADS, (384, 12): 12}  # its ViT-S alone has 12 heads of width 32

SYNONYMS = {"online": "student", "key": "teacher"}  # MoBY's and MoCo's words for the two networks

# Top-level entries that hold no network: state of optimisers, scalers and schedules.
BOOKKEEPING = (
    "optimizer", "optimizers", "lr_scheduler", "scheduler", "param_schedulers", "scaler", "fp16_scaler", "loss_scaler",
    "amp", "message_hub",
)  # fmt: skip

DINO_HEAD = ("head.mlp.*", "head.last_layer.*")
CLASSIFIER = ("head.weight", "head.bias")
SWIN_BUFFERS = ("layers.*.attn_mask", "layers.*.relative_position_index")  # computed from the window size
SWIN_SIGN = "layers.0.blocks.0.attn.relative_position_bias_table"


def _both(*parts: str) -> tuple[str, ...]:
    """``parts`` of the student and of the teacher."""
    return tuple(f"{network}.{part}" for network in ("student", "teacher") for part in parts)


@dataclass(frozen=True)
class Family:
    """One family's layout.

    Args:
        name: what a record calls the layout.
        method: the display name of what was pretrained, where no metadata says it.
        signs: patterns that must each match a tensor's name or a top-level entry of the file.
        absent: patterns that must match none.
        cls_row: whether the position embeddings must (True) or must not (False) have a row for [CLS].
        networks: network -> prefix of its backbone; downstream tasks take the first by default.
        left_out: whole names beside the networks that belong to no backbone.
        backbone_left_out: names within a backbone that ours has no use for.
        rename: (regular expression, replacement) pairs from the family's backbone names to ours.
        fixed: what every member has of :class:`~selfpatch.pretrain.vit.VisionTransformer`'s options; the rest is read
            off the tensors.
        heads: (width, depth) -> heads.
    """

    name: str
    method: str
    signs: tuple[str, ...]
    absent: tuple[str, ...] = ()
    cls_row: bool | None = None
    networks: Mapping[str, str] = field(default_factory=lambda: {"backbone": ""})
    left_out: tuple[str, ...] = ()
    backbone_left_out: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    fixed: Mapping[str, bool] = field(default_factory=dict)
    heads: Mapping[tuple[int, int], int] = field(default_factory=lambda: HEADS)

    def fits(self, marks: Collection[str], cls_row: bool | None) -> bool:
        """Whether a file with these names and top-level entries, and such a table of positions, is of this family."""
        if self.cls_row is not None and cls_row is not None and self.cls_row != cls_row:
            return False
        return all(matches(marks, sign) for sign in self.signs) and not any(matches(marks, no) for no in self.absent)

    def renamed(self, name: str) -> str:
        """Our name of a backbone tensor."""
        for pattern, replacement in self.rename:
            name = re.sub(pattern, replacement, name)
        return name


def matches(names: Collection[str], pattern: str) -> bool:
    """Whether any of ``names`` matches ``pattern``."""
    return pattern in names or any(fnmatchcase(name, pattern) for name in names)


PLAIN = {"layer_scale": False, "registers": False}
WITH_CLS = {**PLAIN, "cls_token": True, "final_norm": True}
WITHOUT_CLS = {**PLAIN, "cls_token": False, "final_norm": False}
TEACHER_STUDENT = {"teacher": "teacher.backbone.", "student": "student.backbone."}

FAMILIES = (
    Family(
        name="ours",
        method="ours",  # its metadata says which
        signs=("meta.arch", "meta.method"),
        networks=TEACHER_STUDENT,
        left_out=(
            *_both("head.*", "cls_head.*", "patch_head.*", "aggregation.*", "projector.*", "predictor.*"),
            *_both("patch_projector.*", "patch_predictor.*"),
            "centre", "cls_centre", "patch_centre",
            "queue*", "patch_queue*", "iteration",
        ),
    ),
    Family(
        name="selfpatch",
        method="DINO+SelfPatch",
        signs=("teacher.backbone.*", "teacher.ca_head.*"),
        networks=TEACHER_STUDENT,
        left_out=(*_both("ca_head.*", "c_head.*", "p_head.*"), "dino_loss.*"),
        fixed=WITHOUT_CLS,
    ),
    Family(
        name="ibot",
        method="iBOT",
        signs=("teacher.backbone.*", "student.backbone.masked_embed"),
        networks=TEACHER_STUDENT,
        left_out=(*_both("head.*"), "ibot_loss.*"),
        backbone_left_out=("masked_embed",),
        fixed=WITH_CLS,
    ),
    Family(
        name="dino",
        method="DINO",
        signs=("teacher.backbone.*", "teacher.head.*"),
        networks=TEACHER_STUDENT,
        left_out=(*_both(*DINO_HEAD), "dino_loss.*"),
        fixed=WITH_CLS,
    ),
    Family(
        name="selfpatch-backbone",
        method="DINO+SelfPatch",
        signs=("blocks.*", "patch_embed.*"),
        absent=("head.*", "fc_norm.*", "reg_token", "mask_token", "blocks.*.ls1.gamma"),
        cls_row=False,
        networks={"teacher": ""},
        fixed=WITHOUT_CLS,
    ),
    Family(
        name="dino-backbone",
        method="DINO",
        signs=("blocks.*", "patch_embed.*"),
        absent=("head.*", "fc_norm.*", "reg_token", "mask_token", "blocks.*.ls1.gamma", "state_dict", "model"),
        cls_row=True,
        networks={"teacher": ""},
        fixed=WITH_CLS,
    ),
)  # fmt: skip
