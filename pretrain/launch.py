"""Training in several processes: joining those that a launcher started, and starting them on this machine."""

import ctypes
import json
import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.dist import init_dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from selfpatch.pretrain.cli import LAUNCHED, ProcessError, UserError

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
        for name, source in (("RANK", "SLURM_PROCID"), ("WORLD_SIZE", "SLURM_NTASKS"), ("LOCAL_RANK", "SLURM_LOCALID")):
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


def run_processes(count: int, module: str, argv: Sequence[str]) -> None:
    """Run ``count`` processes of ``python -m module argv --launcher pytorch`` until all have ended well.

    What ends one of them ends all, and is told once, not as the page of torch's launcher. Each must run its main
    through :func:`~selfpatch.pretrain.cli.run_command`. They die with this process, however it ends.

    Raises:
        UserError: one of them met a user's mistake.
        ProcessError: one of them crashed (the message is its traceback), or was stopped by a signal.
        KeyboardInterrupt: after Ctrl-C, once they have ended.
    """
    logging.disable()  # of the launcher; nothing else is logged in this process from here on
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # as torchrun does: processes must not fight for the cores
    os.environ[LAUNCHED] = "1"
    with tempfile.TemporaryDirectory(prefix="selfpatch-") as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, sys.executable)("-m", module, *argv, "--launcher", "pytorch")
        except ChildFailedError as error:
            raise _first_recorded(Path(folder)) or _sudden_end(error) from None
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise ProcessError(f"stopped by {error.sigval.name}\n", 128 + error.sigval) from None
        finally:
            del os.environ[LAUNCHED]  # this process tells its own


def _first_recorded(folder: Path) -> Exception | None:
    """What a process recorded at its end: a user's mistake before the crashes that it causes elsewhere."""
    files = sorted(folder.rglob("error.json"), key=lambda path: path.stat().st_mtime_ns)
    recorded = [json.loads(path.read_text(encoding="utf-8"))["message"] for path in files]
    for said in recorded:
        kind, _, text = said["message"].partition(": ")
        if kind == UserError.__name__:
            return UserError(text)
    return ProcessError(recorded[0]["extraInfo"]["py_callstack"], 1) if recorded else None


def _sudden_end(error: ChildFailedError) -> ProcessError:
    """What can be said of a process that could say nothing, such as one that ran out of memory."""
    rank, failure = error.get_first_failure()
    code = failure.exitcode
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    hint = " (out of memory?)" if code == -signal.SIGKILL else ""
    return ProcessError(f"process {rank} of --gpus {how}{hint}\n", 1)
