"""The optimiser: two parameter groups, gradients clipped one parameter at a time, last layers held at first."""

from __future__ import annotations

import torch
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
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


@OPTIM_WRAPPERS.register_module()
class PretrainOptimWrapper(PreciseOptimWrapper):
    """Clips gradients as the method's paper does, and removes those of parameters that are held.

    Args:
        clip: the largest gradient norm; None for no clipping.
        per_parameter: clip each parameter's gradient by its own norm (DINO), instead of all by their common one.
        precision: "fp32" or "bf16".
    """

    def __init__(self, *args, clip: float | None = None, per_parameter: bool = True, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.clip, self.per_parameter = clip, per_parameter
        self.held: list[nn.Parameter] = []
        self.grad_norm = 0.0  # of the last step, before clipping, over all parameters

    def step(self, **kwargs) -> None:
        """Clip, drop what is held (no gradient: no update, no decay, no state), then step."""
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients))
        total = norms.norm()
        self.grad_norm = total
        if self.clip is not None:
            factors = (self.clip / ((norms if self.per_parameter else total.expand_as(norms)) + 1e-6)).clamp(max=1)
            torch._foreach_mul_(gradients, list(factors.unbind()))
        for parameter in self.held:
            parameter.grad = None
        self.optimizer.step(**kwargs)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TwoGroupConstructor:
    """Builds :class:`PretrainOptimWrapper` over AdamW with :func:`parameter_groups`.

    Two groups, not one per parameter as mmengine makes them: only then are fused kernels fast.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        self.config = {key: value for key, value in optim_wrapper_cfg.items() if key != "optimizer"}
        self.optimizer = {key: value for key, value in optim_wrapper_cfg["optimizer"].items() if key != "type"}

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """The wrapper for ``model``."""
        model = model.module if is_model_wrapper(model) else model
        optimizer = torch.optim.AdamW(parameter_groups(model), **self.optimizer)
        return OPTIM_WRAPPERS.build(self.config, default_args={"optimizer": optimizer})
