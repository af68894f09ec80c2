"""The optimiser: two parameter groups, gradients clipped one parameter at a time, last layers frozen at first."""

import torch
from mmengine.config import Config
from torch import nn

from selfpatch.pretrain.runner import PreciseOptimWrapper


def parameter_groups(module: nn.Module) -> list[dict]:
    """Trainable parameters in two groups: matrices, which weight decay shrinks, and biases and vectors, spared by it.

    Position embeddings and [CLS] have more than one dimension and are decayed, as published.
    """
    decayed, spared = [], []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (spared if parameter.ndim == 1 or name.endswith(".bias") else decayed).append(parameter)
    return [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]


class PretrainOptimWrapper(PreciseOptimWrapper):
    """Clips gradients as the method's paper does, and removes those of :attr:`frozen` parameters.

    Args:
        clip: the largest gradient norm; None for no clipping.
        per_parameter: clip each parameter's gradient by its own norm (DINO), instead of all by their common one.
        precision: "fp32" or "bf16".
    """

    def __init__(self, *args, clip: float | None = None, per_parameter: bool = True, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.clip, self.per_parameter = clip, per_parameter
        self.frozen: list[nn.Parameter] = []

    def step(self, **kwargs) -> None:
        """Clip, drop what is frozen (no gradient: no update, no decay, no state), then step."""
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients))
        self.grad_norm = norms.norm()
        if self.clip is not None:
            clipped = norms if self.per_parameter else self.grad_norm.expand_as(norms)
            factors = (self.clip / (clipped + 1e-6)).clamp(max=1)
            torch._foreach_mul_(gradients, list(factors.unbind()))
        for parameter in self.frozen:
            parameter.grad = None
        self.optimizer.step(**kwargs)


def optimiser_of(method: nn.Module, config: Config, lr: float) -> PretrainOptimWrapper:
    """AdamW over :func:`parameter_groups` of a method, by the sections ``optimizer`` and ``precision`` of its config.

    Two groups, not one per parameter as mmengine makes them: only then are fused kernels fast.
    """
    own = config.optimizer
    adamw = torch.optim.AdamW(parameter_groups(method), lr=lr, betas=tuple(own.betas), eps=own.eps, fused=True)
    return PretrainOptimWrapper(adamw, clip=own.clip, per_parameter=own.clip_per_parameter, precision=config.precision)
