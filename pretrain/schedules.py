"""Schedules by global iteration, as plain functions of the iteration: a resumed run needs no state to go on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from selfpatch.pretrain.cli import UserError


@dataclass(frozen=True)
class Step:
    """What is set before one optimisation step."""

    lr: float
    weight_decay: float
    momentum: float  # of the teacher or key encoder
    teacher_temp: float


def cosine(iteration: int, base: float, end: float, total: int, warmup: int = 0) -> float:
    """Linear warm-up from 0 to ``base`` over ``warmup`` iterations, then a cosine to ``end`` at iteration ``total``."""
    if iteration < warmup:
        return base * iteration / (warmup - 1) if warmup > 1 else 0.0  # a warm-up of one iteration is its start
    return end + 0.5 * (base - end) * (1 + math.cos(math.pi * (iteration - warmup) / (total - warmup)))


def temperature_at(epoch: int, start: float, end: float, warmup_epochs: int) -> float:
    """The teacher's temperature, constant within an epoch: ``warmup_epochs`` even steps from start to end, then end."""
    return float(np.linspace(start, end, warmup_epochs)[epoch]) if epoch < warmup_epochs else end


class DINOSchedule:
    """DINO's and SelfPatch's schedules: all four values are read at the same iteration.

    Args:
        recipe: the ``schedule`` section of a config.
        iterations: iterations an epoch.
        batch: images a step over all processes; the learning rate is ``lr`` x batch / ``lr_batch``.

    Raises:
        UserError: the warm-up is not shorter than the run.
    """

    def __init__(self, recipe: dict, iterations: int, batch: int) -> None:
        if recipe["warmup_epochs"] >= recipe["epochs"]:
            raise UserError(
                f"schedule.warmup_epochs={recipe['warmup_epochs']} is not shorter than "
                f"schedule.epochs={recipe['epochs']}: lower the one or raise the other"
            )
        self.recipe, self.iterations = recipe, iterations
        self.total = recipe["epochs"] * iterations
        self.warmup = recipe["warmup_epochs"] * iterations
        self.scale = batch / recipe["lr_batch"]

    def at(self, iteration: int) -> Step:
        """The values of global iteration ``iteration``, counted from 0."""
        r = self.recipe
        return Step(
            lr=cosine(iteration, r["lr"] * self.scale, r["min_lr"], self.total, self.warmup),
            weight_decay=cosine(iteration, r["weight_decay"], r["weight_decay_end"], self.total),
            momentum=cosine(iteration, r["momentum"], r["momentum_end"], self.total),
            teacher_temp=temperature_at(
                iteration // self.iterations,
                r["teacher_temp_start"],
                r["teacher_temp"],
                r["teacher_temp_warmup_epochs"],
            ),
        )
