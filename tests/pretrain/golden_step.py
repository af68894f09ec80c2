"""One recorded training step of DINO+SelfPatch, taken by this project's code; also a program, for several processes.

python golden_step.py RECORDED.npz OUT.pt   (torchrun's environment variables say which share of the batch is taken)
"""

from __future__ import annotations

import os
import sys

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from selfpatch.pretrain.optim import PretrainOptimWrapper, parameter_groups
from selfpatch.pretrain.schedules import Step
from selfpatch.pretrain.selfpatch import SelfPatchPretraining

NAMES = (("ca_head.cls_blocks.", "aggregation.blocks."), ("ca_head.", "aggregation."))
NAMES += (("c_head.", "cls_head."), ("p_head.", "patch_head."))


def our_name(published: str) -> str:
    """The name under which this project keeps a published parameter."""
    for theirs, ours in NAMES:
        if published.startswith(theirs):
            return ours + published.removeprefix(theirs)
    return published


def recorded_method(recorded) -> SelfPatchPretraining:
    """The method in its recorded state before the step."""
    _, k, _, dim, depth, heads, out, patch_out, hidden, bottleneck = map(int, recorded["meta"])
    backbone = {"type": "VisionTransformer", "embed_dim": dim, "depth": depth, "heads": heads}
    method = SelfPatchPretraining(
        {**backbone, "cls_token": False, "final_norm": False},
        k=k,
        out_dim=out,
        patch_out_dim=patch_out,
        hidden_dim=hidden,
        bottleneck_dim=bottleneck,
    )
    for network in ("student", "teacher"):
        prefix = f"init/{network}/"
        state = {our_name(n[len(prefix) :]): recorded[n] for n in recorded.files if n.startswith(prefix)}
        getattr(method, network).load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    method.cls_center.copy_(torch.from_numpy(recorded["init/center"]).flatten())
    method.patch_center.copy_(torch.from_numpy(recorded["init/patch_center"]).flatten())
    return method.train()


def recorded_crops(recorded) -> list[Tensor]:
    """The batch: two crops of 224, eight of 96, as (V, B, 3, S, S)."""
    seed, _, batch = map(int, recorded["meta"][:3])
    random = np.random.RandomState(1000 + seed)
    crops = [random.standard_normal((batch, 3, s, s)).astype(np.float32) for s in (224, 224, *[96] * 8)]
    return [torch.from_numpy(np.stack(crops[:2])), torch.from_numpy(np.stack(crops[2:]))]


def take_step(recorded, rank: int = 0, world: int = 1, device: str = "cpu", precision: str = "fp32") -> dict:
    """Take the recorded step with this process's share of the batch: losses, centres, gradient norms, weights."""
    method = recorded_method(recorded).to(device)
    crops = [views[:, rank::world].to(device) for views in recorded_crops(recorded)]
    # lr, weight decay and momentum of the recorded step, in its first epoch: the last layers are frozen
    step = Step(lr=5e-4, weight_decay=0.04, momentum=0.996, teacher_temp=0.04, last_layers_frozen=True)
    groups = parameter_groups(method)
    groups[0]["weight_decay"] = step.weight_decay
    optimiser = PretrainOptimWrapper(torch.optim.AdamW(groups, lr=step.lr, fused=True), clip=3.0, precision=precision)
    optimiser.frozen = method.frozen_at_first()
    method.set_step(0, 0, step)
    model = torch.nn.parallel.DistributedDataParallel(method) if world > 1 else method

    with optimiser.optim_context(model):
        parts = model(crops)
    parts["loss"].backward()
    norms = {name: float(p.grad.norm()) for name, p in method.student.named_parameters() if p.grad is not None}
    optimiser.step()
    method.after_step()
    return {
        "loss": {name: float(value.detach()) for name, value in parts.items()},
        "cls_center": method.cls_center.cpu(),
        "patch_center": method.patch_center.cpu(),
        "grad_norm": norms,
        "student": {name: value.cpu() for name, value in method.student.state_dict().items()},
        "teacher": {name: value.cpu() for name, value in method.teacher.state_dict().items()},
    }


if __name__ == "__main__":
    dist.init_process_group("gloo")
    taken = take_step(np.load(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    if dist.get_rank() == 0:
        torch.save(taken, sys.argv[2])
