"""What tools/bench.py measures on a CPU: a function a side, seconds and what the sides must agree in."""

import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "tests" / "reference"
PHOTOS = Path(os.environ.get("SELFPATCH_DATA", ROOT.parent / "shared" / "data")) / "imagenet-mini"

sys.path.append(str(REFERENCE))  # whose modules are no package


def timed(step, warmup: int, times: int) -> float:
    """The median seconds of one call."""
    for _ in range(warmup):
        step()
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        step()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def pretraining_case():
    """DINO+SelfPatch on a ViT-Ti/16 with published heads, and the published crops of 8 images."""
    from selfpatch.pretrain.selfpatch import SelfPatchPretraining

    torch.manual_seed(0)
    backbone = {"type": "VisionTransformer", "size": "tiny", "cls_token": False, "final_norm": False}
    crops = [torch.randn(2, 8, 3, 224, 224), torch.randn(8, 8, 3, 96, 96)]
    return SelfPatchPretraining(backbone).train(), crops


def pretrain(side: str, precision: str = "fp32") -> tuple[float, list[float]]:
    """A step of DINO+SelfPatch as :func:`pretraining_case` describes it; the published one draws its own weights."""
    from selfpatch.pretrain.optim import PretrainOptimWrapper, parameter_groups
    from selfpatch.pretrain.schedules import Step

    method, crops = pretraining_case()
    if side == "published":
        from bench_published import step

        return step(precision, crops, timed), []
    step = Step(lr=5e-4, weight_decay=0.04, momentum=0.996, teacher_temp=0.04)
    adamw = {"lr": step.lr, "weight_decay": step.weight_decay}
    losses: list[float] = []
    if side == "plain":
        from selfpatch_plain import plain_step

        optimizer = torch.optim.AdamW(parameter_groups(method), **adamw, foreach=False)

        def take() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                losses.append(plain_step(method, crops, optimizer, step)[0])
    else:
        optimizer = torch.optim.AdamW(parameter_groups(method), **adamw, fused=True)
        wrapper = PretrainOptimWrapper(optimizer, clip=3.0, precision=precision)

        def take() -> None:
            method.set_step(0, 0, step)
            with wrapper.optim_context(method):
                parts = method(crops)
            wrapper.update_params(parts["loss"])
            method.after_step()
            losses.append(float(parts["loss"].detach()))

    return timed(take, warmup=1, times=3), losses[:1]


