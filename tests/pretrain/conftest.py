"""A tiny network on two dozen images, trained once for all tests that need a run; and how a user starts one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TINY = {
    "model.backbone.patch_size": 16,
    "model.backbone.embed_dim": 24,
    "model.backbone.depth": 2,
    "model.backbone.heads": 3,
    "model.backbone.img_size": 64,
    "model.backbone.drop_path_rate": 0.2,
    "model.out_dim": 64,
    "model.hidden_dim": 32,
    "model.bottleneck_dim": 16,
    "views.global1.size": 64,
    "views.global2.size": 64,
    "views.local.size": 48,
    "data.batch_size": 4,
    "data.workers": 0,
    "schedule.epochs": 3,
    "schedule.warmup_epochs": 1,
    "precision": "fp32",
    "log_interval": 1,
}


@pytest.fixture(scope="session")
def tiny() -> dict:
    """Options that make dino_toy a matter of seconds; with ``model.patch_out_dim`` selfpatch_toy as well."""
    return TINY


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """24 noisy images: six batches of four."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(24):
        pixels = random.integers(0, 256, (72, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="session")
def command() -> Callable[..., list[str]]:
    """The words that train a tiny network: (images, work dir, more options, config)."""

    def words(photos: Path, work_dir: Path, *more: str, config: str = "selfpatch_toy") -> list[str]:
        options = TINY | ({"model.patch_out_dim": 32} if config.startswith("selfpatch") else {})
        start = [sys.executable, "-m", "selfpatch.pretrain.train", config, "--data", str(photos)]
        given = [f"{key}={value}" for key, value in options.items()]
        return [*start, "--work-dir", str(work_dir), "--cfg-options", *given, *more]

    return words


@pytest.fixture(scope="session")
def run() -> Callable[[list[str]], subprocess.CompletedProcess]:
    """Runs words as a user would, and keeps what they print."""

    def done(words: list[str]) -> subprocess.CompletedProcess:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(words, capture_output=True, text=True, timeout=300, env=environment)

    return done


@pytest.fixture(scope="session")
def undisturbed(photos, command, run, tmp_path_factory) -> Path:
    """The work dir of a finished run: three epochs of selfpatch_toy, tiny."""
    work_dir = tmp_path_factory.mktemp("runs") / "undisturbed"
    done = run(command(photos, work_dir))
    assert done.returncode == 0, done.stderr
    return work_dir
