"""Evaluation on a GPU: the CPU's masks but for ties, no waiting within a frame, and regions of channels-last maps."""

from __future__ import annotations

import pytest
import torch

from selfpatch.eval.measures.propagation import LabelPropagation, hard_labels, one_hot

pytestmark = pytest.mark.gpu


def video(device: str, frames: int = 9) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scene = torch.randn(30, 52, 64, generator=generator)
    noise = [0.5 * torch.randn(30, 52, 64, generator=generator) for _ in range(frames)]
    moved = [scene.roll((t // 2, t), (0, 1)) + noise[t] for t in range(frames)]
    labels = torch.zeros(30, 52, dtype=torch.long)
    labels[8:20, 10:30], labels[15:25, 35:45] = 1, 2
    return [tokens.to(device) for tokens in moved], one_hot(labels).to(device)


def followed(device: str) -> list[torch.Tensor]:
    frames, first = video(device)
    follow = LabelPropagation(frames[0], first)
    return [hard_labels(follow.step(tokens), (480, 832)).cpu() for tokens in frames[1:]]


def test_masks_are_the_cpus_but_for_ties():
    torch.backends.cuda.matmul.allow_tf32 = False
    for cpu, gpu in zip(followed("cpu"), followed("cuda"), strict=True):
        assert (cpu != gpu).float().mean() < 1e-3


def test_the_host_never_waits_within_a_frame():
    frames, first = video("cuda")
    follow = LabelPropagation(frames[0], first)
    hard_labels(follow.step(frames[1]), (480, 832))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        labels = hard_labels(follow.step(frames[2]), (480, 832))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert labels.any()


def test_regions_of_channels_last_maps_are_those_of_contiguous_ones():
    pytest.importorskip("mmcv.ops")
    from selfpatch.eval.dense.detection import RegionExtractor

    extractor = RegionExtractor(
        roi_layer={"type": "RoIAlign", "output_size": 7, "sampling_ratio": 0}, out_channels=8, featmap_strides=[4]
    ).to("cuda")
    level = torch.randn(1, 8, 32, 32, device="cuda")
    rois = torch.tensor([[0.0, 4.0, 8.0, 60.0, 90.0]], device="cuda")
    last = level.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(extractor([last], rois), extractor([level], rois))