def products(dtype: torch.dtype) -> tuple[float, list[float]]:
    """The matrix products alone of that step's Linear layers: forward, and for what trains both backward ones."""
    from selfpatch.pretrain.heads import WeightNormLinear

    method, crops = pretraining_case()
    calls: list[tuple[int, int, int, bool]] = []

    def note(layer: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        width, wide = inputs[0].shape[-1], output.shape[-1]
        calls.append((output.numel() // wide, width, wide, output.requires_grad))

    for layer in method.modules():
        if isinstance(layer, (torch.nn.Linear, WeightNormLinear)):
            layer.register_forward_hook(note)
    method(crops)
    seconds = 0.0
    for (M, K, N, trained), count in Counter(calls).items():
        x, w, g = (torch.randn(*shape).to(dtype) for shape in ((M, K), (N, K), (M, N)))
        y, dx, dw = torch.empty_like(g), torch.empty_like(x), torch.empty_like(w)
        jobs = [partial(torch.mm, x, w.T, out=y)]
        if trained:
            jobs += [partial(torch.mm, g, w, out=dx), partial(torch.mm, g.T, x, out=dw)]
        seconds += count * sum(timed(job, warmup=1, times=3) for job in jobs)
    return seconds, []


def moby(plain: bool) -> tuple[float, list[float]]:
    """A step of MoBY, ViT-Ti/16, batch 16, published heads and views."""
    from selfpatch.pretrain.moby import MoBYPretraining
    from selfpatch.pretrain.optim import PretrainOptimWrapper, parameter_groups
    from selfpatch.pretrain.schedules import Step
    from selfpatch.pretrain.vit import VisionTransformer

    torch.manual_seed(0)
    views = torch.randn(2, 16, 3, 224, 224)
    adamw = {"lr": 1e-3 * 16 / 512, "weight_decay": 0.05}
    if plain:
        import moby_plain as module

        method = module.PlainMoBY(VisionTransformer("tiny"), total=100).train()
        optimizer = torch.optim.AdamW(parameter_groups(method), **adamw, foreach=False)

        def take() -> None:
            module.plain_step(method, optimizer, *views)
    else:
        method = MoBYPretraining({"type": "VisionTransformer", "size": "tiny"}).train()
        optimizer = torch.optim.AdamW(parameter_groups(method), **adamw, fused=True)
        wrapper = PretrainOptimWrapper(optimizer, clip=5.0, per_parameter=False)

        def take() -> None:
            method.set_step(0, 0, Step(lr=adamw["lr"], weight_decay=0.05, momentum=0.99, teacher_temp=1.0))
            parts = method([views])
            wrapper.update_params(parts["loss"])
            method.after_step()

    return timed(take, warmup=1, times=3), []  # the two draw their heads differently; tests compare the steps


def propagation(plain: bool) -> tuple[float, list[float]]:
    """Label propagation of one frame with a full context: 480x832 pixels, ViT-S/16 tokens, three objects."""
    from selfpatch.eval.measures.propagation import LabelPropagation, one_hot

    rng = torch.Generator().manual_seed(0)
    base = torch.randn(30, 52, 384, generator=rng)
    frames = [base + 0.5 * torch.randn(30, 52, 384, generator=rng) for _ in range(14)]
    first = one_hot(torch.randint(0, 4, (30, 52), generator=rng))
    if plain:
        from propagation_plain import propagate_video as propagate

        start = time.perf_counter()
        with torch.inference_mode():
            maps = propagate(frames, first)
        seconds = (time.perf_counter() - start) / 13
    else:
        with torch.inference_mode():
            start = time.perf_counter()
            video = LabelPropagation(frames[0], first)
            maps = [video.step(tokens) for tokens in frames[1:]]
            seconds = (time.perf_counter() - start) / 13
    return seconds, maps[-1].argmax(-1).flatten().tolist()


def jf(side: str) -> tuple[float, list[float]]:
    """J and F of one frame of 480x854 pixels with three objects that move and deform."""
    masks = np.zeros((2, 12, 480, 854), np.uint8)
    y, x = np.mgrid[:480, :854]
    for stack, offset in zip(masks, (0, 9)):  # the prediction lags behind the truth
        for t, mask in enumerate(stack):
            for number in (1, 2, 3):
                angle = np.arctan2(y - 140 - 60 * number, x - 200 * number - 4 * t - offset)
                radius = np.hypot(y - 140 - 60 * number, x - 200 * number - 4 * t - offset)
                mask[radius < 60 + 10 * number + 12 * np.sin(5 * angle + 0.3 * t)] = number
    if side == "published":
        from bench_published import score_sequence as score
    elif side == "plain":
        from jf_plain import score_sequence as score
    else:
        from selfpatch.eval.measures.jf import score_sequence as score
    J, F = score(*masks)
    return timed(lambda: score(*masks), warmup=0, times=3) / 10, [float(np.mean(J)), float(np.mean(F))]


def photos() -> list[Path]:
    """Sixty photographs of imagenet-mini, or where it is missing a made-up one."""
    if PHOTOS.is_dir():
        return sorted(PHOTOS.rglob("*.jpg"))[::17][:60]
    noise = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (256, 341, 3), dtype=np.uint8), (0, 0), 2)
    path = Path(tempfile.mkdtemp()) / "photo.jpg"
    cv2.imwrite(str(path), noise)
    return [path] * 60


def augmentation(side: str) -> tuple[float, list[float]]:
    """The ten crops of an image file, on one core: processor time, since nothing waits."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    paths = photos()
    if side == "published":
        from bench_published import augmentation

        return augmentation(paths), []
    if side == "plain":
        from augment_plain import ten_crops as crops
    else:
        from selfpatch.pretrain.augment import MultiCrop

        views = {"global1": {"size": 224, "scale": (0.25, 1.0)}}
        views["global2"] = {"size": 224, "scale": (0.25, 1.0), "blur": 0.1, "solarize": 0.2}
        views["local"] = {"size": 96, "scale": (0.05, 0.25), "blur": 0.5, "count": 8}
        multi_crop = MultiCrop(views)

        def crops(path: Path) -> list[torch.Tensor]:
            return multi_crop.read(path, np.random.default_rng(0))

    crops(paths[0])
    start = time.process_time()
    for path in paths:
        crops(path)
    return (time.process_time() - start) / len(paths), []


def made_up_video(folder: Path, frames: int = 24) -> None:
    """A scene that moves, 480x854, as a DAVIS tree with one sequence of two objects."""
    rng = np.random.default_rng(0)
    scene = cv2.GaussianBlur(rng.integers(0, 256, (520, 900, 3), dtype=np.uint8), (0, 0), 6)
    scene = cv2.normalize(scene, None, 0, 255, cv2.NORM_MINMAX)
    labels = np.zeros((520, 900), np.uint8)
    cv2.circle(labels, (300, 250), 110, 1, -1)
    cv2.circle(labels, (620, 280), 90, 2, -1)
    for kind in ("JPEGImages", "Annotations"):
        (folder / kind / "480p" / "made-up").mkdir(parents=True)
    (folder / "ImageSets" / "2017").mkdir(parents=True)
    (folder / "ImageSets" / "2017" / "val.txt").write_text("made-up\n")
    for t in range(frames):
        window = np.s_[t : t + 480, 2 * t : 2 * t + 854]
        cv2.imwrite(str(folder / f"JPEGImages/480p/made-up/{t:05}.jpg"), scene[window])
        cv2.imwrite(str(folder / f"Annotations/480p/made-up/{t:05}.png"), labels[window])


def small_vit() -> torch.nn.Module:
    """An untrained ViT-S/16 with the names and the shape of DINO's."""
    from selfpatch.pretrain.vit import VisionTransformer

    torch.manual_seed(0)
    return VisionTransformer("small").eval()


def written_out(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention as its definition reads."""
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


def video(side: str, precision: str = "float32") -> tuple[float, list[int]]:
    """A frame of a video from its file to the file of its mask: 480p, ViT-S/16, two objects, 24 frames."""
    from selfpatch.eval.datasets.davis import open_videos
    from selfpatch.eval.tasks import davis

    tree, out, model = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp()), small_vit()
    made_up_video(tree)
    (clip,) = open_videos(tree).videos
    start = time.perf_counter()
    if side == "published":
        from bench_published import video as published_video

        published_video(model, tree, out)
        out = out / "made-up"
    elif side == "plain":
        torch.nn.functional.scaled_dot_product_attention = written_out
        plain_video(model, clip, out)
    else:
        davis.propagate_video(model, 16, clip, out, davis.Propagation(precision=precision))
    seconds = (time.perf_counter() - start) / len(clip.frames)
    return seconds, cv2.imread(str(out / clip.masks[-1].name), cv2.IMREAD_GRAYSCALE)[::8, ::8].flatten().tolist()


def plain_video(model: torch.nn.Module, clip, out: Path) -> None:
    """Frame after frame: read, encode, compare everything with everything, write."""
    import propagation_plain as module
    from PIL import Image

    from selfpatch.eval.datasets.davis import write_mask
    from selfpatch.eval.datasets.frames import FramePreparation
    from selfpatch.eval.measures.propagation import one_hot
    from selfpatch.eval.tasks.davis import Propagation, patch_tokens, shrink

    settings = Propagation()
    given = np.array(Image.open(clip.masks[0]))
    preparation = FramePreparation(given.shape, settings.frame_size(*given.shape), settings.mean, settings.std)
    with torch.inference_mode():
        frames = [patch_tokens(model, preparation.read(path)[None], settings)[0] for path in clip.frames]
        first, _ = shrink(given, frames[0].shape[:2])
        maps = module.propagate_video(frames, one_hot(torch.from_numpy(first)))
        for mask, soft_map in zip(clip.masks, maps):
            write_mask(out / mask.name, module.hard_labels(soft_map, preparation.resized).numpy(), given.shape)
