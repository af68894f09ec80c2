"""The layouts of other libraries' backbones, and what training scripts and libraries keep a backbone under; data."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from selfpatch.eval.checkpoints.family import DINOV2, HEADS, MAE_TABLE_WITHOUT_CLS, WITH_CLS, Family, both


def _each(theirs: str, ours: str, parts: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Pairs of templates for ``parts``, their name -> ours, of one block."""
    return tuple((theirs + part, ours + own) for part, own in parts.items())


BLOCK = "blocks.{i}."
JOINED_LATER = {f"attention.{x}_proj.{{p}}": f"attn.{y}.{{p}}" for x, y in zip("qkvo", ("q", "k", "v", "proj"))}
ATTENTION_ON_DISK = {  # Hugging Face's ViTs before version 5, and on disk until today
    "attention.attention.query.{p}": "attn.q.{p}",
    "attention.attention.key.{p}": "attn.k.{p}",
    "attention.attention.value.{p}": "attn.v.{p}",
    "attention.output.dense.{p}": "attn.proj.{p}",
}
PLAIN_BLOCK = {"layernorm_before.{p}": "norm1.{p}", "layernorm_after.{p}": "norm2.{p}"}
PLAIN_MLP = {"intermediate.dense.{p}": "mlp.fc1.{p}", "output.dense.{p}": "mlp.fc2.{p}"}
SCALED_BLOCK = {
    "norm1.{p}": "norm1.{p}",
    "norm2.{p}": "norm2.{p}",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}
GATED_MLP = {"mlp.gate_proj.{p}": "mlp.gate.{p}", "mlp.up_proj.{p}": "mlp.up.{p}", "mlp.down_proj.{p}": "mlp.down.{p}"}
TOKENS = (
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.register_tokens", "register_tokens"),
    ("embeddings.distillation_token", "dist_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection.{p}", "patch_embed.proj.{p}"),
    ("layernorm.{p}", "norm.{p}"),
)
SWIN_ATTENTION_ON_DISK = {
    name.replace("attention.attention", "attention.self"): own for name, own in ATTENTION_ON_DISK.items()
}
SWIN_TABLE = "relative_position_bias_table"
SWIN_BLOCK = {
    **SWIN_ATTENTION_ON_DISK, **JOINED_LATER, **PLAIN_BLOCK, **PLAIN_MLP,
    f"attention.self.{SWIN_TABLE}": f"attn.{SWIN_TABLE}",
    f"attention.relative_position_bias.{SWIN_TABLE}": f"attn.{SWIN_TABLE}",
    "mlp.{x}": "mlp.{x}",
}  # fmt: skip
MMPRETRAIN_BLOCK = {
    "ln1.{p}": "norm1.{p}",
    "ln2.{p}": "norm2.{p}",
    "ffn.layers.0.0.{p}": "mlp.fc1.{p}",
    "ffn.layers.1.{p}": "mlp.fc2.{p}",
    "attn.gamma1.weight": "ls1.gamma",
    "ffn.gamma2.weight": "ls2.gamma",
    "attn.{x}": "attn.{x}",
}
HF_SIGN = "embeddings.patch_embeddings.projection.*"
DINOV3_HEADS = {**HEADS, (1280, 32): 20}  # its ViT-H+ has heads of width 64
DINOV3 = {"rope": True, "cls_token": True, "final_norm": True}

HF_DINOV2 = Family(
    "hf-dinov2", "DINOv2", (HF_SIGN, "*.layer_scale1.lambda1|*.layer_scale2.lambda1", "encoder.layer.*"),
    absent=("embeddings.register_tokens",),
    backbone_left_out=("embeddings.mask_token",),
    names=(
        *TOKENS,
        *_each("encoder.layer.{i}.", BLOCK, {**ATTENTION_ON_DISK, **JOINED_LATER, **SCALED_BLOCK, **GATED_MLP}),
        *_each("encoder.layer.{i}.mlp.", BLOCK + "mlp.", {"weights_in.{p}": "w12.{p}", "weights_out.{p}": "w3.{p}"}),
        ("encoder.layer.{i}.mlp.{x}", "blocks.{i}.mlp.{x}"),
    ),
    fixed={**DINOV2, "layer_scale": True}, positions="bicubic", tap_norm=True,
)  # fmt: skip

