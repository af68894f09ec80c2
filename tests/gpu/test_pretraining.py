"""Pretraining on a GPU: near the CPU's results, in bf16 too, resumed across devices, and never waiting for results."""

from __future__ import annotations

import os
import subprocess
import sys

import golden_step
import numpy as np
import pytest
import torch

from selfpatch.pretrain.checkpoint import load_file
from selfpatch.pretrain.config import load_config
from selfpatch.pretrain.measure import training_step
from selfpatch.pretrain.train import build_method

pytestmark = pytest.mark.gpu
METHODS = ("selfpatch_toy", "dino_toy", "moby_toy")


def test_a_bf16_step_is_as_near_on_a_gpu_as_on_a_cpu(golden_selfpatch_step_):
    recorded = np.load(golden_selfpatch_step_)
    exact = golden_step.take_step(recorded, device="cuda")["loss"]
    cpu, gpu = (golden_step.take_step(recorded, device=d, precision="bf16")["loss"] for d in ("cpu", "cuda"))
    for name, value in exact.items():
        assert abs(gpu[name] - value) <= max(2 * abs(cpu[name] - value), 2**-8 * abs(value)), name


@pytest.mark.parametrize("name", METHODS)
def test_the_host_never_waits_in_a_step(name):
    config = load_config(name, {"precision": "bf16"})
    take = training_step(build_method(config).to("cuda").train(), config, batch=8)
    for _ in range(3):  # kernels are chosen, tables of neighbours are sent over
        take()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = take()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.isfinite()


def test_a_compiled_backbone_gives_the_same_loss():
    config = load_config("selfpatch_toy", {"precision": "fp32"})
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        method = build_method(config).to("cuda").train()
        if compiled:
            method.student["backbone"].compile()
        torch.manual_seed(1)
        losses.append(float(training_step(method, config, batch=4)()))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def trained(words: list[str], gpu: bool) -> None:
    visible = {} if gpu else {"CUDA_VISIBLE_DEVICES": ""}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **visible}
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("first", ["cpu", "cuda"])
def test_a_run_goes_on_on_another_device(photos, command, tmp_path, first):
    words = command(photos, tmp_path / "run")
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **({"CUDA_VISIBLE_DEVICES": ""} if first == "cpu" else {})},
    )
    for line in process.stdout:
        if "Epoch(train) [2][3/6]" in line:
            process.kill()
            break
    process.wait(timeout=60)
    assert load_file(tmp_path / "run" / "checkpoint.pth")["meta"]["epoch"] == 1
    trained([*words, "--resume"], gpu=first == "cpu")
    trained(command(photos, tmp_path / "whole"), gpu=False)
    expected, found = (load_file(tmp_path / run / "checkpoint.pth")["state_dict"] for run in ("whole", "run"))
    for name, value in expected.items():
        if value.is_floating_point():
            torch.testing.assert_close(found[name], value, rtol=5e-2, atol=5e-3, msg=name)


def test_one_process_over_nccl(photos, command, tmp_path):
    words = command(photos, tmp_path / "nccl", "--launcher", "pytorch")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    trained([*torchrun, *words[1:]], gpu=True)
    trained(command(photos, tmp_path / "alone"), gpu=True)
    one, other = (load_file(tmp_path / run / "checkpoint.pth")["state_dict"] for run in ("nccl", "alone"))
    for name, value in one.items():
        if value.is_floating_point():
            torch.testing.assert_close(other[name], value, rtol=1e-2, atol=1e-3, msg=name)
