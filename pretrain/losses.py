"""Cross-entropies of self-distillation, each over a whole batch at once, and the centre against collapse."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of ``value`` over all processes of the run; ``value`` itself when there is one."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / dist.get_world_size()


@torch.no_grad()
def move_centre(centre: Tensor, batch_mean: Tensor, momentum: float = 0.9) -> None:
    """Move ``centre`` (K,) in place towards the mean (K,) of the teacher's logits, taken over all processes.

    DINO (arXiv 2104.14294), equation 4. Call it after the loss: a batch is centred by the batches before it.
    """
    centre.lerp_(mean_over_processes(batch_mean.to(centre.dtype)), 1 - momentum)


@torch.no_grad()
def teacher_probabilities(logits: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """The teacher's targets softmax((t - centre)/τ_t) over the last dimension, in float32; same shape as ``logits``."""
    return ((logits.float() - centre) / temperature).softmax(-1)


def crop_pair_cross_entropy(student: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """DINO's image-level loss: every teacher crop against every other student crop (arXiv 2104.14294, equation 3).

    Since a row of targets sums to 1, -Σ p·log softmax(s) = logsumexp(s) - Σ p·s, and one matrix product gives Σ p·s for
    all pairs: no tensor of pairs x batch x K is ever made.

    Args:
        student: logits (V, B, K) of V crops of B images.
        targets: probabilities (Q, B, K) of the teacher for the first Q of these crops.
        temperature: the student's τ_s.

    Returns:
        the scalar mean over the Q·(V - 1) pairs of different crops and over the batch.
    """
    V, B, _ = student.shape
    Q = len(targets)
    student = student.float() / temperature
    agreement = targets.flatten(1) @ student.flatten(1).T / B  # (Q, V)
    cross_entropy = student.logsumexp(-1).mean(1) - agreement  # (Q, V)
    other = 1 - torch.eye(Q, V, device=student.device)
    return (cross_entropy * other).sum() / (Q * (V - 1))


def patch_cross_entropy(student: Tensor, targets: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """SelfPatch's patch-level loss (arXiv 2206.07990, section 3.2): each patch against its own target.

    Args:
        student: logits (T, K) of all patches of all crops.
        targets: the teacher's probabilities (T, K) for the same patches.
        weights: (T,) each patch's share of the mean; sums to 1.
        temperature: the student's τ_s.
    """
    student = student.float() / temperature
    return weights @ (student.logsumexp(-1) - (targets * student).sum(-1))
