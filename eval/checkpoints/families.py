"""How each published family of checkpoints is laid out: one entry a family, the first whose signs fit is taken.

An entry is data, not code (:class:`~selfpatch.eval.checkpoints.family.Family`). It says by which names a file is
recognised, under which prefix each of its networks lies, which of its names are no part of a backbone (``left_out``:
anything else that is not explained is an error), how the rest is called by us, and what the family fixes about its
architecture. Patterns are those of :mod:`fnmatch`.

A method is claimed only where the file tells it. Several methods train the very same ViT: where nothing but that ViT is
left, the entry is a neutral one, and the user names the method.
"""

from __future__ import annotations

from selfpatch.eval.checkpoints.family import (
    HEADS,
    LAYER_SCALE,
    MAE_TABLE,
    MOCO_V3_TABLE,
    ONLY_MODEL,
    Family,
)
from selfpatch.eval.checkpoints.libraries import LIBRARIES

MOCO_V3_HEADS = {**HEADS, (384, 12): 12}  # its ViT-S has 12 heads of width 32
MAE_HEADS = {
    size: HEADS[size] for size in ((768, 12), (1024, 24), (1280, 32))
}  # others under its layout are not its own

SYNONYMS = {"online": "student", "key": "teacher"}  # MoBY's words for the two networks

# Top-level entries that hold no network: the state of optimisers, scalers and schedules, the best score.
BOOKKEEPING = (
    "optimizer", "optimizers", "optimizer_states", "opt", "lr_scheduler", "lr_schedulers", "scheduler",
    "param_schedulers", "scaler", "fp16_scaler", "loss_scaler", "amp", "amp_scaler", "message_hub", "best_acc1",
    "callbacks", "loops", "hyper_parameters", "datamodule_hyper_parameters", "native_amp_scaling_state", "args",
)  # fmt: skip
AVERAGES = ("state_dict_ema", "model_ema", "ema")  # entries that hold the average of a network's weights


def _both(*parts: str) -> tuple[str, ...]:
    """``parts`` of the student and of the teacher."""
    return tuple(f"{network}.{part}" for network in ("student", "teacher") for part in parts)


PLAIN = {"layer_scale": False, "registers": False}
WITH_CLS = {**PLAIN, "cls_token": True, "final_norm": True}
WITHOUT_CLS = {**PLAIN, "cls_token": False, "final_norm": False}
TEACHER_STUDENT = {"teacher": "teacher.backbone.", "student": "student.backbone."}
TEACHER = {"teacher": ""}  # a bare backbone, published from the teacher

DINO_HEAD = ("head.mlp.*", "head.last_layer.*")
IBOT_HEAD = (*DINO_HEAD, "head.mlp2.*", "head.last_layer2.*")
CLASSIFIER = ("head.weight", "head.bias", "head.fc.weight", "head.fc.bias")
AVERAGED = ("model_ema.*", "state_dict_ema.*")  # a second copy of the network, as supervised training keeps it
SWIN_BUFFERS = ("layers.*.attn_mask", "layers.*.relative_position_index")  # follow from the window size
SWIN_SIGN = "layers.0.blocks.*"
VIT_SIGN = "blocks.*"
MOCO_V3_SIGN = "|".join([MOCO_V3_TABLE, *(f"arch=vit_{size}" for size in ("small", "base", "large", "huge"))])

# saved in chunks: blocks.<chunk>.<block>.
CHUNKS = (("blocks.{j}.{i}.{x}", "blocks.{i}.{x}"),)

