"""mmengine's Runner with what the project promises: safe, strict loading, whole files, one code for any hardware.

Pretraining, detectors and segmentors all train with this one Runner.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook, RuntimeInfoHook
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from selfpatch.pretrain.checkpoint import load_file, plain, point_to, save_file
from selfpatch.pretrain.cli import UserError

# forked workers, and no threads of OpenCV in them: they would fight for the cores
ENVIRONMENT = {"mp_cfg": {"mp_start_method": "fork", "opencv_num_threads": 0}}

# lines of mmengine's that are always the same
CHATTER = ("Hooks will be executed", "Distributed training is not used")


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The model itself, out of its DDP wrapper."""
    return model.module if is_model_wrapper(model) else model


class PreciseOptimWrapper(OptimWrapper):
    """An OptimWrapper whose forward pass runs under ``precision``: "fp32", or "bf16" autocast on CPU and GPU alike."""

    grad_norm: torch.Tensor | None = None  # of the last step, before clipping, over all parameters, where it is known

    def __init__(self, *args, precision: str = "fp32", **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.precision = precision

    @contextmanager
    def optim_context(self, model: torch.nn.Module) -> Iterator[None]:
        """Autocast around the forward pass, inside mmengine's own context (gradient accumulation)."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16, enabled=self.precision == "bf16"):
            yield


class SafeRunner(Runner):
    """A Runner that reads checkpoints safely and strictly, and writes them atomically.

    mmengine's own reads with full unpickling and ignores keys that do not match.
    """

    def load_checkpoint(self, filename: str, map_location="cpu", strict: bool = True, revise_keys=()) -> dict:
        """Load weights strictly; :class:`UserError` names keys that do not match."""
        checkpoint = load_file(filename)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        model = unwrapped(self.model)
        try:
            model.load_state_dict(checkpoint["state_dict"], strict=strict)
        except (RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{filename} does not fit the model: {reason[:600]}") from None
        self._has_loaded = True
        self.logger.info("loaded %s", filename)
        # resume() reads a "config" in the metadata as mmengine's own text; ours is a dict
        return {**checkpoint, "meta": {k: v for k, v in checkpoint.get("meta", {}).items() if k != "config"}}

    @master_only
    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        meta: dict[str, Any] | None = None,
        by_epoch: bool = True,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        **_,
    ) -> None:
        """Write the state of the run, atomically, as something that a safe load opens."""
        model = unwrapped(self.model)
        # hooks run before the loop counts the epoch (or iteration) that has just ended
        counts = {
            "epoch": self.epoch + int(by_epoch),
            "iter": self.iter + int(not by_epoch),
            "seed": self.seed,
        }
        checkpoint = {
            "meta": plain({**counts, **(meta or {})}),
            "state_dict": {key: value.cpu() for key, value in model.state_dict().items()},
            # its history objects need an unsafe load, and nothing here goes on from them
            "message_hub": {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}},
        }
        if save_optimizer:
            checkpoint["optimizer"] = self.optim_wrapper.state_dict()
        if save_param_scheduler and self.param_schedulers is not None:
            checkpoint["param_schedulers"] = plain([scheduler.state_dict() for scheduler in self.param_schedulers])
        self.call_hook("before_save_checkpoint", checkpoint=checkpoint)
        save_file(checkpoint, Path(out_dir) / filename)

    def build_optim_wrapper(self, optim_wrapper: OptimWrapper | Callable[[torch.nn.Module], OptimWrapper]):
        """The optimiser; a function makes it of the model."""
        if isinstance(optim_wrapper, OptimWrapper):
            return optim_wrapper
        return optim_wrapper(unwrapped(self.model))

    def wrap_model(self, model_wrapper_cfg: dict | None, model: torch.nn.Module) -> torch.nn.Module:
        """As mmengine's, but on CPU DDP must not be told a device."""
        if self.distributed and not torch.cuda.is_available():
            model_wrapper_cfg = {"type": "MMDistributedDataParallel", "device_ids": None, "broadcast_buffers": False}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # mmengine's, of an argument that nothing replaces yet
            return super().wrap_model(model_wrapper_cfg, model)

    def build_logger(self, *args, **kwargs) -> MMLogger:
        """mmengine's logger, without the lines that tell a user nothing."""
        logger = super().build_logger(*args, **kwargs)
        logger.addFilter(lambda record: not str(record.msg).startswith(CHATTER))
        return logger

    def _log_env(self, env_cfg: dict) -> None:
        """Only name the device: versions and config stand in every checkpoint and record."""
        self.logger.info("device %s, %d process(es)", "cuda" if torch.cuda.is_available() else "cpu", self.world_size)

    def dump_config(self) -> None:
        """The whole config stands in the checkpoint."""


class KeepCheckpoints(Hook):
    """Saves the run every ``interval`` epochs (or iterations) and at the end, and keeps the last ``keep`` files.

    ``checkpoint.pth`` always names the newest. The order is: write the new file whole, move the name, then delete: a
    kill at any moment leaves a checkpoint to go on from. A state that is not finite is never saved.

    Args:
        interval: epochs or iterations between checkpoints.
        advice: what a user is told to do about a state that is not finite.
        by_epoch: which of the two.
        keep: how many ``epoch_<n>.pth`` (``iter_<n>.pth``) stay.
        meta: what the metadata holds beside epoch, iteration and seed.
    """

    priority = "VERY_LOW"  # after everything that changes weights

    def __init__(
        self,
        interval: int,
        advice: str,
        by_epoch: bool = True,
        keep: int = 1,
        meta: dict[str, Any] | None = None,
    ) -> None:
        self.interval, self.by_epoch, self.keep, self.meta, self.advice = interval, by_epoch, keep, meta, advice

    def after_train_epoch(self, runner: Runner) -> None:
        """Save, if checkpoints go by epoch and this one is due."""
        if self.by_epoch and (self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner)):
            self._save(runner, f"epoch_{runner.epoch + 1}.pth")

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Save, if checkpoints go by iteration and this one is due."""
        if not self.by_epoch and (self.every_n_train_iters(runner, self.interval) or self.is_last_train_iter(runner)):
            self._save(runner, f"iter_{runner.iter + 1}.pth")

    @master_only
    def _save(self, runner: Runner, name: str) -> None:
        broken = [key for key, value in runner.model.state_dict().items() if not _finite(value)]
        if broken:
            raise UserError(f"{broken[0]} is not finite {last_good(runner, runner.iter)}; {self.advice}")
        folder = Path(runner.work_dir)
        runner.save_checkpoint(folder, name, meta=self.meta, by_epoch=self.by_epoch)
        point_to(folder / name, folder / "checkpoint.pth")
        saved = sorted(folder.glob(f"{name.partition('_')[0]}_*.pth"), key=lambda path: int(path.stem.split("_")[1]))
        for old in saved[: -self.keep]:
            old.unlink()
        runner.logger.info("saved %s", folder / name)


class ReadLosses(RuntimeInfoHook):
    """Hands losses and gradient norm of each step to the log, and stops the run at the first loss that is not finite.

    To read a number of a GPU is to wait for all that was asked of it before. So there the steps of an ``interval`` are
    read together, when they are logged; the host meanwhile runs ahead.

    Args:
        interval: iterations between lines of the log.
        advice: what a user is told to do about a loss that is not finite.
    """

    def __init__(self, interval: int, advice: str) -> None:
        super().__init__()
        self.interval, self.advice = interval, advice
        self.unread: list[tuple[int, dict[str, torch.Tensor]]] = []  # iteration, values

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        """Keep what this step gave; read all that is kept if it is time."""
        norm = runner.optim_wrapper.grad_norm
        self.unread.append((runner.iter, outputs if norm is None else {**outputs, "grad_norm": norm}))
        last = self.end_of_epoch(runner.train_dataloader, batch_idx)
        if last or self.every_n_train_iters(runner, self.interval) or not outputs["loss"].is_cuda:
            self._read(runner)

    def _read(self, runner: Runner) -> None:
        names = [(iteration, name) for iteration, values in self.unread for name in values]
        numbers = torch.stack([v.detach().float() for _, values in self.unread for v in values.values()]).tolist()
        self.unread.clear()
        for (iteration, name), number in zip(names, numbers):
            if name == "loss" and not math.isfinite(number):
                raise UserError(f"the loss is not finite {last_good(runner, iteration)}; {self.advice}")
            runner.message_hub.update_scalar(f"train/{name}", number)


def last_good(runner: Runner, iteration: int) -> str:
    """When a run has to stop, at an iteration counted from 0, and what is left of it."""
    newest = Path(runner.work_dir) / "checkpoint.pth"
    kept = f"the last good state is {newest}" if newest.exists() else "no checkpoint had been saved yet"
    return f"at iteration {iteration + 1}: {kept}"


def _finite(value: torch.Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())
