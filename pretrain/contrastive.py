"""What contrastive methods are made of: a small head with a synchronised batch norm, queues of keys, and InfoNCE."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from mmengine.dist import all_gather, get_dist_info
from torch import Tensor, nn


class _SumOverProcesses(torch.autograd.Function):
    """The sum over all processes; every process's loss depends on it, so the gradients are summed as well.

    Written out, since torch.distributed.nn, which has it, is deprecated.
    """

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient


class SyncBatchNorm(nn.BatchNorm1d):
    """Batch norm of rows (n, C) over the rows of all processes, on GPU and on CPU (torch's own refuses CPU).

    All processes must bring equally many rows.
    """

    def forward(self, rows: Tensor) -> Tensor:
        """Rows in, normalised rows out; in training mode the running statistics move."""
        _, world = get_dist_info()
        if not self.training or world == 1:
            return super().forward(rows)
        count = len(rows) * world
        with torch.autocast(rows.device.type, enabled=False):
            x = rows.float()
            mean = _SumOverProcesses.apply(x.sum(0)) / count
            x = x - mean
            variance = _SumOverProcesses.apply(x.square().sum(0)) / count
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            x = x * (variance + self.eps).rsqrt() * self.weight + self.bias
        return x.to(rows.dtype)


class ContrastiveHead(nn.Module):
    """Linear, batch norm, ReLU, Linear: MoBY's projector and predictor (arXiv 2105.04553, section 3)."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_dim, hidden_dim)
        self.norm = SyncBatchNorm(hidden_dim)
        self.out = nn.Linear(hidden_dim, out_dim)

    def forward(self, rows: Tensor) -> Tensor:
        """(n, in_dim) -> (n, out_dim)."""
        return self.out(F.relu(self.norm(self.hidden(rows))))


class KeyQueue(nn.Module):
    """The latest keys, of all processes, as columns (D, K); starts as random unit vectors."""

    def __init__(self, dim: int, length: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(dim, length), dim=0))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))

    def negatives(self) -> Tensor:
        """The keys (D, K) as they are now: a copy, since the queue moves before the loss is differentiated."""
        return self.keys.clone()

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Let every process's keys, (B, D) or (B, n, D), replace the oldest, in the order of the global batch."""
        keys = in_global_order(keys).flatten(0, -2).to(self.keys.dtype)
        length, n = self.keys.shape[1], len(keys)
        places = (self.pointer + torch.arange(n, device=keys.device)) % length
        latest = slice(max(0, n - length), None)  # of a batch longer than the queue, what would be overwritten is left
        self.keys[:, places[latest]] = keys[latest].T
        self.pointer.copy_((self.pointer + n) % length)


def in_global_order(rows: Tensor) -> Tensor:
    """The rows (B, …) of all processes, (B·world, …): row j of process r stands at j·world + r."""
    return torch.stack(all_gather(rows.contiguous()), dim=1).flatten(0, 1)


def info_nce(queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """InfoNCE (arXiv 1807.03748, equation 4): each query must tell its key from the negatives; the mean over queries.

    Args:
        queries, keys: unit rows (n, D); row i of the one belongs to row i of the other.
        negatives: unit columns (D, K).
        temperature: τ.
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys = queries.float(), keys.float()
        positive = (queries * keys).sum(-1) / temperature  # (n,)
        others = (queries @ negatives.float()) / temperature  # (n, K)
        return (torch.logaddexp(positive, others.logsumexp(1)) - positive).mean()
