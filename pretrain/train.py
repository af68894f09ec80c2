"""Pretrain a vision transformer: a config and a folder of images in, a checkpoint out."""

import platform
import time
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import set_random_seed
from torch.utils.data import DataLoader

from selfpatch.pretrain import data, hooks, tracking
from selfpatch.pretrain.augment import is_local
from selfpatch.pretrain.checkpoint import plain, save_file
from selfpatch.pretrain.cli import UserError, command_parser, run_command
from selfpatch.pretrain.config import CONFIGS, ConfigOptions, load_config, method_class  # noqa: F401 - for others
from selfpatch.pretrain.files import raise_unless_writable
from selfpatch.pretrain.launch import check_gpus, run_processes, start_distributed
from selfpatch.pretrain.method import Method
from selfpatch.pretrain.optim import optimiser_of
from selfpatch.pretrain.probes import Probe
from selfpatch.pretrain.resume import UNTRAINED, check_resume, check_untrained, read_meta
from selfpatch.pretrain.runner import ENVIRONMENT, KeepCheckpoints, ReadLosses, SafeRunner
from selfpatch.pretrain.schedules import Schedule

INTERRUPTED = "the same command with --resume goes on from the last checkpoint"
DEFAULT_CONFIG = "selfpatch_vit-s16_8xb128-200e_in1k"
STEADIER = "start anew in another --work-dir with a lower schedule.lr or with precision=fp32"
DESCRIPTION = f"""Pretrain a vision transformer with DINO, SelfPatch or MoBY.

A config names a method, a network and a recipe; see configs/pretrain/. Any folder of images will do.

  tools/pretrain.sh                                         {DEFAULT_CONFIG} on data/imagenet/train
  tools/pretrain.sh selfpatch_toy --data photos             a small network on any images
  tools/pretrain.sh dino_toy --cfg-options schedule.epochs=3 data.batch_size=16
  tools/pretrain.sh CONFIG --gpus 8                         one process a GPU (torchrun)
  tools/pretrain.sh CONFIG --resume                         go on where it stopped"""


def build_method(config: Config) -> Method:
    """The untrained method of a config, its weights drawn from ``config.seed``."""
    set_random_seed(config.seed)
    try:
        model = method_class(config)(**config.model)
    except (TypeError, ValueError) as error:
        raise UserError(f"the config's model cannot be built: {' '.join(str(error).split())}") from None
    crops = [(is_local(name), view.size) for name, view in config.views.items() for _ in range(view.get("count", 1))]
    model.check_crops(*([size for local, size in crops if local is wanted] for wanted in (False, True)))
    return model


def check_backend(backend: bool | str) -> None:
    """Raise :class:`UserError` unless ``compile`` names a backend of torch.compile, or is True for the default one."""
    known = torch.compiler.list_backends(exclude_tags=())
    if backend is not True and backend not in known:
        raise UserError(f"compile={backend!r} is no backend of torch.compile: choose True or one of {', '.join(known)}")


def check_run(config: Config, work_dir: Path, resume: bool, processes: int) -> tuple[data.CropDataset, dict]:
    """Everything that can be found wrong before a network is built.

    Args:
        config, work_dir, resume: as for :func:`train`.
        processes: how many share the global batch.

    Returns:
        the images, and what every checkpoint of the run says of them and of its batches, so that it goes on with these
        alone: ``data`` (number of images and SHA-256 of their names), ``batch`` and ``iterations`` an epoch.

    Raises:
        UserError: as for :func:`train`.
    """
    raise_unless_writable(work_dir, "--work-dir")
    if config.compile:
        check_backend(config.compile)
    newest = work_dir / "checkpoint.pth"
    if newest.exists() and not resume:
        epoch = read_meta(newest)["epoch"]
        raise UserError(f"{newest} is there already (epoch {epoch}): add --resume, or choose another --work-dir")
    dataset = data.CropDataset(config.data.root, config.views, config.seed)
    iterations = data.whole_batches(len(dataset), config.data.batch_size, processes)
    batch = config.data.batch_size * processes
    method = method_class(config)
    method.schedule_class(iterations, batch, **config.schedule)
    if batch < method.smallest_batch:
        fewest = f"{method.display_name} needs {method.smallest_batch} or more"
        raise UserError(f"data.batch_size={config.data.batch_size}: {fewest}")
    run = {"data": dataset.identity, "batch": batch, "iterations": iterations}
    if newest.exists():
        check_resume(newest, config, run)
    return dataset, run


