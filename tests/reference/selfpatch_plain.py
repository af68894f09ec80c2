"""A training step of DINO+SelfPatch as its definition reads: no sharing, no batching, nothing fused.

The benchmark's baseline, and a second opinion on the mathematics: it works on the parameters of a
``SelfPatchPretraining`` and must leave the same losses, centres and weights as that class's own step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfpatch.pretrain.schedules import Step
from selfpatch.pretrain.selfpatch import SelfPatchPretraining, neighbours


def attention(module: nn.Module, x: Tensor) -> Tensor:
    B, N, C = x.shape
    q, k, v = module.qkv(x).reshape(B, N, 3, module.heads, C // module.heads).permute(2, 0, 3, 1, 4)
    weights = ((q @ k.transpose(-2, -1)) * (C // module.heads) ** -0.5).softmax(dim=-1)
    return module.proj((weights @ v).transpose(1, 2).reshape(B, N, C))


def patch_tokens(vit: nn.Module, images: Tensor) -> Tensor:
    x, _ = vit.embed(images)
    for block in vit.blocks:
        x = x + attention(block.attn, block.norm1(x))
        x = x + block.mlp(block.norm2(x))
    return vit.norm(x)


def class_attention(module: nn.Module, x: Tensor) -> Tensor:
    """One token (M, C) from each set (M, n, C): keys and values of all of [c, x], in every block anew."""
    c = module.cls_token.expand(len(x), -1, -1)
    for block in module.blocks:
        z = block.norm1(torch.cat([c, x], dim=1))
        M, n, C = z.shape
        heads = block.attn.heads
        d = C // heads
        q = block.attn.q(z[:, :1]).reshape(M, 1, heads, d).transpose(1, 2)
        k = block.attn.k(z).reshape(M, n, heads, d).transpose(1, 2)
        v = block.attn.v(z).reshape(M, n, heads, d).transpose(1, 2)
        weights = ((q @ k.transpose(-2, -1)) * d**-0.5).softmax(dim=-1)
        c = c + block.attn.proj((weights @ v).transpose(1, 2).reshape(M, 1, C))
        c = c + block.mlp(block.norm2(c))
    return module.norm(c[:, 0])


def positives_of(x: Tensor, side: int, window: int, k: int) -> Tensor:
    """The k nearest neighbours' tokens (B·N, k, C) of each patch."""
    table = neighbours(side, side, window)
    around = x[:, table]  # (B, N, 8, C)
    similarity = F.cosine_similarity(x.unsqueeze(2), around, dim=-1)
    best = similarity.topk(k, dim=-1).indices
    return torch.gather(around, 2, best.unsqueeze(-1).expand(-1, -1, -1, x.shape[-1])).flatten(0, 1)


def plain_loss(method: SelfPatchPretraining, crops: list[Tensor], teacher_temp: float) -> tuple[Tensor, Tensor, Tensor]:
    """Total, image-level and patch-level loss; the centres move."""
    student, teacher = method.student, method.teacher
    student_cls, student_patches, teacher_cls, teacher_patches = [], [], [], []
    for views in crops:
        V = len(views)
        images = views.flatten(0, 1)
        x = patch_tokens(student["backbone"], images)
        student_cls += student["cls_head"](class_attention(student["aggregation"], x)).chunk(V)
        student_patches += student["patch_head"](student["aggregation"].norm(x)).chunk(V)
        with torch.no_grad():
            x = patch_tokens(teacher["backbone"], images)
            teacher_cls += teacher["cls_head"](class_attention(teacher["aggregation"], x)).chunk(V)
            side = round(x.shape[1] ** 0.5)
            module = teacher["aggregation"]
            targets = class_attention(module, positives_of(x, side, module.neighbourhood, module.k))
            teacher_patches += teacher["patch_head"](targets.view_as(x)).chunk(V)

    pairs = []
    for q in range(len(crops[0])):
        target = F.softmax((teacher_cls[q] - method.cls_center) / teacher_temp, dim=-1)
        for v in range(len(student_cls)):
            if v != q:
                pairs.append(-(target * F.log_softmax(student_cls[v] / method.student_temp, dim=-1)).sum(-1).mean())
    same = []
    for target, student_crop in zip(teacher_patches, student_patches):
        target = F.softmax((target - method.patch_center) / method.patch_teacher_temp, dim=-1)
        log_probability = F.log_softmax(student_crop / method.patch_student_temp, dim=-1)
        same.append(-(target * log_probability).sum(-1).mean())
    cls_loss, patch_loss = sum(pairs) / len(pairs), sum(same) / len(same)
    with torch.no_grad():
        m = method.center_momentum
        method.cls_center.copy_(m * method.cls_center + (1 - m) * torch.cat(teacher_cls).mean(0))
        patches = torch.cat([crop.flatten(0, 1) for crop in teacher_patches])
        method.patch_center.copy_(m * method.patch_center + (1 - m) * patches.mean(0))
    return cls_loss + method.patch_loss_weight * patch_loss, cls_loss, patch_loss


def plain_step(
    method: SelfPatchPretraining, crops: list[Tensor], optimizer: torch.optim.Optimizer, step: Step, clip: float = 3.0
) -> tuple[float, float, float]:
    """One whole step: loss, backward, clipping, AdamW, moving average, a parameter at a time."""
    losses = plain_loss(method, crops, step.teacher_temp)
    optimizer.zero_grad()
    losses[0].backward()
    for parameter in method.student.parameters():
        if parameter.grad is not None:
            norm = parameter.grad.norm(2)
            if clip / (norm + 1e-6) < 1:
                parameter.grad.mul_(clip / (norm + 1e-6))
    if step.last_layers_frozen:
        for parameter in method.frozen_at_first():
            parameter.grad = None
    optimizer.step()
    with torch.no_grad():
        for average, source in zip(method.teacher.parameters(), method.student.parameters()):
            average.mul_(step.momentum).add_((1 - step.momentum) * source)
    return tuple(float(loss.detach()) for loss in losses)
