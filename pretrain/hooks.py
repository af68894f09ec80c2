"""What happens around a step: values set, the teacher moved, unreadable images counted, speed logged."""

import math
import resource
import sys
import time

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from selfpatch.pretrain.cli import UserError, listed
from selfpatch.pretrain.data import CropDataset, allowed_unreadable
from selfpatch.pretrain.runner import unwrapped


class SetStep(Hook):
    """Sets learning rate, weight decay, momentum and temperature before a step, and lets the method finish it.

    One hook for all of it: mmengine's parameter schedulers would give the group without weight decay one.
    """

    priority = "HIGHEST"  # before the values are logged; and the teacher has moved before anything is saved

    def __init__(self, schedule) -> None:
        self.schedule = schedule

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        step, method = self.schedule.at(runner.iter), unwrapped(runner.model)
        decayed, spared = runner.optim_wrapper.optimizer.param_groups
        decayed["lr"] = spared["lr"] = step.lr
        decayed["weight_decay"] = step.weight_decay
        runner.optim_wrapper.frozen = method.frozen_at_first() if step.last_layers_frozen else []
        method.set_step(runner.seed, runner.iter, step)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        unwrapped(runner.model).after_step()


class GoOnWithinEpoch(Hook):
    """Lets the first epoch after a resume begin at the batch that comes next; every other one begins at the first."""

    def before_train_epoch(self, runner: Runner) -> None:
        loader = runner.train_dataloader
        loader.sampler.start = runner.iter - runner.epoch * len(loader)


class LogStep(Hook):
    """Adds to mmengine's log what a pretraining run is watched by."""

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Start the clock at the first step of an epoch: loading belongs to every later one."""
        if batch_idx == 0:
            self.last = time.perf_counter()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict, outputs=None) -> None:
        """Log schedule values, images a second over all processes and peak memory in GB."""
        now, step = time.perf_counter(), unwrapped(runner.model).step
        images = data_batch["crops"][0].shape[1] * runner.world_size
        values = {
            "weight_decay": step.weight_decay,
            "momentum": step.momentum,
            "images_per_s": images / (now - self.last),
            "memory_gb": peak_memory_gb(),
        }
        for name, value in values.items():
            runner.message_hub.update_scalar(f"train/{name}", value)
        self.last = now


class WatchTargets(Hook):
    """Logs, and warns of, what tells of a collapse: how uniform the teacher's targets are, how far its tokens spread.

    Every ``interval`` iterations, of the first images of a batch:

    - ``<level>_entropy``: the mean entropy of the targets as a share of ln K; 1: they are uniform and teach nothing;
    - ``<level>_groups``: how many groups of images (or patches) the targets tell apart, the exponential of the entropy
      of their mean minus their mean entropy; 1: all have the same target, uniform or not;
    - ``token_spread``: the mean of 1 - cosine between patch tokens of all these images; 0: they are all alike.

    Args:
        warmup: iterations before the first warning: targets start uniform.
    """

    IMAGES = 16  # that are looked at, each in every global crop: below a hundredth of a step's time
    UNIFORM, ALIKE = 0.9, 1.2  # warn above this entropy, and below so many groups

    def __init__(self, interval: int, warmup: int) -> None:
        self.interval, self.warmup, self.warned = interval, warmup, set()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict, outputs=None) -> None:
        if not self.every_n_train_iters(runner, self.interval):
            return
        method = unwrapped(runner.model)
        crops = method.data_preprocessor({"crops": [data_batch["crops"][0][:, : self.IMAGES]]})["crops"][0]
        tokens, targets = method.diagnose(crops.flatten(0, 1))
        found = {"token_spread": spread(tokens.flatten(0, 1))}
        for level, probabilities in targets.items():
            own = entropy(probabilities).mean()
            found[f"{level}_entropy"] = float(own / math.log(probabilities.shape[1]))
            found[f"{level}_groups"] = float((entropy(probabilities.mean(0)) - own).exp())
        for name, value in found.items():
            runner.message_hub.update_scalar(f"train/{name}", value)
        if runner.iter >= self.warmup:
            for level, probabilities in targets.items():
                self._warn(runner, level, probabilities.shape[1], found)

    def _warn(self, runner: Runner, level: str, out_dim: int, found: dict[str, float]) -> None:
        share, groups = found[f"{level}_entropy"], found[f"{level}_groups"]
        complaint = None
        if share > self.UNIFORM:
            complaint = f"have grown uniform (entropy {share:.2f} of ln {out_dim}): nothing is learned from them"
        elif groups < self.ALIKE:
            complaint = f"have collapsed: all images have the same one (they tell {groups:.1f} groups apart)"
        if complaint and (level, complaint[:10]) not in self.warned:  # once each
            self.warned.add((level, complaint[:10]))
            runner.logger.warning(
                "the teacher's %s targets %s; other values of schedule.lr, schedule.teacher_temp and "
                "schedule.momentum may keep it from that",
                level,
                complaint,
            )


def entropy(probabilities: Tensor) -> Tensor:
    """The entropy in nats over the last dimension, whose rows sum to 1."""
    return torch.special.entr(probabilities).sum(-1)


def spread(tokens: Tensor) -> float:
    """The mean of 1 - cosine over all pairs of tokens (N, C): 0 where they are all alike."""
    return float(1 - F.normalize(tokens.float(), dim=-1).mean(0).square().sum())


def peak_memory_gb() -> float:
    """The most memory that this process has held: on the GPU where there is one, else resident on the host."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class CountUnreadable(Hook):
    """Names each unreadable image once, and stops the run when there are more than it may have."""

    priority = "VERY_HIGH"

    def __init__(self, dataset: CropDataset) -> None:
        self.dataset, self.seen = dataset, set()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        for number in set(data_batch["unreadable"]) - self.seen:
            runner.logger.warning("unreadable image, skipped: %s", self.dataset.path(number))
            self.seen.add(number)
        self._stop_if_too_many()

    def after_train_epoch(self, runner: Runner) -> None:
        self.seen.update(*all_gather_object(self.seen))
        self._stop_if_too_many()

    def _stop_if_too_many(self) -> None:
        allowed = allowed_unreadable(len(self.dataset))
        if len(self.seen) > allowed:
            bad = [self.dataset.path(number) for number in sorted(self.seen)]
            raise UserError(
                f"{len(bad)} of {len(self.dataset)} images cannot be read (at most {allowed} may): "
                f"{listed(bad, most=50)}; put readable files of the same names there and go on with --resume, "
                "or remove them and start anew in another --work-dir"
            )
