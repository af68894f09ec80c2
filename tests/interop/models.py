"""Other libraries' models at reduced width with random weights, and how each of them computes its tokens."""

from __future__ import annotations

import torch

NATIVE, OTHER = (64, 64), (96, 48)  # pixels; patches of 8
SWIN_SIZES = ((256, 256), (256, 384))  # every grid larger than a window of 4, so that all libraries shift alike
WIDTH, DEPTH, HEADS, PATCH = 48, 3, 3, 8
PLAIN = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "image_size": 64,
    "patch_size": PATCH,
}
MLP = {"intermediate_size": 4 * WIDTH}
SWIN = {"image_size": 256, "embed_dim": 16, "depths": [1, 2, 2, 1], "num_heads": [1, 2, 4, 8], "window_size": 4}

# name: (configuration, model, options, the method that a folder of it tells)
HUGGING_FACE = {
    "ViT": ("ViTConfig", "ViTModel", {**PLAIN, **MLP}, "ViT"),
    "ViT, classifier": ("ViTConfig", "ViTForImageClassification", {**PLAIN, **MLP}, "ViT"),
    "DeiT": ("DeiTConfig", "DeiTModel", {**PLAIN, **MLP}, "DeiT (supervised)"),
    "MSN": ("ViTMSNConfig", "ViTMSNModel", {**PLAIN, **MLP}, "MSN"),
    "I-JEPA": ("IJepaConfig", "IJepaModel", {**PLAIN, **MLP}, "I-JEPA"),
    "MAE": ("ViTMAEConfig", "ViTMAEModel", {**PLAIN, **MLP, "mask_ratio": 0.0}, "MAE"),
    "MAE, decoder": (
        "ViTMAEConfig",
        "ViTMAEForPreTraining",
        {**PLAIN, **MLP, "mask_ratio": 0.0, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1,
         "decoder_num_attention_heads": 2, "decoder_intermediate_size": 64},
        "MAE",
    ),
    "DINOv2": ("Dinov2Config", "Dinov2Model", PLAIN, "DINOv2"),
    "DINOv2, classifier": ("Dinov2Config", "Dinov2ForImageClassification", PLAIN, "DINOv2"),
    "DINOv2, giant": ("Dinov2Config", "Dinov2Model", {**PLAIN, "use_swiglu_ffn": True}, "DINOv2"),
    "DINOv2, registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", PLAIN, "DINOv2"),
    "DINOv3": ("DINOv3ViTConfig", "DINOv3ViTModel", {**PLAIN, **MLP, "num_register_tokens": 4}, "DINOv3"),
    "DINOv3, gated": (
        "DINOv3ViTConfig",
        "DINOv3ViTModel",
        {**PLAIN, **MLP, "num_register_tokens": 4, "use_gated_mlp": True, "hidden_act": "silu"},
        "DINOv3",
    ),
    "Swin": ("SwinConfig", "SwinModel", SWIN, "Swin"),
}  # fmt: skip
REDUCED = {"depth": DEPTH, "embed_dim": WIDTH, "num_heads": HEADS, "img_size": 64, "patch_size": PATCH}
TIMM = {  # name: (timm's name, options, the method that a folder of it tells)
    "vit": ("vit_small_patch16_224", {**REDUCED, "dynamic_img_size": True}, "ViT"),
    "deit3": ("deit3_small_patch16_224", {**REDUCED, "dynamic_img_size": True}, "ViT"),
    "dinov2": ("vit_small_patch14_dinov2", {**REDUCED, "dynamic_img_size": True}, "ViT"),
    "dinov2, giant": ("vit_giant_patch14_dinov2", {**REDUCED, "dynamic_img_size": True}, "ViT"),
    "dinov2, registers": ("vit_small_patch14_reg4_dinov2", {**REDUCED, "dynamic_img_size": True}, "ViT"),
    "dinov3": ("vit_small_patch16_dinov3", REDUCED, "DINOv3"),
    "dinov3, biases": ("vit_small_patch16_dinov3_qkvb", REDUCED, "DINOv3"),
    "dinov3, gated": ("vit_small_plus_patch16_dinov3", REDUCED, "DINOv3"),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 256, "embed_dim": 16, "depths": (1, 2, 2, 1), "num_heads": (1, 2, 4, 8), "window_size": 4,
         "strict_img_size": False},
        "Swin",
    ),
}  # fmt: skip


@torch.no_grad()
def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """``model`` with weights none of which is zero or one, so that none can be mistaken for a fresh one."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "position_embeddings" in name and not parameter.requires_grad:  # MAE's table of sines and cosines
            continue
        parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
        if "norm" in name and name.endswith("weight"):
            parameter.add_(1)
    return model.eval()


def hugging_face(transformers, name: str) -> torch.nn.Module:
    config, model, options, _ = HUGGING_FACE[name]
    return randomised(getattr(transformers, model)(getattr(transformers, config)(**options)))


def timm_model(timm, name: str) -> torch.nn.Module:
    kind, options, _ = TIMM[name]
    return randomised(timm.create_model(kind, **options))


@torch.no_grad()
def hugging_face_tokens(model: torch.nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The last tokens after the final norm, and the tokens after every block before it, prefix tokens included."""
    base = model if type(model).__name__.endswith("Model") else getattr(model, model.base_model_prefix)
    options = {"output_hidden_states": True}
    if base.config.model_type in ("vit", "deit", "vit_msn", "vit_mae", "ijepa"):
        options["interpolate_pos_encoding"] = True
    if base.config.model_type == "vit_mae":  # in the order of the image, not shuffled
        patches = images.shape[2] // PATCH * (images.shape[3] // PATCH)
        options["noise"] = torch.arange(patches, dtype=torch.float32).expand(len(images), -1)
    found = base(images, **options)
    return found.last_hidden_state, list(found.hidden_states[1:])


@torch.no_grad()
def timm_tokens(model: torch.nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The same of a timm model; of a Swin (B, N, C) without prefix tokens."""
    if hasattr(model, "num_prefix_tokens"):
        taken = model.forward_intermediates(
            images, norm=False, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )
        return model.forward_features(images), [torch.cat([prefix, patches], dim=1) for patches, prefix in taken]
    if tuple(images.shape[2:]) != SWIN_SIZES[0]:
        model.set_input_size(tuple(images.shape[2:]), window_size=(4, 4))
    taken = model.forward_intermediates(images, output_fmt="NCHW", intermediates_only=True)
    return model.forward_features(images).flatten(1, 2), [grid.flatten(2).mT for grid in taken]
