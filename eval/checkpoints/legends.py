"""Published weights by the first eight digits of their files' SHA-256, as their publishers state them in file names.

torch.hub names a file ``<name>-<eight digits>.pth`` and checks them when it downloads (``check_hash``). Listed are
DINOv3's (facebookresearch/dinov3, ``hub/backbones.py``) and DeiT's (facebookresearch/deit, README). DINO, MAE, iBOT and
SelfPatch publish none, so that their files stay unnamed here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Legend:
    """What is known of a published file."""

    name: str  # under which it was published
    method: str  # what trained it
    mean: tuple[float, ...] | None = None  # of its pixels, where they are not ImageNet's
    std: tuple[float, ...] | None = None


SATELLITE = {"mean": (0.430, 0.411, 0.296), "std": (0.213, 0.156, 0.143)}  # of SAT-493M's images

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