FAMILIES = (
    *LIBRARIES,
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
    Family(
        name="swin-mmdet",  # the same of a Swin: mmdet's own, with a norm for each stage
        method="ours",
        signs=("meta.arch", "stages.0.blocks.*"),
        backbone_left_out=("norm[0-2].*", "*.relative_position_index"),
        mmdet=True,
    ),
    # Full training checkpoints of self-distillation: {student, teacher, optimizer, epoch, args, ..._loss}.
    Family(
        name="selfpatch",
        method="DINO+SelfPatch",
        signs=("teacher.backbone.*|student.backbone.*", "teacher.ca_head.*|student.ca_head.*"),
        networks=TEACHER_STUDENT,
        left_out=(*_both("ca_head.*", "c_head.*", "p_head.*"), "dino_loss.*"),
        fixed=WITHOUT_CLS,
    ),
    Family(
        name="ibot",
        method="iBOT",
        signs=(
            "teacher.backbone.*|student.backbone.*",
            "student.backbone.masked_embed|ibot_loss*|teacher.head.last_layer2.*|student.head.last_layer2.*",
        ),
        networks=TEACHER_STUDENT,
        left_out=(*_both(*IBOT_HEAD), "ibot_loss.*"),
        backbone_left_out=("masked_embed", *SWIN_BUFFERS),
        fixed=WITH_CLS,
    ),
    Family(
        name="dinov2",
        method="DINOv2",
        signs=(
            "teacher.backbone.mask_token|student.backbone.mask_token",
            "|".join(_both("dino_head.*", "ibot_head.*")),
        ),
        networks=TEACHER_STUDENT,
        left_out=(*_both("dino_head.*", "ibot_head.*"), "dino_loss.*", "ibot_patch_loss.*"),
        backbone_left_out=("mask_token",),
        names=CHUNKS,
        fixed={"cls_token": True, "final_norm": True},
        tap_norm=True,
    ),
    Family(
        name="dino",
        method="DINO",
        signs=("teacher.backbone.*|student.backbone.*", "teacher.head.*|student.head.*", "dino_loss*"),
        networks=TEACHER_STUDENT,
        left_out=(*_both(*DINO_HEAD), "dino_loss.*"),
        backbone_left_out=SWIN_BUFFERS,
        fixed=WITH_CLS,
    ),
    # Contrastive methods: downstream tasks take the online encoder.
    Family(
        name="moby",  # with DeiT-S or Swin-T, told apart by the tensors
        method="MoBY",
        signs=("encoder.*", "encoder_k.*|queue1|projector.linear_hidden.*|predictor.linear_hidden.*"),
        networks={"student": "encoder.", "teacher": "encoder_k."},
        left_out=("projector.*", "projector_k.*", "predictor.*", "queue1", "queue2", "queue_ptr"),
        backbone_left_out=SWIN_BUFFERS,
        fixed=WITH_CLS,
    ),
    Family(
        name="mocov3",
        method="MoCo v3",
        signs=("base_encoder.*|momentum_encoder.*",),
        networks={"student": "base_encoder.", "teacher": "momentum_encoder."},
        left_out=("predictor.*",),
        backbone_left_out=("head.*",),  # its projector
        fixed=WITH_CLS,
        heads=MOCO_V3_HEADS,
    ),
    Family(
        name="mocov3-backbone",  # alone, or with the classifier of a linear probe
        method="MoCo v3",
        signs=(VIT_SIGN, MOCO_V3_SIGN),
        backbone_left_out=CLASSIFIER,
        fixed=WITH_CLS,
        heads=MOCO_V3_HEADS,
    ),
    # Masked autoencoders: with the decoder, or the encoder alone. A fine-tuned one has a table of its own.
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
        signs=(VIT_SIGN, MAE_TABLE),
        backbone_left_out=("head.*",),  # of a linear probe
        fixed=WITH_CLS,
        heads=MAE_HEADS,
    ),
    Family(
        name="dinov2-backbone",
        method="DINOv2",
        signs=("mask_token", LAYER_SCALE),
        networks=TEACHER,
        backbone_left_out=("mask_token",),
        names=CHUNKS,
        fixed={"cls_token": True, "final_norm": True},
        tap_norm=True,
    ),
    # Supervised models and timm's names.
    Family(
        name="swin",
        method="Swin (supervised)",
        signs=(SWIN_SIGN, "layers.0.downsample.*", "head.weight", ONLY_MODEL),
        backbone_left_out=(*SWIN_BUFFERS, *CLASSIFIER),
    ),
    Family(
        name="swin-plain",
        method="Swin",
        tells_method=False,
        signs=(SWIN_SIGN, "layers.0.downsample.*"),
        backbone_left_out=(*SWIN_BUFFERS, *CLASSIFIER, *AVERAGED),
    ),
    Family(
        name="swin-timm",
        method="Swin",
        tells_method=False,
        signs=(SWIN_SIGN, "layers.3.downsample.*"),
        backbone_left_out=(*SWIN_BUFFERS, *CLASSIFIER, *AVERAGED),
        # timm's stage begins with the merging of patches, the official one ends with it
        names=tuple((f"layers.{i + 1}.downsample.{{x}}", f"layers.{i}.downsample.{{x}}") for i in range(3)),
    ),
    Family(
        name="deit",
        method="DeiT (supervised)",
        signs=(VIT_SIGN, "head.weight", f"{ONLY_MODEL}|model_ema.*"),
        absent=("fc_norm.*", "reg_token", LAYER_SCALE),
        backbone_left_out=(*CLASSIFIER, *AVERAGED),
        fixed=WITH_CLS,
    ),
    Family(
        name="vit-timm",
        method="ViT",
        tells_method=False,
        signs=(VIT_SIGN, f"head.*|fc_norm.*|reg_token|{LAYER_SCALE}"),
        # the norm of a pooled feature belongs to the classifier
        backbone_left_out=("fc_norm.*", *CLASSIFIER, *AVERAGED),
        names=(("reg_token", "register_tokens"),),
        positions="antialiased",
    ),
    # Bare backbones.
    Family(
        name="ibot-backbone",
        method="iBOT",
        signs=(VIT_SIGN, "masked_embed"),
        backbone_left_out=("masked_embed",),
        fixed=WITH_CLS,
    ),
    Family(
        name="selfpatch-backbone",
        method="DINO+SelfPatch",
        signs=(VIT_SIGN,),
        cls=False,
        networks=TEACHER,
        fixed=WITHOUT_CLS,
    ),
    Family(
        name="vit-plain",  # DINO's, iBOT's, DeiT's, ... which nothing tells apart
        method="ViT",
        tells_method=False,
        signs=(VIT_SIGN,),
        fixed=WITH_CLS,
    ),
)  # fmt: skip
