"""What to say of a network that this project has no model for: by which name it is known, and what it is; data."""

import re
from collections.abc import Collection

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
