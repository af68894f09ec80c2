"""A step of MoBY as it is usually written: view by view, a loop over parameters, logits for the whole queue.

Kept beside the tests for two uses: ``selfpatch.pretrain.moby`` must equal it, and ``tools/bench.py`` times the two
against each other.
"""

from __future__ import annotations

import math
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mlp(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    """A projector or predictor."""
    return nn.Sequential(
        nn.Linear(in_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(inplace=True), nn.Linear(hidden_dim, out_dim)
    )


class PlainMoBY(nn.Module):
    """MoBY over any backbone whose first output is the global feature.

    Args:
        backbone: the online encoder; the key encoder is the same without drop path.
        total: iterations of the run, for the key network's momentum.
        hidden_dim, out_dim, queue, temperature: as for ``MoBYPretraining``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        total: int,
        hidden_dim: int = 4096,
        out_dim: int = 256,
        queue: int = 4096,
        temperature: float = 0.2,
    ) -> None:
        super().__init__()
        self.encoder = backbone
        self.projector = mlp(backbone.embed_dim, hidden_dim, out_dim)
        self.predictor = mlp(out_dim, hidden_dim, out_dim)
        self.encoder_k, self.projector_k = deepcopy(self.encoder), deepcopy(self.projector)
        for module in self.encoder_k.modules():
            if hasattr(module, "rate"):
                module.rate = 0.0
        for parameter in [*self.encoder_k.parameters(), *self.projector_k.parameters()]:
            parameter.requires_grad = False
        self.total, self.iteration, self.length, self.temperature = total, 0, queue, temperature
        self.register_buffer("queue1", F.normalize(torch.randn(out_dim, queue), dim=0))
        self.register_buffer("queue2", F.normalize(torch.randn(out_dim, queue), dim=0))
        self.pointer = 0

    @torch.no_grad()
    def move_keys(self) -> None:
        """One parameter after the other."""
        momentum = 1 - (1 - 0.99) * (math.cos(math.pi * self.iteration / self.total) + 1) / 2
        for online, key in ((self.encoder, self.encoder_k), (self.projector, self.projector_k)):
            for p, k in zip(online.parameters(), key.parameters()):
                k.data = k.data * momentum + p.data * (1 - momentum)
        self.iteration += 1

    @torch.no_grad()
    def enqueue(self, k1: Tensor, k2: Tensor) -> None:
        """The batch must divide the queue."""
        self.queue1[:, self.pointer : self.pointer + len(k1)] = k1.T
        self.queue2[:, self.pointer : self.pointer + len(k2)] = k2.T
        self.pointer = (self.pointer + len(k1)) % self.length

    def contrast(self, q: Tensor, k: Tensor, queue: Tensor) -> Tensor:
        """Cross-entropy of logits whose first column is the positive."""
        positive = torch.einsum("nc,nc->n", [q, k]).unsqueeze(-1)
        negative = torch.einsum("nc,ck->nk", [q, queue.clone().detach()])
        logits = torch.cat([positive, negative], dim=1) / self.temperature
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))

    def forward(self, view1: Tensor, view2: Tensor) -> Tensor:
        """The loss of two views (B, 3, S, S)."""
        q1 = F.normalize(self.predictor(self.projector(self.encoder(view1)[0])), dim=1)
        q2 = F.normalize(self.predictor(self.projector(self.encoder(view2)[0])), dim=1)
        with torch.no_grad():
            self.move_keys()
            k1 = F.normalize(self.projector_k(self.encoder_k(view1)[0]), dim=1)
            k2 = F.normalize(self.projector_k(self.encoder_k(view2)[0]), dim=1)
        loss = self.contrast(q1, k2, self.queue2) + self.contrast(q2, k1, self.queue1)
        self.enqueue(k1, k2)
        return loss


def plain_step(model: PlainMoBY, optimiser: torch.optim.Optimizer, view1: Tensor, view2: Tensor, clip: float = 5.0):
    """One optimisation step; returns the loss."""
    loss = model(view1, view2)
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimiser.step()
    return loss.detach()
