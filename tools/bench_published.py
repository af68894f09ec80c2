"""The published code's sides of tools/bench.py, from checkouts that the user names; nothing of them is kept.

SelfPatch's main_selfpatch.py gives a training step and the augmentation, DINO's eval_video_segmentation.py a video,
and the davis2017-evaluation J and F. What they import and these parts don't use is stood in for, and what they send to
a GPU stays where it is.
"""

import argparse
import importlib
import os
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torchvision_operators import make_importable

NEEDED = {  # of a case: files that tell the checkout
    "pretrain": ("main_selfpatch.py", "selfpatch_vision_transformer.py"),
    "augment": ("main_selfpatch.py", "selfpatch_vision_transformer.py"),
    "davis": ("eval_video_segmentation.py", "vision_transformer.py"),
    "jf": ("davis2017/metrics.py",),
}


def checkout(case: str) -> Path | None:
    """The folder among the user's that has what a case needs."""
    folders = [Path(part) for part in os.environ.get("SELFPATCH_PUBLISHED", "").split(os.pathsep) if part]
    needed = NEEDED.get(case, ())
    return next((folder for folder in folders if needed and all((folder / name).is_file() for name in needed)), None)


def published(case: str, module: str) -> types.ModuleType:
    """A module of the checkout that ``case`` needs, ready for a CPU."""
    sys.path.insert(0, str(checkout(case)))
    torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_, **__: self
    torch.cuda.synchronize = lambda *_: None
    return importlib.import_module(module)


def stand_in(name: str, **attributes: object) -> None:
    """An empty module and its parents, so that ``name`` can be imported."""
    for end in [i for i, letter in enumerate(name) if letter == "."] + [len(name)]:
        sys.modules.setdefault(name[:end], types.ModuleType(name[:end]))
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, sys.modules[name])
    vars(sys.modules[name]).update(attributes)


def step(precision: str, crops: list[torch.Tensor], clock: Callable) -> float:
    """The seconds of a step of ``main_selfpatch.train_one_epoch``, ViT-Ti/16 without stochastic depth."""
    for name in ("torchvision.datasets", "torchvision.transforms", "torchvision.models"):
        stand_in(name)
    stand_in("timm.data.constants", IMAGENET_DEFAULT_MEAN=None, IMAGENET_DEFAULT_STD=None)
    main = published("pretrain", "main_selfpatch")
    # What it logs goes through a GPU; that is not timed.
    main.utils.SmoothedValue.synchronize_between_processes = lambda *_: None
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)

    def network() -> torch.nn.Module:
        heads = [main.DINOHead(192, out_dim) for out_dim in (65536, 4096)]
        return main.MultiCropWrapper(main.vits.vit_tiny(patch_size=16), main.SelfPatchHead(192, 3, 4), *heads)

    student, teacher = network(), network().requires_grad_(False)
    teacher.load_state_dict(student.state_dict())
    loss = main.DINOLoss(65536, 4096, 10, 0.04, 0.04, 0, 300)
    optimizer = torch.optim.AdamW(main.utils.get_params_groups(student))
    images = [view for group in crops for view in group]
    args = argparse.Namespace(epochs=300, clip_grad=3.0, freeze_last_layer=1)
    wrapped = torch.nn.Sequential()  # as DDP does, it holds the student as `module`, but costs nothing
    wrapped.module = student
    wrapped.forward = lambda *given, **named: student(*given, **named)

    def take() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            main.train_one_epoch(
                wrapped, teacher, teacher, loss, [(images, None)], optimizer, [5e-4], [0.04], [0.996], 0, None, args
            )

    return clock(take, warmup=1, times=3)


def augmentation(paths: list[Path]) -> float:
    """The processor seconds in which ``DataAugmentationDINO`` makes the ten crops of an image file."""
    make_importable()
    stand_in("timm.data.constants", IMAGENET_DEFAULT_MEAN=None, IMAGENET_DEFAULT_STD=None)
    main = published("augment", "main_selfpatch")
    crops, read = main.DataAugmentationDINO((0.25, 1.0), (0.05, 0.25), 8), main.datasets.folder.default_loader
    crops(read(str(paths[0])))
    start = time.process_time()
    for path in paths:
        crops(read(str(path)))
    return (time.process_time() - start) / len(paths)


def video(model: torch.nn.Module, tree: Path, out: Path) -> None:
    """DINO's script on the one sequence of a DAVIS tree; its masks are written below ``out``."""
    stand_in("torchvision.transforms")
    script = published("davis", "eval_video_segmentation")
    network = script.vits.vit_small(patch_size=16, num_classes=0).eval()
    network.load_state_dict(model.state_dict())
    args = argparse.Namespace(output_dir=str(out), n_last_frames=7, size_mask_neighborhood=12, topk=5, patch_size=16)
    script.args = args
    (sequence,) = (tree / "JPEGImages/480p").iterdir()
    frames = script.read_frame_list(str(sequence))
    first, given = script.read_seg(str(tree / "Annotations/480p" / sequence.name / "00000.png"), 16)
    palette = np.zeros((256, 3), np.uint8)
    palette[:, 0] = np.arange(256)
    with torch.no_grad():
        script.eval_video_tracking_davis(args, network, frames, sequence.name, first, given, palette)


def score_sequence(truth: np.ndarray, predicted: np.ndarray) -> tuple[list[float], list[float]]:
    """J and F of index masks (n, H, W), each object and frame but the first and last, by the DAVIS 2017 evaluation."""
    stand_in("skimage.morphology", disk=lambda r: np.hypot(*np.mgrid[-int(r) : int(r) + 1, -int(r) : int(r) + 1]) <= r)
    metrics = published("jf", "davis2017.metrics")
    pairs = [((truth == number)[1:-1], (predicted == number)[1:-1]) for number in range(1, int(truth.max()) + 1)]
    J = [metrics.db_eval_iou(true, found) for true, found in pairs]
    return J, [metrics.db_eval_boundary(true, found) for true, found in pairs]
