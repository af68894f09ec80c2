"""One global feature of each image of a set: computed once for a checkpoint and kept on disk.

The cache is a NumPy file named by everything that its content depends on; a run that was cut short goes on in it.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from selfpatch.eval.checkpoints.load import LoadedBackbone
from selfpatch.eval.checkpoints.pixels import IMAGENET, Pixels, PixelSettings, pixels_of
from selfpatch.eval.datasets.frames import normalised
from selfpatch.eval.datasets.image_folder import LabelledFolder
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.files import raise_unless_writable, write_text
from selfpatch.pretrain.images import read_picture
from selfpatch.pretrain.progress import Meter
from selfpatch.pretrain.settings import Settings, as_json

GLOBAL = "[CLS] of the last layer; without [CLS], the mean of its patch tokens"
SAVE_EVERY = 20.0  # seconds between the moments a kill would go back to


class Preprocessing(Settings):
    """How an image is read: part of every protocol that uses its feature."""

    resize: int = Field(256, ge=1, description="short side of an image before the centre crop")
    crop: int = Field(224, ge=1, description="side of the centre crop")  # both as DINO evaluates

    @model_validator(mode="after")
    def _fits(self) -> "Preprocessing":
        if self.resize < self.crop:
            wrong = f"--resize {self.resize} is smaller than --crop {self.crop}"
            raise UserError(f"{wrong}: the crop would leave the image")
        return self


class FeatureSettings(Preprocessing, PixelSettings):
    """What every task on cached features can be told."""

    features: Path = Field(Path("work_dirs/features"), description="where features are kept")
    batch: int = Field(64, ge=1, description="images a step of the backbone")
    workers: int = Field(min(4, os.cpu_count() or 1), ge=1, description="threads that read images")


def parameters(settings: FeatureSettings, backbone: LoadedBackbone) -> dict[str, object]:
    """What features depend on beside weights and images, as a protocol states it."""
    return {
        "feature": GLOBAL,
        "resize": settings.resize,
        "interpolation": "bicubic",
        "crop": settings.crop,
        **as_json(pixels_of(settings, backbone)),
    }


def read_image(path: Path, resize: int, crop: int, pixels: Pixels = IMAGENET) -> np.ndarray:
    """An image as the backbone takes it, (3, crop, crop): short side ``resize`` (bicubic), centre crop, normalised."""
    image = Image.fromarray(read_picture(path))
    width, height = image.size
    short = min(width, height)
    width, height = resize * width // short, resize * height // short
    left, top = round((width - crop) / 2), round((height - crop) / 2)
    image = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + crop, top + crop))
    return normalised(np.asarray(image), pixels.mean, pixels.std)


def features_of_folder(
    backbone: LoadedBackbone, folder: LabelledFolder, settings: FeatureSettings
) -> tuple[Tensor, Tensor]:
    """The global features (N, C) and (M, C), float32, of what is learnt from and of what is scored."""
    train, val = (
        torch.from_numpy(np.array(global_features(backbone, part.paths, title, folder.fingerprint, settings)))
        for title, part in (("train", folder.train), ("val", folder.val))
    )
    return train, val


def global_features(
    backbone: LoadedBackbone, paths: Sequence[Path], title: str, fingerprint: str, settings: FeatureSettings
) -> np.ndarray:
    """The global features (N, C), float32, of images, read-only, from the cache where they are there.

    Raises:
        UserError: an image cannot be read, or a feature is not finite.
    """
    identity = {
        "weights_sha256": backbone.weights_sha256,
        "arch": backbone.arch,  # the same weights compute something else with another number of heads
        "data": fingerprint,
        "part": title,
        "images": len(paths),
        "parameters": parameters(settings, backbone),
    }
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    path = settings.features / backbone.checkpoint_sha256[:12] / f"{title}-{name}.npy"
    raise_unless_writable(path.parent, "--features")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # who wants the same features waits, and finds them
        try:
            known = np.load(path, mmap_mode="r")
            if len(known) == len(paths):
                print(f"{title}: {len(paths)} features from {path}", flush=True)
                return known
        except (OSError, ValueError, EOFError):
            pass  # never made, or damaged: made again
        _extract(backbone, paths, title, path, settings)
        write_text(path.with_suffix(".json"), json.dumps(identity, indent=1) + "\n")
        return np.load(path, mmap_mode="r")


def _extract(
    backbone: LoadedBackbone, paths: Sequence[Path], title: str, path: Path, settings: FeatureSettings
) -> None:
    """Compute features into ``<name>.part.npy``, and in ``.part.json`` how many are safe; rename at the end."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = backbone.model.to(device).eval()
    half, note = path.with_suffix(".part.npy"), path.with_suffix(".part.json")
    try:
        done = int(json.loads(note.read_text())["rows"]) if half.exists() else 0
    except (OSError, ValueError, KeyError):
        done = 0
    shape = (len(paths), model.embed_dim)
    rows = np.lib.format.open_memmap(half, mode="r+" if done else "w+", dtype=np.float32, shape=shape)
    how = settings.resize, settings.crop, pixels_of(settings, backbone)
    saved = time.perf_counter()
    with (
        ThreadPoolExecutor(settings.workers) as pool,
        Meter(f"{title} features", len(paths), "images", done) as meter,
        torch.inference_mode(),
    ):

        def load(start: int) -> list:
            return [pool.submit(read_image, p, *how) for p in paths[start : start + settings.batch]]

        if done:
            print(f"{title}: going on after {done} of {len(paths)} images", flush=True)
        ahead = load(done)
        while done < len(paths):
            jobs, ahead = ahead, load(done + settings.batch)
            try:
                pixels = torch.from_numpy(np.stack([job.result() for job in jobs])).to(device)
            except UserError:
                pool.shutdown(cancel_futures=True)
                raise
            batch = model(pixels)[0].float().cpu().numpy()  # (B, C)
            if not np.isfinite(batch).all():
                raise UserError(f"the backbone's features are not finite for an image from {paths[done]} on")
            rows[done : done + len(batch)] = batch
            done += len(batch)
            meter.advance(len(batch))
            if time.perf_counter() - saved > SAVE_EVERY:
                rows.flush()
                write_text(note, json.dumps({"rows": done}))
                saved = time.perf_counter()
    rows.flush()
    os.replace(half, path)
    note.unlink(missing_ok=True)


def notes(backbone: LoadedBackbone) -> list[str]:
    """What a reader of the figures should know of the feature."""
    if backbone.arch.get("cls_token"):
        return []
    return ["the global feature is the mean of the patch tokens: this network has no [CLS]"]