LIBRARIES = (
    Family(  # ViTModel, DeiTModel, ViTMSNModel, IJepaModel, ViTMAEModel
        "hf-vit", "ViT", (HF_SIGN, "encoder.layer.*.layernorm_before.*|layers.*.layernorm_before.*"),
        absent=("encoder.layer.*.lambda_1", "layers.*.lambda_1"),
        backbone_left_out=("embeddings.mask_token", "pooler.*"),
        names=(
            *TOKENS,
            *_each("encoder.layer.{i}.", BLOCK, {**ATTENTION_ON_DISK, **PLAIN_BLOCK, **PLAIN_MLP}),
            *_each("layers.{i}.", BLOCK, {**JOINED_LATER, **PLAIN_BLOCK, "mlp.{x}": "mlp.{x}"}),
        ),
        fixed={"final_norm": True, "layer_scale": False}, eps=1e-12, positions="bicubic",
    ),
    HF_DINOV2,
    replace(
        HF_DINOV2, name="hf-dinov2-registers", signs=(*HF_DINOV2.signs, "embeddings.register_tokens"), absent=(),
        positions="antialiased",
    ),
    Family(
        "hf-dinov3", "DINOv3",
        ("embeddings.patch_embeddings.weight|embeddings.patch_embeddings.bias", "*layer.*.attention.*_proj.*"),
        backbone_left_out=("embeddings.mask_token",),
        names=(
            ("embeddings.cls_token", "cls_token"),
            ("embeddings.register_tokens", "register_tokens"),
            ("embeddings.patch_embeddings.{p}", "patch_embed.proj.{p}"),
            *_each("layer.{i}.", BLOCK, {**JOINED_LATER, **SCALED_BLOCK, **GATED_MLP}),
            *_each("model.layer.{i}.", BLOCK, {**JOINED_LATER, **SCALED_BLOCK, **GATED_MLP}),
        ),
        fixed={**DINOV3, "layer_scale": True}, heads=DINOV3_HEADS, eps=1e-5, computes_periods=True, tap_norm=True,
    ),
    Family(
        "hf-swin", "Swin", (HF_SIGN, "encoder.layers.0.blocks.*"),
        backbone_left_out=("*.relative_position_index", "embeddings.mask_token"),
        names=(
            ("embeddings.norm.{p}", "patch_embed.norm.{p}"),
            *TOKENS,
            *_each("encoder.layers.{i}.blocks.{j}.", "layers.{i}.blocks.{j}.", SWIN_BLOCK),
            ("encoder.layers.{i}.downsample.{x}", "layers.{i}.downsample.{x}"),
        ),
    ),
    Family(  # of torch.hub and of its training
        "dinov3", "DINOv3", ("blocks.*", "storage_tokens|rope_embed.periods|*.attn.qkv.bias_mask"),
        absent=("pos_embed",), networks={"teacher": ""},
        backbone_left_out=("mask_token", "local_cls_norm.*"),  # the latter is for local crops in training
        names=(
            ("storage_tokens", "register_tokens"),
            *_each(BLOCK + "mlp.", BLOCK + "mlp.", {"w1.{p}": "gate.{p}", "w2.{p}": "up.{p}", "w3.{p}": "down.{p}"}),
        ),
        fixed=DINOV3, heads=DINOV3_HEADS, eps=1e-5, tap_norm=True,
    ),
    Family(
        "dinov3-timm", "DINOv3",
        ("blocks.*", "blocks.*.gamma_1|blocks.*.gamma_2", "reg_token|blocks.*.attn.q_bias|norm.*"),
        absent=("pos_embed", "*.relative_position_bias_table", "*.rel_pos*", "fc_norm.*"),
        backbone_left_out=("head.*",),
        names=(
            ("reg_token", "register_tokens"),
            *_each(BLOCK, BLOCK, {"gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}),
            *_each(BLOCK + "mlp.", BLOCK + "mlp.", {"fc1_g.{p}": "gate.{p}", "fc1_x.{p}": "up.{p}"}),
        ),
        fixed={**DINOV3, "layer_scale": True}, heads=DINOV3_HEADS, eps=1e-5, computes_periods=True, tap_norm=True,
    ),
    Family(
        "vissl", "ViT", ("blocks.*", "pos_embedding|class_token"),
        absent=("pos_embed", "cls_token"), names=(("class_token", "cls_token"), ("pos_embedding", "pos_embed")),
        fixed=WITH_CLS, eps=1e-5,
    ),
    Family(
        "mmpretrain", "ViT", ("layers.*.ln1.*|layers.*.ln2.*", "layers.*.ffn.layers.*"),
        names=(
            ("patch_embed.projection.{p}", "patch_embed.proj.{p}"),
            *_each("layers.{i}.", BLOCK, MMPRETRAIN_BLOCK),
            ("ln1.{p}", "norm.{p}"),
        ),
        positions="bicubic",
    ),
    # I-JEPA's encoders
    Family("vit-no-cls", "ViT", ("blocks.*", MAE_TABLE_WITHOUT_CLS), fixed={**WITH_CLS, "cls_token": False}),
)  # fmt: skip


@dataclass(frozen=True)
class Trainer:
    """Where a training script or library keeps its networks in a checkpoint; inside is any :class:`Family`."""

    networks: Mapping[str, str]  # network -> prefix of its names; downstream tasks take the first by default
    left_out: tuple[str, ...] = ()  # names beside the networks that belong to no backbone
    signs: tuple[str, ...] = ()  # patterns that must each match a tensor's name
    method: str | None = None  # what is pretrained for certain, where this layout shows it


# what users of Lightning call the parts of a method that are no backbone
HEADS_OF_METHODS = (
    "*head*.*", "*projector*.*", "*projection*.*", "*predictor*.*", "*prototypes*.*", "*classifier*.*", "*loss*.*",
    "*criterion*.*", "*queue*", "*center*", "callbacks_*", "*metric*.*", "*probe*.*", "*knn*.*", "neck.*",
    "target_generator.*", "data_preprocessor.*", "decoder.*", "*ema_coefficient",
)  # fmt: skip
LIGHTLY_TRAIN = ("_embedding_model.wrapped_model._model.", "_embedding_model_wrapper._model.")

TRAINERS = (
    # ViTMAEForPreTraining
    Trainer({"backbone": "vit."}, ("decoder.*",), signs=("decoder.decoder_pred.*",), method="MAE"),
    *(
        Trainer({"backbone": f"{name}."}, ("classifier.*", "*_classifier.*", "decoder.*", "pooler.*"))
        for name in ("vit", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "ijepa", "swin")
    ),
    Trainer({"backbone": "classy_state_dict.base_model.model.trunk."}, ("classy_state_dict.*",)),  # VISSL
    Trainer(  # I-JEPA, whose predictor has blocks of its own
        {"teacher": "target_encoder.", "student": "encoder."},
        ("predictor.*",),
        signs=("target_encoder.*", "predictor.predictor_blocks.*"),
        method="I-JEPA",
    ),
    Trainer({"teacher": "teacher.backbone.", "student": "student.backbone."}, both("head.*", "*_head.*")),
    Trainer({"teacher": "teacher.", "student": "student."}, both("head.*", "*_head.*")),
    Trainer({"teacher": "teacher_backbone.", "student": "student_backbone."}, HEADS_OF_METHODS),  # lightly
    *(
        Trainer({"teacher": f"teacher{end}", "student": f"student{end}"}, HEADS_OF_METHODS, signs=(f"*{end}*",))
        for end in LIGHTLY_TRAIN
    ),
    Trainer({"backbone": LIGHTLY_TRAIN[0].removeprefix("_")}, HEADS_OF_METHODS),
    Trainer({"teacher": "backbone.teacher.", "student": "backbone.student."}, HEADS_OF_METHODS),  # stable-pretraining
    Trainer(  # solo-learn: its own evaluations take the student
        {"student": "backbone.", "teacher": "momentum_backbone."}, HEADS_OF_METHODS, signs=("momentum_backbone.*",)
    ),
    *(Trainer({"backbone": prefix}, HEADS_OF_METHODS) for prefix in ("backbone.", "encoder.", "trunk.", "net.")),
)
