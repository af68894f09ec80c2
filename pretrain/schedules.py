"""Schedules by global iteration, as plain functions of the iteration: a resumed run needs no state to go on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.settings import Count, Natural, NotNegative, Positive, Share


@dataclass(frozen=True)
class Step:
    """What is set before one optimisation step."""

    lr: float
    weight_decay: float
    momentum: float  # of the teacher or key encoder
    teacher_temp: float
    last_layers_frozen: bool = False


def cosine(iteration: int, base: float, end: float, total: int, warmup: int = 0) -> float:
    """Linear warm-up from 0 to ``base`` over ``warmup`` iterations, then a cosine to ``end`` at iteration ``total``."""
    if iteration < warmup:
        return base * iteration / (warmup - 1) if warmup > 1 else 0.0  # a warm-up of one iteration is its start
    return end + 0.5 * (base - end) * (1 + math.cos(math.pi * (iteration - warmup) / (total - warmup)))


def temperature_at(epoch: int, start: float, end: float, warmup_epochs: int) -> float:
    """The teacher's temperature, constant within an epoch: ``warmup_epochs`` even steps from start to end, then end."""
    return float(np.linspace(start, end, warmup_epochs)[epoch]) if epoch < warmup_epochs else end


class DINOSchedule:
    """DINO's and SelfPatch's schedules; all values are read at the same iteration.

    Args:
        iterations: iterations an epoch.
        batch: images a step over all processes.
        epochs, warmup_epochs: length of the run and of the warm-up of the learning rate.
        lr, lr_batch: the learning rate after warm-up is ``lr`` x batch / ``lr_batch``.
        min_lr: the learning rate at the end (not scaled).
        weight_decay, weight_decay_end: first and last weight decay.
        momentum, momentum_end: first and last momentum of the teacher.
        teacher_temp_start, teacher_temp, teacher_temp_warmup_epochs: τ_t, linearly by epoch, then constant.
        freeze_last_layer_epochs: epochs in which the heads' last layers get no gradient.

    Attributes:
        base_lr: the learning rate after warm-up.

    Raises:
        UserError: the warm-up is not shorter than the run.
    """

    def __init__(
        self,
        iterations: int,
        batch: int,
        *,
        epochs: Count,
        warmup_epochs: Natural,
        lr: NotNegative,
        lr_batch: Count,
        min_lr: NotNegative,
        weight_decay: NotNegative,
        weight_decay_end: NotNegative,
        momentum: Share,
        momentum_end: Share,
        teacher_temp_start: Positive,
        teacher_temp: Positive,
        teacher_temp_warmup_epochs: Natural,
        freeze_last_layer_epochs: Natural,
    ) -> None:
        check_warmup(epochs, warmup_epochs)
        self.iterations, self.epochs = iterations, epochs
        self.total, self.warmup = epochs * iterations, warmup_epochs * iterations
        self.base_lr = lr * batch / lr_batch
        self.lr = (self.base_lr, min_lr)
        self.weight_decay = (weight_decay, weight_decay_end)
        self.momentum = (momentum, momentum_end)
        self.teacher_temp = (teacher_temp_start, teacher_temp, teacher_temp_warmup_epochs)
        self.freeze_last_layer_epochs = freeze_last_layer_epochs

    def at(self, iteration: int) -> Step:
        """The values of global iteration ``iteration``, counted from 0."""
        epoch = iteration // self.iterations
        return Step(
            lr=cosine(iteration, *self.lr, self.total, self.warmup),
            weight_decay=cosine(iteration, *self.weight_decay, self.total),
            momentum=cosine(iteration, *self.momentum, self.total),
            teacher_temp=temperature_at(epoch, *self.teacher_temp),
            last_layers_frozen=epoch < self.freeze_last_layer_epochs,
        )


class MoBYSchedule:
    """MoBY's schedules (arXiv 2105.04553, as published): the learning rate lags one iteration behind.

    Its warm-up starts at a rate of its own and ends below the base rate, since the cosine that follows counts from the
    very start of the run.

    Args:
        iterations: iterations an epoch.
        batch: images a step over all processes.
        epochs, warmup_epochs: length of the run and of the warm-up of the learning rate.
        lr, warmup_lr, min_lr, lr_batch: base, first and last learning rate, all x batch / ``lr_batch``.
        weight_decay: constant.
        momentum, momentum_end: first and last momentum of the key network.

    Attributes:
        base_lr: the scaled base learning rate.

    Raises:
        UserError: the warm-up is not shorter than the run.
    """

    def __init__(
        self,
        iterations: int,
        batch: int,
        *,
        epochs: Count,
        warmup_epochs: Natural,
        lr: NotNegative,
        lr_batch: Count,
        warmup_lr: NotNegative,
        min_lr: NotNegative,
        weight_decay: NotNegative,
        momentum: Share,
        momentum_end: Share,
    ) -> None:
        check_warmup(epochs, warmup_epochs)
        self.total, self.warmup = epochs * iterations, warmup_epochs * iterations
        self.warmup_lr, self.base_lr, self.min_lr = (rate * batch / lr_batch for rate in (warmup_lr, lr, min_lr))
        self.weight_decay, self.momentum = weight_decay, (momentum, momentum_end)

    def at(self, iteration: int) -> Step:
        """The values of global iteration ``iteration``, counted from 0."""
        return Step(
            lr=self.lr_at(max(0, iteration - 1)),  # the published schedule is stepped after an update, with its number
            weight_decay=self.weight_decay,
            momentum=cosine(iteration, *self.momentum, self.total),
            teacher_temp=1.0,  # no teacher's softmax here
        )

    def lr_at(self, t: int) -> float:
        """The learning rate after ``t`` updates of the schedule."""
        if t < self.warmup:
            return self.warmup_lr + t * (self.base_lr - self.warmup_lr) / self.warmup
        return cosine(t, self.base_lr, self.min_lr, self.total)


def check_warmup(epochs: int, warmup_epochs: int) -> None:
    """Raise :class:`UserError` unless the warm-up is shorter than the run."""
    if warmup_epochs >= epochs:
        raise UserError(
            f"schedule.warmup_epochs={warmup_epochs} is not shorter than schedule.epochs={epochs}: "
            "lower the one or raise the other"
        )
