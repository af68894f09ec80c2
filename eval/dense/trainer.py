"""Training and testing of a detector or segmentor: what COCO and ADE20K share.

A task describes its job as a :class:`Plan`; :func:`train_and_test` does the rest on mmengine's Runner: it goes on where
a run stopped, estimates its cost, and shares the batch among processes. Counting is in iterations throughout; one
iteration is one step of the optimiser on the whole batch.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from mmengine.config import Config, ConfigDict
from mmengine.dataset import DefaultSampler
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook, LoggerHook
from mmengine.registry import DATASETS, init_default_scope
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from selfpatch.eval.checkpoints.load import LoadedBackbone
from selfpatch.eval.dense.image_stream import Batches, ImageStream, Loader
from selfpatch.eval.dense.pyramid import CertifyBackbone
from selfpatch.eval.dense.recipe import Recipe, RunSettings
from selfpatch.pretrain import launch, tracking
from selfpatch.pretrain.cli import UserError
from selfpatch.pretrain.files import write_text
from selfpatch.pretrain.runner import ENVIRONMENT, KeepCheckpoints, PreciseOptimWrapper, ReadLosses, SafeRunner

UNDECAYED = ("pos_embed", "cls_token", "register_tokens", "relative_position_bias_table")
DIVERGED = "the same command goes on from there; with a lower --lr or --precision fp32 it trains anew"
TIMED_STEPS = 3  # of a dry run, after one to warm up


@dataclass(frozen=True)
class Plan:
    """One job: what is trained on what, and how it is measured."""

    name: str  # a word for its folder
    scope: str  # the library whose registries are searched, "mmdet" or "mmseg"
    model: dict[str, Any]  # its config, complete
    train_data: dict[str, Any]  # config of the training set, in scope
    test_data: dict[str, Any]  # config of the test set
    metric: BaseMetric  # what measures; it keeps what the task wants to know, on the first process
    recipe: Recipe  # how it is trained
    # what the trained weights depend on; two plans share a working folder only if these are equal
    identity: dict[str, Any]
    grouped: bool = False  # whether images of a pair should be both wide or both tall, so that little is padded

    def folder(self, out: Path) -> Path:
        """Where its weights lie below ``out``: a place of its own for each identity."""
        text = json.dumps(self.identity, sort_keys=True)
        return out / f"{self.name}@{self.recipe.version}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def processes_of(settings: RunSettings) -> int:
    """How many processes share the work: as many as the launcher has started, or are to be started here.

    Raises:
        UserError: there are fewer GPUs, or the launcher did not start this process.
    """
    if settings.launcher == "none":
        launch.check_gpus(settings.gpus)
        return settings.gpus
    _, (_, count, *_) = launch.LAUNCHERS[settings.launcher]
    launch.check_launched(settings.launcher, count)
    return int(os.environ[count])


def train_and_test(plan: Plan, out: Path, settings: RunSettings) -> bool:
    """Train, or go on, or find it trained; then test.

    Args:
        out: where jobs of this checkpoint lie; each plan has a folder of its own in it.

    Returns:
        whether ``plan.metric`` holds the result: not after a dry run, nor in a process that is not the first.

    Raises:
        UserError: the batch cannot be shared as asked, another process works in the folder, or the run diverges.
    """
    processes = processes_of(settings)
    if plan.recipe.batch_size % (processes * settings.accumulate):
        raise UserError(
            f"a batch of {plan.recipe.batch_size} images cannot be shared by {processes} processes with "
            f"--accumulate {settings.accumulate}: choose divisors of it, or --batch-size"
        )
    init_default_scope(plan.scope)
    stream = ImageStream(_data_set(plan.train_data), plan.recipe.seed, plan.grouped)
    iterations = plan.recipe.iterations(len(stream))
    if settings.dry_run:
        _dry_run(plan, out, settings, stream, iterations, processes)
        return False
    if settings.gpus > 1 and settings.launcher == "none":
        raise UserError("gpus: this process is one; the command line starts more, and so does torchrun (launcher)")

    folder = plan.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    launch.start_distributed(settings.launcher)
    with locked(folder) if is_main_process() else contextlib.nullcontext():
        if processes > 1 and not torch.cuda.is_available():
            images = plan.recipe.batch_size // processes
            print(f"warning: no SyncBN on CPU: batch norms see {images} images, not the batch")
        if is_main_process():  # for whoever looks: the folder's name is a digest of it
            write_text(folder / "job.json", json.dumps(plan.identity, indent=1, sort_keys=True) + "\n")
        runner = _runner(plan, folder, settings, stream, iterations)
        if _trained_iterations(folder) < iterations:
            runner.train()
            _share_buffers(runner.model)
        else:
            runner.load_checkpoint(str(folder / "checkpoint.pth"))
        plan.metric.collect_dir = str(folder / "parts")  # where processes leave their results for the first
        runner.test()
    return is_main_process()


def _share_buffers(model: nn.Module) -> None:
    """Give every process the first one's batch statistics, which are the saved ones.

    Without SyncBN, on CPU, each process has its own, and the processes would test different models.
    """
    if torch.distributed.is_initialized():
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


def optimiser_of(model: nn.Module, recipe: Recipe, parts: int) -> PreciseOptimWrapper:
    """AdamW with few groups: norms, position embeddings and tokens do not decay; the encoder may learn slower.

    mmengine's own constructor makes a group for each parameter, which costs the fused and foreach kernels.
    """
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm, _NormBase))
        for parameter in module.parameters()
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            spared = id(parameter) in norms or name.rpartition(".")[2] in UNDECAYED
            lr = recipe.scaled_lr * (recipe.backbone_lr if name.startswith("backbone.encoder.") else 1.0)
            groups.setdefault((lr, 0.0 if spared else recipe.weight_decay), []).append(parameter)
    parameters = [{"params": own, "lr": lr, "weight_decay": decay} for (lr, decay), own in groups.items()]
    adamw = torch.optim.AdamW(parameters, lr=recipe.scaled_lr, weight_decay=recipe.weight_decay)
    return PreciseOptimWrapper(adamw, precision=recipe.precision, accumulative_counts=parts)


def backbone_config(backbone: LoadedBackbone, recipe: Recipe, settings: RunSettings) -> dict[str, Any]:
    """The config of the pyramid over a loaded checkpoint by ``recipe``, for the ``backbone`` of a model's config."""
    names = ("taps", "tap_norm", "tap_layernorm", "drop_path", "frozen_blocks", "frozen")
    parameters = {name: getattr(recipe, name) for name in names}
    return {"type": "SelfPatchPyramid", "loaded": backbone, "checkpointing": settings.checkpointing, **parameters}


