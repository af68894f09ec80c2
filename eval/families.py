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
MOCO_V3_HEADS = {**HEADS, (384, 12): 12}  # its ViT-S has 12 heads of width 32
MAE_HEADS = {
    size: HEADS[size] for size in ((768, 12), (1024, 24), (1280, 32))
}  # others under its layout are not its own

SYNONYMS = {"online": "student", "key": "teacher"}  # MoBY's words for the two networks

# Top-level entries that hold no network: the state of optimisers, scalers and schedules.
BOOKKEEPING = (
    "optimizer", "optimizers", "lr_scheduler", "scheduler", "param_schedulers", "scaler", "fp16_scaler", "loss_scaler",
    "amp", "message_hub",
)  # fmt: skip


@dataclass(frozen=True)
class Family:
    """One family's layout.

    Args:
        name: what a record calls the layout.
        method: the display name of what was pretrained, where no metadata says it.
        signs: patterns that must each match a tensor's name, a top-level entry of the file or ``meta.<key>``; ``a|b``
            asks for either.
        absent: patterns that must match none.
        cls_row: whether the position embeddings must (True) or must not (False) have a row for [CLS].
        networks: network -> prefix of its backbone; downstream tasks take the first by default.
        left_out: names beside the networks that belong to no backbone.
        backbone_left_out: names within a backbone that ours has no use for.
        rename: (regular expression, replacement) pairs from the family's backbone names to ours.
        cls_without_row: whether [CLS] may come without a row in the position embeddings.
        fixed: what every member has of the ViT's options; the rest is read off the tensors.
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
    cls_without_row: bool = False
    fixed: Mapping[str, bool] = field(default_factory=dict)
    heads: Mapping[tuple[int, int], int] = field(default_factory=lambda: HEADS)

    def fits(self, marks: Collection[str], cls_row: bool | None) -> bool:
        """Whether a file with these names and entries, and such a table of positions, is of this family."""
        if self.cls_row is not None and cls_row is not None and self.cls_row != cls_row:
            return False
        return all(_found(marks, sign) for sign in self.signs) and not any(_found(marks, no) for no in self.absent)

    def renamed(self, name: str) -> str:
        """Our name of a backbone tensor."""
        for pattern, replacement in self.rename:
            name = re.sub(pattern, replacement, name)
        return name


def _found(marks: Collection[str], sign: str) -> bool:
    return any(pattern in marks or any(fnmatchcase(mark, pattern) for mark in marks) for pattern in sign.split("|"))


def _both(*parts: str) -> tuple[str, ...]:
    """``parts`` of the student and of the teacher."""
    return tuple(f"{network}.{part}" for network in ("student", "teacher") for part in parts)


PLAIN = {"layer_scale": False, "registers": False}
WITH_CLS = {**PLAIN, "cls_token": True, "final_norm": True}
WITHOUT_CLS = {**PLAIN, "cls_token": False, "final_norm": False}
TEACHER_STUDENT = {"teacher": "teacher.backbone.", "student": "student.backbone."}
TEACHER = {"teacher": ""}  # a bare backbone, published from the teacher

DINO_HEAD = ("head.mlp.*", "head.last_layer.*")
CLASSIFIER = ("head.weight", "head.bias", "head.fc.weight", "head.fc.bias")
SWIN_BUFFERS = ("layers.*.attn_mask", "layers.*.relative_position_index")  # follow from the window size
SWIN_SIGN = "layers.0.blocks.*"
VIT_SIGN = "blocks.*"
LAYER_SCALE = "(LayerScale)"  # a mark that the reader adds where most blocks have it
BEYOND_PLAIN = ("head.*", "fc_norm.*", "reg_token", LAYER_SCALE)

FAMILIES = (
    Family(
        name="ours",
        method="ours",  # its metadata says which, and lists what stands beside the backbones
        signs=("meta.arch", "teacher.backbone.*|student.backbone.*"),
        networks=TEACHER_STUDENT,
    ),
    Family(
        name="pyramid",  # what tools/convert.sh writes for mmdet and mmseg
        method="ours",
        signs=("meta.arch", "encoder.*", "scales.*"),
        networks={"backbone": "encoder."},
        left_out=("scales.*",),
    ),
    # Full training checkpoints of self-distillation: {student, teacher, optimizer, epoch, args, ..._loss}.
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
        signs=("teacher.backbone.*|student.backbone.*", "student.backbone.masked_embed|ibot_loss"),
        networks=TEACHER_STUDENT,
        left_out=(*_both(*DINO_HEAD, "head.mlp2.*", "head.last_layer2.*"), "ibot_loss.*"),
        backbone_left_out=("masked_embed",),
        fixed=WITH_CLS,
    ),
    Family(
        name="dinov2",
        method="DINOv2",
        signs=("teacher.backbone.mask_token", "teacher.dino_head.*|teacher.ibot_head.*"),
        networks=TEACHER_STUDENT,
        left_out=(*_both("dino_head.*", "ibot_head.*"), "dino_loss.*", "ibot_patch_loss.*"),
        backbone_left_out=("mask_token",),
        rename=((r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),),  # saved in chunks: blocks.<chunk>.<block>.
        fixed={"cls_token": True, "final_norm": True},
    ),
    Family(
        name="dino",
        method="DINO",
        signs=("teacher.backbone.*|student.backbone.*", "teacher.head.*|student.head.*"),
        networks=TEACHER_STUDENT,
        left_out=(*_both(*DINO_HEAD), "dino_loss.*"),
        fixed=WITH_CLS,
    ),
    # Contrastive methods: downstream tasks take the online encoder.
    Family(
        name="moby",  # with DeiT-S or Swin-T, told apart by the tensors
        method="MoBY",
        signs=("encoder.*", "encoder_k.*"),
        networks={"student": "encoder.", "teacher": "encoder_k."},
        left_out=("projector.*", "projector_k.*", "predictor.*", "queue1", "queue2", "queue_ptr"),
        backbone_left_out=SWIN_BUFFERS,
        fixed=WITH_CLS,
    ),
    Family(
        name="mocov3",
        method="MoCo v3",
        signs=("base_encoder.*", "momentum_encoder.*"),
        networks={"student": "base_encoder.", "teacher": "momentum_encoder."},
        left_out=("predictor.*",),
        backbone_left_out=("head.*",),  # its projector
        fixed=WITH_CLS,
        heads=MOCO_V3_HEADS,
    ),
    Family(
        name="mocov3-linear",
        method="MoCo v3",
        signs=("state_dict", "arch", "best_acc1", VIT_SIGN, "head.weight"),
        backbone_left_out=("best_acc1", *CLASSIFIER),
        fixed=WITH_CLS,
        heads=MOCO_V3_HEADS,
    ),
    # Masked autoencoders: with the decoder, the encoder alone, or fine-tuned.
    Family(
        name="mae",
        method="MAE",
        signs=(VIT_SIGN, "decoder_blocks.*"),
        backbone_left_out=("mask_token", "decoder_*"),
        fixed=WITH_CLS,
        heads=MAE_HEADS,
    ),
    Family(
        name="mae-encoder",
        method="MAE",
        signs=("model", VIT_SIGN),
        absent=BEYOND_PLAIN,
        fixed=WITH_CLS,
        heads=MAE_HEADS,
    ),
    Family(
        name="mae-finetuned",
        method="MAE (fine-tuned)",
        signs=("model", VIT_SIGN, "fc_norm.*"),
        backbone_left_out=("fc_norm.*", *CLASSIFIER),  # the norm of the pooled feature belongs to the classifier
        fixed={**PLAIN, "cls_token": True, "final_norm": False},
        heads=MAE_HEADS,
    ),
    Family(
        name="dinov2-backbone",
        method="DINOv2",
        signs=("mask_token", LAYER_SCALE),
        networks=TEACHER,
        backbone_left_out=("mask_token",),
        rename=((r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),),
        fixed={"cls_token": True, "final_norm": True},
    ),
    # Supervised models and timm's names.
    Family(
        name="swin",
        method="Swin (supervised)",
        signs=(SWIN_SIGN, "layers.0.downsample.*"),
        backbone_left_out=(*SWIN_BUFFERS, *CLASSIFIER),
    ),
    Family(
        name="swin-timm",
        method="Swin (timm)",
        signs=(SWIN_SIGN, "layers.3.downsample.*"),
        backbone_left_out=(*SWIN_BUFFERS, *CLASSIFIER),
        # timm's stage begins with the merging of patches, the official one ends with it
        rename=tuple((rf"^layers\.{i + 1}\.downsample", f"layers.{i}.downsample") for i in range(3)),
    ),
    Family(
        name="deit",
        method="DeiT (supervised)",
        signs=("model", VIT_SIGN, "head.weight"),
        backbone_left_out=CLASSIFIER,
        fixed=WITH_CLS,
    ),
    Family(
        name="vit-timm",
        method="ViT (timm)",
        signs=(VIT_SIGN, f"head.*|fc_norm.*|reg_token|{LAYER_SCALE}"),
        absent=("state_dict", "model"),
        backbone_left_out=("fc_norm.*", *CLASSIFIER),
        rename=((r"^reg_token$", "register_tokens"),),
        cls_without_row=True,
    ),
    # Bare backbones.
    Family(
        name="ibot-backbone",
        method="iBOT",
        signs=("state_dict", VIT_SIGN),
        absent=BEYOND_PLAIN,
        cls_row=True,
        backbone_left_out=("masked_embed",),
        fixed=WITH_CLS,
    ),
    Family(
        name="dino-backbone",
        method="DINO",
        signs=(VIT_SIGN,),
        absent=(*BEYOND_PLAIN, "model"),
        cls_row=True,
        networks=TEACHER,
        fixed=WITH_CLS,
    ),
    Family(
        name="selfpatch-backbone",
        method="DINO+SelfPatch",
        signs=(VIT_SIGN,),
        absent=BEYOND_PLAIN,
        cls_row=False,
        networks=TEACHER,
        fixed=WITHOUT_CLS,
    ),
)  # fmt: skip
