"""Schedules by global iteration, as plain functions of the iteration: a resumed run needs no state to go on."""

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


@dataclass
class Schedule:
    """What all schedules share. The fields, with their types and ranges, are the config's ``schedule``.

    Attributes:
        total, warmup: iterations of the run and of the warm-up.
        base_lr: the learning rate after warm-up, at this batch.

    Raises:
        UserError: the warm-up is not shorter than the run.
    """

    iterations: int  # iterations an epoch
    batch: int  # images a step over all processes
    epochs: Count  # length of the run
    warmup_epochs: Natural  # and of the warm-up of the learning rate
    lr: NotNegative  # the learning rate after warm-up is ``lr`` x batch / ``lr_batch``
    lr_batch: Count
    min_lr: NotNegative  # the learning rate at the end
    weight_decay: NotNegative  # of the first step
    momentum: Share  # of the teacher or key network at first
    momentum_end: Share  # and at last

    def __post_init__(self) -> None:
        if self.warmup_epochs >= self.epochs:
            raise UserError(
                f"schedule.warmup_epochs={self.warmup_epochs} is not shorter than schedule.epochs={self.epochs}: "
                "lower the one or raise the other"
            )
        self.total, self.warmup = self.epochs * self.iterations, self.warmup_epochs * self.iterations
        self.base_lr = self.scaled(self.lr)

    def scaled(self, lr: float) -> float:
        """A learning rate that is given for ``lr_batch`` images, at this batch."""
        return lr * self.batch / self.lr_batch

    def at(self, iteration: int) -> Step:
        """The values of global iteration ``iteration``, counted from 0."""
        raise NotImplementedError


@dataclass
class DINOSchedule(Schedule):
    """DINO's and SelfPatch's schedules; all values are read at the same iteration. ``min_lr`` is not scaled."""

    weight_decay_end: NotNegative  # the last weight decay
    teacher_temp_start: Positive  # τ_t, linearly by epoch, then constant
    teacher_temp: Positive
    teacher_temp_warmup_epochs: Natural
    freeze_last_layer_epochs: Natural  # epochs in which the heads' last layers get no gradient

    def at(self, iteration: int) -> Step:
        epoch = iteration // self.iterations
        temperatures = (self.teacher_temp_start, self.teacher_temp, self.teacher_temp_warmup_epochs)
        return Step(
            lr=cosine(iteration, self.base_lr, self.min_lr, self.total, self.warmup),
            weight_decay=cosine(iteration, self.weight_decay, self.weight_decay_end, self.total),
            momentum=cosine(iteration, self.momentum, self.momentum_end, self.total),
            teacher_temp=temperature_at(epoch, *temperatures),
            last_layers_frozen=epoch < self.freeze_last_layer_epochs,
        )


@dataclass
class MoBYSchedule(Schedule):
    """MoBY's schedules (arXiv 2105.04553, as published): the learning rate lags one iteration behind.

    Its warm-up starts at a rate of its own and ends below the base rate, since the cosine that follows counts from the
    very start of the run. Weight decay is constant.
    """

    warmup_lr: NotNegative  # the first learning rate; it and ``min_lr`` are scaled as the base rate is

    def at(self, iteration: int) -> Step:
        return Step(
            lr=self.lr_at(max(0, iteration - 1)),  # the published schedule is stepped after an update, with its number
            weight_decay=self.weight_decay,
            momentum=cosine(iteration, self.momentum, self.momentum_end, self.total),
            teacher_temp=1.0,  # no teacher's softmax here
        )

    def lr_at(self, t: int) -> float:
        """The learning rate after ``t`` updates of the schedule."""
        if t < self.warmup:
            first = self.scaled(self.warmup_lr)
            return first + t * (self.base_lr - first) / self.warmup
        return cosine(t, self.base_lr, self.scaled(self.min_lr), self.total)
