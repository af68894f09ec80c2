"""Cross-entropies of self-distillation, each over a whole batch at once, and the centre against collapse."""

import torch
from mmengine.dist import all_reduce
from torch import Tensor
from torch.autograd.function import once_differentiable


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of ``value`` over all processes of the run."""
    value = value.clone()
    all_reduce(value, "mean")
    return value


@torch.no_grad()
def move_center(center: Tensor, batch_mean: Tensor, momentum: float = 0.9) -> None:
    """Move ``center`` (K,) in place towards the mean (K,) of the teacher's logits, taken over all processes.

    DINO (arXiv 2104.14294), equation 4. Call it after the loss: a batch is centred by the batches before it.
    """
    center.lerp_(mean_over_processes(batch_mean.to(center.dtype)), 1 - momentum)


@torch.no_grad()
def teacher_probabilities(logits: Tensor, center: Tensor, temperature: float) -> Tensor:
    """The teacher's targets softmax((t - center)/τ_t) over the last dimension, in float32; same shape as ``logits``."""
    return ((logits.float() - center) / temperature).softmax(-1)


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
    with torch.autocast(student.device.type, enabled=False):  # a difference of large sums: bf16 would round it away
        student = student.float() / temperature
        agreement = targets.flatten(1) @ student.flatten(1).T / B  # (Q, V)
        cross_entropy = student.logsumexp(-1).mean(1) - agreement  # (Q, V)
        other = 1 - torch.eye(Q, V, device=student.device)
        return (cross_entropy * other).sum() / (Q * (V - 1))


def patch_cross_entropy(
    student: Tensor, teacher: Tensor, center: Tensor, weights: Tensor, student_temp: float, teacher_temp: float
) -> Tensor:
    """SelfPatch's patch-level loss (arXiv 2206.07990, section 3.2): each patch against its own target.

    Σ_i weights_i · Σ -softmax((teacher_i - center)/τ_t) · log softmax(student_i/τ_s), with its gradient, in one walk.

    Args:
        student: logits (T, K) of all patches of all crops.
        teacher: the teacher's logits (T, K) for the same patches; no gradient.
        center: (K,) mean of the teacher's logits.
        weights: (T,) each patch's share of the mean; sums to 1.
        student_temp, teacher_temp: τ_s and τ_t.
    """
    with torch.autocast(student.device.type, enabled=False):  # as above
        return _PatchCrossEntropy.apply(student, teacher, center, weights, student_temp, teacher_temp)


class _PatchCrossEntropy(torch.autograd.Function):
    """Loss and gradient in one walk over rows few enough to stay in the cache.

    There are thousands of patches times thousands of logits: as separate operations, each would go through memory.
    """

    @staticmethod
    def forward(ctx, student, teacher, center, weights, student_temp, teacher_temp):
        loss, gradient = torch.zeros((), device=student.device), torch.empty_like(student)
        shift = center / -teacher_temp
        sharpen = torch.full((1,), 1 / student_temp, device=student.device)  # as a float32 tensor it makes bf16 float32
        rows = 32 if student.device.type == "cpu" else 8192  # half a MB each; a GPU wants few large kernels
        for s, t, w, g in zip(*(x.split(rows) for x in (student, teacher, weights, gradient))):
            targets = torch.add(shift, t, alpha=1 / teacher_temp).softmax(-1)
            s = s * sharpen
            probabilities = s.softmax(-1)
            log_sum = s.amax(-1) - probabilities.amax(-1).log()  # logsumexp without a second walk of exponentials
            loss += w @ (log_sum - torch.linalg.vecdot(targets, s))  # as a row of targets sums to 1
            torch.mul(probabilities.sub_(targets), (w / student_temp).unsqueeze(1), out=g)
        ctx.gradient = gradient
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, from_loss):
        gradient, ctx.gradient = ctx.gradient, None  # scaled in place: it is the largest tensor of a step
        return gradient.mul_(from_loss), None, None, None, None, None
