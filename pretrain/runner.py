"""mmengine's Runner with what the project promises: safe, strict loading, whole files, one code for any hardware.

Pretraining, detectors and segmentors all train with this one Runner.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import tempfile
import uuid
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist
from mmengine.dist import init_dist, master_only
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, OPTIM_WRAPPERS, RUNNERS
from mmengine.runner import Runner
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from selfpatch.pretrain.checkpoint import load_file, plain, point_to, save_file
from selfpatch.pretrain.cli import FAILURES, UserError

LAUNCHERS = {  # --launcher: the command that starts the processes, and what it tells each of them
    "pytorch": ("torchrun", ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")),
    "slurm": ("srun", ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NODELIST")),
}
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>: the signal that a process gets when its parent ends


def start_distributed(launcher: str) -> None:
    """Join the process group of ``launcher`` ("none", "pytorch" for torchrun, "slurm"); NCCL on GPUs, else gloo.

    The Runner would do so itself, but only after the data has asked for this process's rank, and never without a GPU.

    Raises:
        UserError: this process was not started by the launcher.
    """
    if launcher == "none" or dist.is_initialized():
        return
    check_launched(launcher)
    if launcher == "pytorch" and sys.platform == "linux":  # a killed launcher must not leave its processes at work
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if torch.cuda.is_available():
        torch.multiprocessing.set_start_method("fork", force=True)  # init_dist would choose spawn, the Runner fork
        init_dist(launcher)
        return
    if launcher == "slurm":  # torchrun sets these itself
        for name, source in (
            ("RANK", "SLURM_PROCID"),
            ("WORLD_SIZE", "SLURM_NTASKS"),
            ("LOCAL_RANK", "SLURM_LOCALID"),
        ):
            os.environ[name] = os.environ[source]
        os.environ.setdefault("MASTER_ADDR", os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"))
        os.environ.setdefault("MASTER_PORT", "29500")
    dist.init_process_group("gloo")


def check_launched(launcher: str, *needed: str) -> None:
    """Raise :class:`UserError` unless ``launcher`` has told this process the variables ``needed``; none named: all."""
    command, variables = LAUNCHERS[launcher]
    if missing := [name for name in needed or variables if name not in os.environ]:
        raise UserError(
            f"--launcher {launcher}: {missing[0]} is not set, so {command} did not start this process: "
            f"start it with {command}, or use --gpus N alone"
        )


def check_gpus(count: int) -> None:
    """Raise :class:`UserError` unless ``--gpus count`` is possible here; without a GPU it counts processes on CPU."""
    if count < 1:
        raise UserError(f"--gpus {count}: must be 1 or more")
    if torch.cuda.is_available() and count > torch.cuda.device_count():
        raise UserError(f"--gpus {count}: this machine has {torch.cuda.device_count()}")


def run_processes(count: int, module: str, argv: Sequence[str]) -> NoReturn:
    """Run ``count`` processes of ``python -m module argv --launcher pytorch``, and exit with their status.

    What ends one of them ends all, and is told once, not as the page of torch's launcher: a user's mistake in one line
    (status 2), a crash by its traceback (status 1). Each process must end through
    :func:`~selfpatch.pretrain.cli.run_command`. They die with this process, however it ends.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once they have ended.
    """
    logging.disable()  # of the launcher; nothing else is logged in this process from here on
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # as torchrun does: processes must not fight for the cores
    with tempfile.TemporaryDirectory(prefix="selfpatch-") as folder:
        failures = Path(folder, "failures")
        failures.mkdir()
        os.environ[FAILURES] = str(failures)
        one_machine = {"min_nodes": 1, "max_nodes": 1, "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
        config = LaunchConfig(
            **one_machine,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, sys.executable)("-m", module, *argv, "--launcher", "pytorch")
        except ChildFailedError as error:
            told, status = _first_failure(failures) or _sudden_end(error)
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            told, status = f"stopped by {error.sigval.name}\n", 128 + error.sigval
        else:
            told, status = "", 0
        finally:
            del os.environ[FAILURES]  # this process tells its own
    sys.stderr.write(told)
    sys.exit(status)


def _first_failure(folder: Path) -> tuple[str, int] | None:
    """What a process said at its end, and its status: a user's mistake before the crashes that it causes elsewhere."""
    said = [(path, int(path.name.rpartition("-")[2])) for path in sorted(folder.iterdir())]
    for wanted in (2, 1):
        for path, status in said:
            if status == wanted:
                return path.read_text(), status
    return None


def _sudden_end(error: ChildFailedError) -> tuple[str, int]:
    """What can be said of a process that could say nothing, such as one that ran out of memory."""
    rank, failure = error.get_first_failure()
    code = failure.exitcode
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    hint = " (out of memory?)" if code == -signal.SIGKILL else ""
    return f"process {rank} of --gpus {how}{hint}\n", 1


# forked workers, and no threads of OpenCV in them: they would fight for the cores
ENVIRONMENT = {"mp_cfg": {"mp_start_method": "fork", "opencv_num_threads": 0}}


PRECISIONS = ("fp32", "bf16")
# lines of mmengine's that are always the same
CHATTER = ("Hooks will be executed", "Distributed training is not used")