def build_loader(config: Config, dataset: data.CropDataset) -> DataLoader:
    """Batches of crops: ``config.data.batch_size`` images a process, the rest of an epoch dropped."""
    workers = config.data.workers
    return DataLoader(
        dataset,
        config.data.batch_size,
        sampler=data.AddressSampler(dataset.images, config.data.batch_size, config.seed),
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=data.collate_crops,
        pin_memory=torch.cuda.is_available(),
        drop_last=True,
    )


def checkpoint_meta(method: Method, config: Config) -> dict:
    """What a checkpoint says of itself beside epoch, iteration and seed."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    versions |= {"mmengine": version("onedl-mmengine"), "selfpatch": version("selfpatch")}
    return {
        "method": method.display_name,
        "arch": method.backbone.arch,
        "downstream": method.downstream,
        "left_out": method.left_out,
        "config": config.to_dict(),
        "train_data": Path(config.data.root).resolve().name,
        "versions": versions,
    }


def checkpoint_hooks(config: Config, meta: dict) -> list[KeepCheckpoints]:
    """What saves the run: every few epochs, and within an epoch if the config says so."""
    given = {"meta": meta, "advice": STEADIER}
    by_epoch = KeepCheckpoints(config.checkpoint.interval, keep=config.checkpoint.keep, **given)
    iterations = config.checkpoint.get("iterations", 0)
    return [*([KeepCheckpoints(iterations, by_epoch=False, **given)] if iterations else []), by_epoch]


def save_untrained(config: Config, work_dir: Path) -> Path:
    """Write, or find, the checkpoint of the network as it is before training: the baseline named Random.

    Raises:
        UserError: the work dir holds another checkpoint.
    """
    raise_unless_writable(work_dir, "--work-dir")
    path = work_dir / "checkpoint.pth"
    if path.exists():  # what was measured with this very file stays valid
        check_untrained(path, config)
        return path
    method = build_method(config)
    meta = {**checkpoint_meta(method, config), "method": UNTRAINED, "epoch": 0, "iter": 0, "seed": config.seed}
    save_file({"meta": plain(meta), "state_dict": method.state_dict()}, path)
    return path


def runner_config(config: Config, work_dir: Path) -> Config:
    """What the Runner and the trackers see of a config: the work dir, and no "compile": the Runner would do it, too."""
    return Config({**{key: value for key, value in config.items() if key != "compile"}, "work_dir": str(work_dir)})


def step_hooks(config: Config, loader: DataLoader, schedule: Schedule) -> list[Hook]:
    """What happens around every step of a run."""
    return [
        hooks.CountUnreadable(loader.dataset),
        hooks.SetStep(schedule),
        hooks.LogStep(),
        hooks.WatchTargets(config.log_interval, schedule.warmup),
        hooks.GoOnWithinEpoch(),
    ]


def train(
    config: Config,
    work_dir: Path,
    resume: bool = False,
    launcher: str = "none",
    log_to: str = "tensorboard",
    probe: Probe | None = None,
) -> Path:
    """Train by ``config`` and return the path of the last checkpoint.

    Args:
        config: from :func:`load_config`.
        work_dir: where checkpoints and logs go.
        resume: go on from ``work_dir/checkpoint.pth``, if there is one.
        launcher: "none", "pytorch" (torchrun) or "slurm".
        log_to: one of :data:`~selfpatch.pretrain.tracking.TRACKERS`.
        probe: what else to log of the network every few epochs.

    Raises:
        UserError: the data, the config or the checkpoint to go on from cannot be used; the loss is not finite.
    """
    start_distributed(launcher)
    dataset, run = check_run(config, work_dir, resume, get_world_size())
    if is_main_process():
        for finding in dataset.findings:
            print(f"warning: {finding}", flush=True)
    newest = work_dir / "checkpoint.pth"
    loader = build_loader(config, dataset)
    method = build_method(config)
    schedule = method.schedule_class(run["iterations"], run["batch"], **config.schedule)
    meta = {**checkpoint_meta(method, config), **run}
    if config.compile:
        options = {} if config.compile is True else {"backend": config.compile}
        method.student["backbone"].compile(**options)  # in place: the names in checkpoints stay as they are

    runner = SafeRunner(
        model=method,
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg={"by_epoch": True, "max_epochs": config.schedule.epochs},
        optim_wrapper=partial(optimiser_of, config=config, lr=schedule.base_lr),  # of the model on its device
        default_hooks={
            "runtime_info": ReadLosses(config.log_interval, STEADIER),
            "logger": {"type": "LoggerHook", "interval": config.log_interval},
            "checkpoint": None,
            "param_scheduler": None,
        },
        custom_hooks=[*step_hooks(config, loader, schedule), *filter(None, [probe]), *checkpoint_hooks(config, meta)],
        visualizer={"type": "Visualizer", "vis_backends": tracking.backends(log_to, work_dir)},
        randomness={"seed": config.seed},
        load_from=str(newest) if newest.exists() else None,
        resume=newest.exists(),
        experiment_name=f"{work_dir.name}-{time.time_ns():x}",  # two runs of one second would share a logger
        cfg=runner_config(config, work_dir),
        launcher=launcher,
        env_cfg=ENVIRONMENT,
    )
    runner.train()
    return newest


def main(argv: Sequence[str]) -> None:
    """The command line."""
    parser = command_parser(DESCRIPTION)
    add = parser.add_argument
    add("config", nargs="?", default=DEFAULT_CONFIG, help="a file, or a name in configs/pretrain")
    add("--data", metavar="DIR", help="folder of images, flat or nested (default: the config's data.root)")
    add("--work-dir", metavar="DIR", help="where checkpoints and logs go (default: work_dirs/<config>)")
    add("--resume", action="store_true", help="go on from the newest checkpoint of the work dir")
    add("--untrained", action="store_true", help="only write the untrained network's checkpoint, as a baseline")
    add("--cfg-options", nargs="+", action=ConfigOptions, default={}, metavar="KEY=VALUE", help="override config keys")
    add("--gpus", type=int, default=1, help="processes on this machine, one a GPU")
    add("--launcher", choices=("none", "pytorch", "slurm"), default="none", help="who started the processes")
    add("--log-to", choices=tracking.TRACKERS, default="tensorboard", help="where curves go, all of it in the work dir")
    add("--probe", type=Path, metavar="DIR", help="images, in folders of classes: k-NN and RankMe of them are logged")
    add("--probe-every", type=int, default=10, metavar="N", help="epochs between these figures (10; the last always)")
    args = parser.parse_args(argv)

    tracking.check(args.log_to)
    config = load_config(args.config, args.cfg_options)
    sides = [view.size for name, view in config.views.items() if not is_local(name)]
    probe = Probe(args.probe, args.probe_every, max(sides)) if args.probe else None
    if args.data:
        config.data.root = args.data
    work_dir = Path(args.work_dir or Path("work_dirs") / Path(args.config).stem)
    if args.untrained:
        print(f"untrained network: {save_untrained(config, work_dir)}")
        return
    if args.launcher == "none":
        check_gpus(args.gpus)
    if args.gpus > 1 and args.launcher == "none":  # a mistake costs less before the processes start
        check_run(config, work_dir, args.resume, args.gpus)
        with torch.device("meta"):  # no memory, no time: only whether the network can be built and its crops fit
            build_method(config)
        run_processes(args.gpus, "selfpatch.pretrain.train", argv)
        return
    checkpoint = train(config, work_dir, args.resume, args.launcher, args.log_to, probe)
    if is_main_process():
        print(f"checkpoint: {checkpoint}\nnext: tools/eval_davis.sh {checkpoint}")


if __name__ == "__main__":
    run_command(main, interrupted=INTERRUPTED)