def _runner(
    plan: Plan, folder: Path, settings: RunSettings, stream: ImageStream, iterations: int, hooks: tuple = ()
) -> SafeRunner:
    recipe = plan.recipe
    workers = settings.workers if settings.workers is not None else 4 * torch.cuda.is_available()
    loading = {"num_workers": workers, "persistent_workers": workers > 0}
    batches = Batches(stream, recipe.batch_size, settings.accumulate, iterations)
    newest = folder / "checkpoint.pth"
    tests = _data_set(plan.test_data)
    synchronised = {"sync_bn": "torch"} if torch.cuda.is_available() and settings.launcher != "none" else {}
    often = min(settings.save_every, math.ceil(iterations / 10))  # a short run, too, should not start anew
    saving = KeepCheckpoints(often, by_epoch=False, advice=DIVERGED)
    return SafeRunner(
        model=ConfigDict(plan.model),
        work_dir=str(folder),
        train_dataloader=Loader(stream, batch_sampler=batches, **loading),
        train_cfg={
            "type": "AddressedTrainLoop",
            "max_iters": iterations,
            "seed": recipe.seed,
            "parts": settings.accumulate,
        },
        optim_wrapper=partial(optimiser_of, recipe=recipe, parts=settings.accumulate),
        param_scheduler=recipe.schedulers(iterations),
        test_dataloader=Loader(tests, batch_size=1, sampler=DefaultSampler(tests, shuffle=False), **loading),
        test_cfg={},
        test_evaluator=Evaluator([plan.metric]),
        default_hooks={
            "runtime_info": ReadLosses(settings.log_every, DIVERGED),
            "logger": LogFigures(interval=settings.log_every),
            "checkpoint": None if hooks else saving,
            "sampler_seed": None,
        },
        custom_hooks=list(hooks) or [CertifyBackbone()],
        load_from=str(newest) if newest.exists() else None,
        resume=newest.exists(),
        randomness={"seed": recipe.seed},
        log_processor={"by_epoch": False, "window_size": settings.log_every},
        visualizer=_visualizer(settings, folder),
        log_level="WARNING" if settings.dry_run else "INFO",
        default_scope=plan.scope,
        experiment_name=f"{plan.scope}-{os.getpid()}-{time.time_ns()}",
        cfg=Config({**synchronised, "work_dir": str(folder)}),  # trackers ask for it
        launcher=settings.launcher,
        env_cfg=ENVIRONMENT,
    )


