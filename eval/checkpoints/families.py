"""What is known of published checkpoints: the layout of each family, some files by their SHA-256, and foreign networks.

A family is data, not code (:class:`~selfpatch.eval.checkpoints.family.Family`): one entry each, the first whose signs
fit is taken. It says by which names a file is recognised, under which prefix each of its networks lies, which of its
names are no part of a backbone (``left_out``: anything else that is not explained is an error), how the rest is called
by us, and what the family fixes about its architecture. Patterns are those of :mod:`fnmatch`.

A method is claimed only where the file tells it. Several methods train the very same ViT: where nothing but that ViT is
left, the entry is a neutral one, and the user names the method.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from selfpatch.eval.checkpoints.family import (
    DINOV2,
    HEADS,
    LAYER_SCALE,
    MAE_TABLE,
    MOCO_V3_TABLE,
    ONLY_MODEL,
    WITH_CLS,
    WITHOUT_CLS,
    Family,
    both,
)
from selfpatch.eval.checkpoints.libraries import LIBRARIES

MOCO_V3_HEADS = {**HEADS, (384, 12): 12}  # its ViT-S has 12 heads of width 32
MAE_HEADS = {size: HEADS[size] for size in ((768, 12), (1024, 24), (1280, 32))}  # of its own sizes

SYNONYMS = {"online": "student", "key": "teacher"}  # MoBY's words for the two networks

# Top-level entries that hold no network: the state of optimisers, scalers and schedules, the best score.
BOOKKEEPING = (
    "optimizer", "optimizers", "optimizer_states", "opt", "lr_scheduler", "lr_schedulers", "scheduler",
    "param_schedulers", "scaler", "fp16_scaler", "loss_scaler", "amp", "amp_scaler", "message_hub", "best_acc1",
    "callbacks", "loops", "hyper_parameters", "datamodule_hyper_parameters", "native_amp_scaling_state", "args",
)  # fmt: skip
AVERAGES = ("state_dict_ema", "model_ema", "ema")  # entries that hold the average of a network's weights

TEACHER_STUDENT = {"teacher": "teacher.backbone.", "student": "student.backbone."}
TEACHER = {"teacher": ""}  # a bare backbone, published from the teacher
BACKBONES = "teacher.backbone.*|student.backbone.*"

DINO_HEAD = ("head.mlp.*", "head.last_layer.*")
IBOT_HEAD = (*DINO_HEAD, "head.mlp2.*", "head.last_layer2.*")
CLASSIFIER = ("head.weight", "head.bias", "head.fc.weight", "head.fc.bias")
AVERAGED = ("model_ema.*", "state_dict_ema.*")  # a second copy of the network, as supervised training keeps it
SWIN_BUFFERS = ("layers.*.attn_mask", "layers.*.relative_position_index")  # follow from the window size
SWIN_SIGN = "layers.0.blocks.*"
VIT_SIGN = "blocks.*"
MOCO_V3_SIGN = "|".join([MOCO_V3_TABLE, *(f"arch=vit_{size}" for size in ("small", "base", "large", "huge"))])
CHUNKS = (("blocks.{j}.{i}.{x}", "blocks.{i}.{x}"),)  # saved in chunks: blocks.<chunk>.<block>.

FAMILIES = (
    *LIBRARIES,
    # its metadata says which method it is, and lists what stands beside the backbones
    Family("ours", "ours", ("meta.arch", BACKBONES), networks=TEACHER_STUDENT),
    # what tools/convert.sh writes of a ViT for mmdet and mmseg
    Family(
        "pyramid", "ours", ("meta.arch", "encoder.*", "scales.*"),
        networks={"backbone": "encoder."}, left_out=("scales.*",),
    ),
    # the same of a Swin: mmdet's own, with a norm for each stage
    Family(
        "swin-mmdet", "ours", ("meta.arch", "stages.0.blocks.*"),
        backbone_left_out=("norm[0-2].*", "*.relative_position_index"), mmdet=True,
    ),
    # Full training checkpoints of self-distillation: {student, teacher, optimizer, epoch, args, ..._loss}.
    Family(
        "selfpatch", "DINO+SelfPatch", (BACKBONES, "teacher.ca_head.*|student.ca_head.*"),
        networks=TEACHER_STUDENT, left_out=(*both("ca_head.*", "c_head.*", "p_head.*"), "dino_loss.*"),
        fixed=WITHOUT_CLS,
    ),
    Family(
        "ibot", "iBOT",
        (BACKBONES, "student.backbone.masked_embed|ibot_loss*|teacher.head.last_layer2.*|student.head.last_layer2.*"),
        networks=TEACHER_STUDENT, left_out=(*both(*IBOT_HEAD), "ibot_loss.*"),
        backbone_left_out=("masked_embed", *SWIN_BUFFERS), fixed=WITH_CLS,
    ),
    Family(
        "dinov2", "DINOv2",
        ("teacher.backbone.mask_token|student.backbone.mask_token", "|".join(both("dino_head.*", "ibot_head.*"))),
        networks=TEACHER_STUDENT,
        left_out=(*both("dino_head.*", "ibot_head.*"), "dino_loss.*", "ibot_patch_loss.*"),
        backbone_left_out=("mask_token",), names=CHUNKS, fixed=DINOV2, tap_norm=True,
    ),
    Family(
        "dino", "DINO", (BACKBONES, "teacher.head.*|student.head.*", "dino_loss*"),
        networks=TEACHER_STUDENT, left_out=(*both(*DINO_HEAD), "dino_loss.*"), backbone_left_out=SWIN_BUFFERS,
        fixed=WITH_CLS,
    ),
    # Contrastive methods: downstream tasks take the online encoder.
    Family(  # MoBY's DeiT-S and Swin-T are told apart by the tensors
        "moby", "MoBY", ("encoder.*", "encoder_k.*|queue1|projector.linear_hidden.*|predictor.linear_hidden.*"),
        networks={"student": "encoder.", "teacher": "encoder_k."},
        left_out=("projector.*", "projector_k.*", "predictor.*", "queue1", "queue2", "queue_ptr"),
        backbone_left_out=SWIN_BUFFERS, fixed=WITH_CLS,
    ),
    Family(
        "mocov3", "MoCo v3", ("base_encoder.*|momentum_encoder.*",),
        networks={"student": "base_encoder.", "teacher": "momentum_encoder."}, left_out=("predictor.*",),
        backbone_left_out=("head.*",),  # its projector
        fixed=WITH_CLS, heads=MOCO_V3_HEADS,
    ),
    Family(  # alone, or with the classifier of a linear probe
        "mocov3-backbone", "MoCo v3", (VIT_SIGN, MOCO_V3_SIGN),
        backbone_left_out=CLASSIFIER, fixed=WITH_CLS, heads=MOCO_V3_HEADS,
    ),
    # Masked autoencoders: with the decoder, or the encoder alone. A fine-tuned one has a table of its own.
    Family(
        "mae", "MAE", (VIT_SIGN, "decoder_blocks.*"),
        backbone_left_out=("mask_token", "decoder_*"), fixed=WITH_CLS, heads=MAE_HEADS,
    ),
    Family(
        "mae-encoder", "MAE", (VIT_SIGN, MAE_TABLE),
        backbone_left_out=("head.*",),  # of a linear probe
        fixed=WITH_CLS, heads=MAE_HEADS,
    ),
    Family(
        "dinov2-backbone", "DINOv2", ("mask_token", LAYER_SCALE),
        networks=TEACHER, backbone_left_out=("mask_token",), names=CHUNKS, fixed=DINOV2, tap_norm=True,
    ),
    # Supervised models and timm's names.
    Family(
        "swin", "Swin (supervised)", (SWIN_SIGN, "layers.0.downsample.*", "head.weight", ONLY_MODEL),
        backbone_left_out=(*SWIN_BUFFERS, *CLASSIFIER),
    ),
    Family(
        "swin-plain", "Swin", (SWIN_SIGN, "layers.0.downsample.*"),
        backbone_left_out=(*SWIN_BUFFERS, *CLASSIFIER, *AVERAGED),
    ),
    Family(
        "swin-timm", "Swin", (SWIN_SIGN, "layers.3.downsample.*"),
        backbone_left_out=(*SWIN_BUFFERS, *CLASSIFIER, *AVERAGED),
        # timm's stage begins with the merging of patches, the official one ends with it
        names=tuple((f"layers.{i + 1}.downsample.{{x}}", f"layers.{i}.downsample.{{x}}") for i in range(3)),
    ),
    Family(
        "deit", "DeiT (supervised)", (VIT_SIGN, "head.weight", f"{ONLY_MODEL}|model_ema.*"),
        absent=("fc_norm.*", "reg_token", LAYER_SCALE), backbone_left_out=(*CLASSIFIER, *AVERAGED), fixed=WITH_CLS,
    ),
    Family(
        "vit-timm", "ViT", (VIT_SIGN, f"head.*|fc_norm.*|reg_token|{LAYER_SCALE}"),
        # the norm of a pooled feature belongs to the classifier
        backbone_left_out=("fc_norm.*", *CLASSIFIER, *AVERAGED), names=(("reg_token", "register_tokens"),),
        positions="antialiased",
    ),
    # Bare backbones.
    Family("ibot-backbone", "iBOT", (VIT_SIGN, "masked_embed"), backbone_left_out=("masked_embed",), fixed=WITH_CLS),
    Family("selfpatch-backbone", "DINO+SelfPatch", (VIT_SIGN,), cls=False, networks=TEACHER, fixed=WITHOUT_CLS),
    Family("vit-plain", "ViT", (VIT_SIGN,), fixed=WITH_CLS),  # DINO's, iBOT's, DeiT's, ... which nothing tells apart
)  # fmt: skip


# --- published files --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Legend:
    """What is known of a published file."""

    name: str  # under which it was published
    method: str  # what trained it
    mean: tuple[float, ...] | None = None  # of its pixels, where they are not ImageNet's
    std: tuple[float, ...] | None = None


SATELLITE = {"mean": (0.430, 0.411, 0.296), "std": (0.213, 0.156, 0.143)}  # of SAT-493M's images

# By the first eight digits of a file's SHA-256, which torch.hub puts into its name and checks: DINOv3's
# (facebookresearch/dinov3, hub/backbones.py) and DeiT's (facebookresearch/deit, README). Others publish none.
LEGENDS = {
    "08c60483": Legend("dinov3_vits16_pretrain_lvd1689m", "DINOv3"),
    "4057cbaa": Legend("dinov3_vits16plus_pretrain_lvd1689m", "DINOv3"),
    "73cec8be": Legend("dinov3_vitb16_pretrain_lvd1689m", "DINOv3"),
    "8aa4cbdd": Legend("dinov3_vitl16_pretrain_lvd1689m", "DINOv3"),
    "eadcf0ff": Legend("dinov3_vitl16_pretrain_sat493m", "DINOv3", **SATELLITE),
    "7c1da9a5": Legend("dinov3_vith16plus_pretrain_lvd1689m", "DINOv3"),
    "a955f4ea": Legend("dinov3_vit7b16_pretrain_lvd1689m", "DINOv3"),
    "a6675841": Legend("dinov3_vit7b16_pretrain_sat493m", "DINOv3", **SATELLITE),
    "a1311bcf": Legend("deit_tiny_patch16_224", "DeiT (supervised)"),
    "cd65a155": Legend("deit_small_patch16_224", "DeiT (supervised)"),
    "b5f2ef4d": Legend("deit_base_patch16_224", "DeiT (supervised)"),
}


# --- networks that this project has no model for ----------------------------------------------------------------------

FOREIGN = (  # a pattern of tensors' names, and what a file that has one holds
    (r"\.lora_[AB]\.|lora_embedding", "a LoRA adapter: merge it into its base model, and save that"),
    (
        r"\.(SCB|qweight|qzeros|absmax|quant_map|quant_state.*|weight_scale)$|_packed_params",
        "quantised weights: take those they were quantised from",
    ),
    (r"(^|\.)layer1\.0\.conv1\.weight$", "a ResNet, not a ViT or a Swin transformer: this project evaluates those two"),
    (
        r"(^|\.)(word_embeddings|embed_tokens|wte|token_embedding|tok_embeddings)\.weight$",
        "a text model, neither a ViT nor a Swin",
    ),
    (
        r"^(?!.*(layers|stages)\.\d\.blocks).*relative_position_bias|\.lambda_1$",
        "a BEiT, whose attention adds a bias for every relative position; this project's ViT has none",
    ),
    (r"layers\.\d\.blocks\.\d+\.attn\.(cpb_mlp|logit_scale)", "a Swin V2, whose attention is another than Swin's"),
    (
        r"\.residual1\.fn\.(rope|q_proj)\.",
        "a CAPI model, which has RMSNorm, learned rotary frequencies and no biases, unlike this project's ViT",
    ),
    (r"\.(dwconv|conv_dw)\.weight$", "a ConvNeXt, neither a ViT nor a Swin"),
    (r"\.self_attn\.(q_proj|in_proj_weight)", "a transformer of CLIP's or another kind, whose layers are no ViT's"),
)


def foreign_network(names: Collection[str]) -> str | None:
    """What to say of a network of another kind, whoever trained it; None: its tensors' ``names`` tell none."""
    return next((told for pattern, told in FOREIGN if any(re.search(pattern, name) for name in names)), None)
