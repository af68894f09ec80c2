"""A folder of three classes that texture tells apart, and a small checkpoint: what k-NN and linear are tested on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from selfpatch.pretrain.checkpoint import save_file
from selfpatch.pretrain.vit import VisionTransformer

CLASSES = ("checks", "dots", "rows")


def texture(kind: str, random: np.random.Generator) -> Image.Image:
    y, x = np.mgrid[:40, :48] + random.integers(0, 16, 2)[:, None, None]
    pattern = {"checks": (x // 8 + y // 8) % 2, "dots": (x % 8 < 3) & (y % 8 < 3), "rows": y // 4 % 2}[kind]
    grey = 60 + 120 * pattern + random.normal(0, 8, pattern.shape)
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")


def write_classes(root: Path, each: int, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    for kind in CLASSES:
        (root / kind).mkdir(parents=True)
        for number in range(each):
            texture(kind, random).save(root / kind / f"{number:02}.png")
    return root


def write_checkpoint(path: Path, **options) -> Path:
    torch.manual_seed(0)
    sizes = {"embed_dim": 24, "depth": 1, "heads": 2, "img_size": 32, "patch_size": 8}
    model = VisionTransformer(**{**sizes, **options})
    state = {f"teacher.backbone.{name}": tensor for name, tensor in model.state_dict().items()}
    save_file({"state_dict": state, "meta": {"method": "DINO", "arch": model.arch, "epoch": 1, "seed": 0}}, path)
    return path