class LogFigures(LoggerHook):
    """mmengine's log of losses, with the test's figures as the last point of the curves that a tracker keeps."""

    tested = False

    def after_test_epoch(self, runner: SafeRunner, metrics: dict[str, float] | None = None) -> None:
        """Log the figures."""
        super().after_test_epoch(runner, metrics)
        self.tested = True
        runner.visualizer.add_scalars(dict(metrics or {}), step=runner.iter)

    def after_run(self, runner: SafeRunner) -> None:
        """Close the trackers, once the run has been tested: training alone is half of it."""
        if self.tested:
            super().after_run(runner)


def _visualizer(settings: RunSettings, folder: Path) -> dict[str, Any] | None:
    """What draws the curves; None: mmengine's own, which writes JSON lines."""
    if settings.log_to is None or settings.dry_run:
        return None
    own = [{"type": "LocalVisBackend"}, *tracking.backends(settings.log_to, folder)]
    return {"type": "mmengine.Visualizer", "vis_backends": own}


def _data_set(config: dict[str, Any]) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells what it is doing
        return DATASETS.build(config)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a job's folder against other processes; the lock goes with this one, however it ends."""
    try:
        with FileLock(folder / "lock", timeout=0):
            yield
    except Timeout:
        raise UserError(f"another process is at work in {folder}: wait for it, or stop it") from None


def _trained_iterations(folder: Path) -> int:
    """How far the checkpoint that a job's folder points to has come; 0 if its name does not tell."""
    newest = folder / "checkpoint.pth"
    named = [path for path in folder.glob("iter_*.pth") if newest.exists() and path.samefile(newest)]
    return int(named[0].stem.split("_")[1]) if named else 0


class _Clock(Hook):
    """Notes when each iteration ends."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def _dry_run(
    plan: Plan, out: Path, settings: RunSettings, stream: ImageStream, iterations: int, processes: int
) -> None:
    """Print the resolved job and what it costs, from a few steps timed on one process."""
    clock, share = _Clock(), plan.recipe.batch_size // processes
    # few images will do on a CPU, whose time grows with them
    timed = share if torch.cuda.is_available() else min(share, 2 * settings.accumulate)
    with tempfile.TemporaryDirectory() as folder:
        alone = settings.model_copy(update={"launcher": "none"})
        steady = plan.recipe.model_copy(update={"batch_size": timed, "warmup_iters": 0})  # which would not fit
        part = dataclasses.replace(plan, recipe=steady)
        runner = _runner(part, Path(folder), alone, stream, TIMED_STEPS + 1, hooks=(clock,))
        runner.train()
        step = (clock.times[-1] - clock.times[0]) / TIMED_STEPS * share / timed
        tests = runner._test_dataloader
        runner.model.eval()
        started = time.perf_counter()
        with torch.no_grad():
            for _, batch in zip(range(TIMED_STEPS), tests):
                runner.model.test_step(batch)
        test = (time.perf_counter() - started) / min(TIMED_STEPS, len(tests)) * len(tests)
        weights = sum(t.numel() * t.element_size() for t in runner.model.state_dict().values())
        trained = sum(p.numel() for p in runner.model.parameters() if p.requires_grad)
    disk = 2 * (weights + 8 * trained)  # Adam's two moments; the old checkpoint goes once the new one is whole
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    model = {**plan.model, "backbone": {**plan.model["backbone"], "loaded": plan.identity["arch"]["name"]}}
    shown = {"model": model, "train_data": plan.train_data, "test_data": plan.test_data, "identity": plan.identity}
    epochs, hours = iterations * plan.recipe.batch_size / len(stream), (step * iterations * processes + test) / 3600
    print(Config(shown).pretty_text)
    print(f"folder      {plan.folder(out)}")
    print(f"run         {len(stream)} images, {iterations} iterations of {plan.recipe.batch_size}, {epochs:.1f} epochs")
    print(f"processes   {processes}, {share // settings.accumulate} images at a time in each")
    print(f"training    {_span(step * iterations)}, {step:.2f} s an iteration")
    print(f"testing     {_span(test / processes)}")
    print(f"GPU-hours   {hours:.2f} (timed on one {device})")
    print(f"disk        {math.ceil(disk / 2**20)} MB for checkpoints, one at a time")


def _span(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.1f} min"
