"""The recorded training steps of MoBY, taken by this project's code; also a program, for several processes.

python golden_moby.py RECORDED.npz OUT.pt   (torchrun's environment variables say which share of the batch is taken)
"""

from __future__ import annotations

import os
import sys

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from selfpatch.pretrain.backbone import Backbone
from selfpatch.pretrain.moby import MoBYPretraining
from selfpatch.pretrain.schedules import MoBYSchedule

NAMES = (("linear_hidden.1.", "hidden."), ("linear_hidden.2.", "norm."), ("linear_out.", "out."))
NETWORKS = (
    ("encoder.", "student.backbone."),
    ("encoder_k.", "teacher.backbone."),
    ("projector.", "student.projector."),
    ("projector_k.", "teacher.projector."),
    ("predictor.", "student.predictor."),
)


class LinearBackbone(Backbone):
    """The recorded encoder, one Linear, behind the interface of a backbone: vectors in, (global, tokens, grid) out."""

    blocks = ()

    def __init__(self, in_dim: int, embed_dim: int) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.fc = nn.Linear(in_dim, embed_dim)

    def forward(self, vectors: Tensor, noise: None = None) -> tuple[Tensor, Tensor, tuple[int, int]]:
        features = self.fc(vectors)
        return features, features.unsqueeze(1), (1, 1)


def our_name(published: str) -> str:
    """The name under which this project keeps a published tensor."""
    if published.startswith("queue"):
        return {"queue1": "queue1.keys", "queue2": "queue2.keys", "queue_ptr": "queue1.pointer"}[published]
    for theirs, ours in NETWORKS:
        if published.startswith(theirs):
            published = ours + published.removeprefix(theirs)
            break
    for theirs, ours in NAMES:
        published = published.replace(theirs, ours)
    return published


def recorded_method(recorded) -> MoBYPretraining:
    """The method in its recorded state before the first step."""
    embed_dim, in_dim = recorded["init/encoder.fc.weight"].shape
    out_dim, hidden_dim = recorded["init/projector.linear_out.weight"].shape
    queue = recorded["init/queue1"].shape[1]
    backbone = {"type": LinearBackbone, "in_dim": in_dim, "embed_dim": embed_dim}
    method = MoBYPretraining(backbone, hidden_dim=hidden_dim, out_dim=out_dim, queue=queue)
    state = {our_name(name[5:]): torch.from_numpy(recorded[name]) for name in recorded.files if name[:5] == "init/"}
    state["queue2.pointer"] = state["queue1.pointer"]
    method.load_state_dict(state)
    return method.train()


def steps_of(recorded) -> list[int]:
    """The numbers of the recorded steps."""
    return sorted(int(name[4:-5]) for name in recorded.files if name.startswith("step") and name.endswith("/loss"))


def take_steps(recorded, rank: int = 0, world: int = 1) -> list[dict]:
    """Take the recorded steps with this process's share of each batch: loss and state after each."""
    method = recorded_method(recorded)
    optimiser = torch.optim.SGD(method.student.parameters(), lr=0.1)
    schedule = MoBYSchedule(
        int(recorded["iterations_total"]), 8, epochs=1, warmup_epochs=0, lr=0.1, lr_batch=8, warmup_lr=0.1, min_lr=0.1,
        weight_decay=0.0, momentum=0.99, momentum_end=1.0,
    )  # fmt: skip
    model = torch.nn.parallel.DistributedDataParallel(method) if world > 1 else method
    taken = []
    for i in steps_of(recorded):
        views = [torch.from_numpy(recorded[f"step{i}/view{v}"])[rank::world] for v in (1, 2)]
        method.set_step(0, i, schedule.at(i))
        parts = model([torch.stack(views)])
        optimiser.zero_grad()
        parts["loss"].backward()
        optimiser.step()
        state = {name: tensor.clone() for name, tensor in method.state_dict().items()}
        taken.append({"loss": float(parts["image"]), "state": state})  # the mean over processes
    return taken


if __name__ == "__main__":
    dist.init_process_group("gloo")
    taken = take_steps(np.load(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    if dist.get_rank() == 0:
        torch.save(taken, sys.argv[2])