@OPTIM_WRAPPERS.register_module()
class PreciseOptimWrapper(OptimWrapper):
    """An OptimWrapper whose forward pass runs under ``precision``: "fp32", or "bf16" autocast on CPU and GPU alike."""

    def __init__(self, *args, precision: str = "fp32", **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if precision not in PRECISIONS:
            raise UserError(f"precision={precision!r} is unknown: choose {' or '.join(PRECISIONS)}")
        self.precision = precision

    def optim_context(self, model: torch.nn.Module):
        """Autocast around the forward pass, inside mmengine's own context (gradient accumulation)."""
        device = next(model.parameters()).device.type
        stack = super().optim_context(model)
        return _Nested(stack, torch.autocast(device, torch.bfloat16, enabled=self.precision == "bf16"))


class _Nested:
    """Two context managers as one."""

    def __init__(self, outer, inner) -> None:
        self.outer, self.inner = outer, inner

    def __enter__(self) -> None:
        self.outer.__enter__()
        self.inner.__enter__()

    def __exit__(self, *error) -> None:
        self.inner.__exit__(*error)
        self.outer.__exit__(*error)


@RUNNERS.register_module()
class SafeRunner(Runner):
    """A Runner that reads checkpoints safely and strictly, and writes them atomically.

    mmengine's own reads with full unpickling and ignores keys that do not match. ``unsafe_load`` is the user's word
    that a checkpoint may run code when it is read; None where there is no way to give it.
    """

    unsafe_load: bool | None = None

    def load_checkpoint(self, filename: str, map_location="cpu", strict: bool = True, revise_keys=()) -> dict:
        """Load weights strictly; :class:`UserError` names keys that do not match."""
        checkpoint = load_file(filename, unsafe=self.unsafe_load)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        model = self.model.module if is_model_wrapper(self.model) else self.model
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
        meta: dict | None = None,
        by_epoch: bool = True,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        **_,
    ) -> None:
        """Write the state of the run, atomically, as something that a safe load opens."""
        model = self.model.module if is_model_wrapper(self.model) else self.model
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


STEADIER = "a lower learning rate or fp32 may keep it finite"


@HOOKS.register_module()
class KeepCheckpoints(Hook):
    """Saves the run every ``interval`` epochs (or iterations) and at the end, and keeps the last ``keep`` files.

    ``checkpoint.pth`` always names the newest. The order is: write the new file whole, move the name, then delete: a
    kill at any moment leaves a checkpoint to go on from. A state that is not finite is never saved.

    Args:
        interval: epochs or iterations between checkpoints.
        by_epoch: which of the two.
        keep: how many ``epoch_<n>.pth`` (``iter_<n>.pth``) stay.
        meta: gives what the metadata holds beside epoch, iteration and seed.
        advice: what a user is told to do about a state that is not finite.
    """

    priority = "VERY_LOW"  # after everything that changes weights

    def __init__(
        self,
        interval: int,
        by_epoch: bool = True,
        keep: int = 1,
        meta: Callable[[Runner], dict] | None = None,
        advice: str = STEADIER,
    ):
        self.interval, self.by_epoch, self.keep, self.meta, self.advice = interval, by_epoch, keep, meta, advice

    def after_train_epoch(self, runner: Runner) -> None:
        """Save, if checkpoints go by epoch and this one is due."""
        if self.by_epoch and ((runner.epoch + 1) % self.interval == 0 or runner.epoch + 1 == runner.max_epochs):
            self._save(runner, f"epoch_{runner.epoch + 1}.pth")

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Save, if checkpoints go by iteration and this one is due."""
        if not self.by_epoch and ((runner.iter + 1) % self.interval == 0 or runner.iter + 1 == runner.max_iters):
            self._save(runner, f"iter_{runner.iter + 1}.pth")

    @master_only
    def _save(self, runner: Runner, name: str) -> None:
        broken = [key for key, value in runner.model.state_dict().items() if not _finite(value)]
        if broken:
            raise UserError(f"{broken[0]} is not finite {last_good(runner)}; {self.advice}")
        folder = Path(runner.work_dir)
        runner.save_checkpoint(folder, name, meta=self.meta(runner) if self.meta else {}, by_epoch=self.by_epoch)
        point_to(folder / name, folder / "checkpoint.pth")
        kind = name.split("_")[0]
        saved = sorted(folder.glob(f"{kind}_*.pth"), key=lambda path: int(path.stem.split("_")[1]))
        for old in saved[: -self.keep]:
            old.unlink()
        runner.logger.log(logging.INFO, "saved %s", folder / name)


@HOOKS.register_module()
class StopWhenNotFinite(Hook):
    """Stops the run at the first loss that is not finite; the last checkpoint stays as it is.

    Args:
        advice: what a user is told to do about it.
    """

    priority = "VERY_HIGH"

    def __init__(self, advice: str = STEADIER) -> None:
        self.advice = advice

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        """Look at the loss that has just been computed."""
        if outputs and not _finite(torch.as_tensor(outputs["loss"])):
            raise UserError(f"the loss is not finite {last_good(runner)}; {self.advice}")


def last_good(runner: Runner) -> str:
    """When a run has to stop, and what is left of it."""
    newest = Path(runner.work_dir) / "checkpoint.pth"
    kept = f"the last good state is {newest}" if newest.exists() else "no checkpoint had been saved yet"
    return f"at iteration {runner.iter + 1}: {kept}"


def _finite(value: torch.Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())
