"""What tools/bench.py --device cuda reports: images/s, share of the card's bf16 peak, and peak memory, in bf16.

What a machine has no packages for (mmengine, pydantic) is named and left out; nothing else is.
"""

import sys
import time
from collections.abc import Callable

import torch

STEPS = (  # title, config, options, images a step
    ("SelfPatch ViT-S/16, batch 64", "selfpatch_vit-s16_8xb128-200e_in1k", {}, 64),
    ("SelfPatch ViT-S/16, batch 128", "selfpatch_vit-s16_8xb128-200e_in1k", {}, 128),
    ("SelfPatch ViT-S/16, batch 64, compiled", "selfpatch_vit-s16_8xb128-200e_in1k", {"compile": True}, 64),
    ("MoBY Swin-T, batch 64", "moby_swin-t_8xb64-300e_in1k", {}, 64),
)


def report() -> None:
    """Print a line for each measurement."""
    if not torch.cuda.is_available():
        sys.exit("error: no CUDA device: run without --device cuda")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bf16")
    print(f"  {'':<40}{'images/s':>10}{'ms':>9}{'of peak':>9}{'peak GB':>9}")
    cases: list[tuple[str, Callable[[], tuple[float, float, float | None]]]] = [
        (title, lambda c=config, o=options, b=batch: step_case(c, o, b)) for title, config, options, batch in STEPS
    ]
    cases += [
        ("DAVIS ViT-S/16, 480p, a frame", lambda: video_case(16)),
        ("DAVIS ViT-S/8, 480p, a frame", lambda: video_case(8)),
        ("k-NN features ViT-S/16, batch 256", lambda: feature_case(256)),
    ]
    for title, run in cases:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            images, seconds, share = run()
        except (ImportError, torch.cuda.OutOfMemoryError) as error:
            print(f"  {title:<40}  not run: {str(error).splitlines()[0]}", flush=True)
            continue
        peak = f"{100 * share:.1f} %" if share else "unknown"
        memory = torch.cuda.max_memory_allocated() / 1e9
        print(f"  {title:<40}{images / seconds:>10,.0f}{1000 * seconds:>9.1f}{peak:>9}{memory:>9.2f}", flush=True)


def step_case(name: str, options: dict, batch: int) -> tuple[float, float, float | None]:
    """A whole pretraining step: images, seconds, share of peak."""
    from selfpatch.pretrain.config import load_config
    from selfpatch.pretrain.measure import operations_of, seconds_of, share_of_peak, training_step
    from selfpatch.pretrain.train import build_method

    config = load_config(name, {"precision": "bf16", **options})
    method = build_method(config).to("cuda").train()
    take = training_step(method, config, batch)
    operations = operations_of(take)
    if config.compile:
        method.student["backbone"].compile()
    seconds = seconds_of(take, torch.device("cuda"), steps=8)
    return batch, seconds, share_of_peak(operations, seconds)


def video_case(patch: int) -> tuple[float, float, float | None]:
    """A frame of 480x832 pixels encoded in batches and its labels propagated, three objects."""
    from selfpatch.eval.datasets.frames import TOKENS_AT_ONCE
    from selfpatch.eval.measures.propagation import LabelPropagation, hard_labels, one_hot
    from selfpatch.pretrain.vit import VisionTransformer

    model = VisionTransformer("small", patch_size=patch).eval().to("cuda")
    h, w, frames = 480 // patch, 832 // patch, 24
    together = max(1, TOKENS_AT_ONCE // (h * w))
    images = torch.randn(together, 3, 480, 832, device="cuda")
    first = one_hot(torch.arange(h * w).view(h, w) * 4 // (h * w)).to("cuda")

    def follow() -> None:
        video = None
        for _ in range(frames // together):
            with torch.autocast("cuda", torch.bfloat16):
                (tokens,) = model.forward_intermediates(images, [-1])
            for frame in tokens.permute(0, 2, 3, 1).float():
                if video is None:
                    video = LabelPropagation(frame, first)
                else:
                    hard_labels(video.step(frame), (480, 832))

    with torch.inference_mode():
        return frames // together * together, timed(follow), None


def feature_case(batch: int) -> tuple[float, float, float | None]:
    """Global features of images that are on the GPU already."""
    from selfpatch.pretrain.measure import operations_of, share_of_peak
    from selfpatch.pretrain.vit import VisionTransformer

    model, images = VisionTransformer("small").eval().to("cuda"), torch.randn(batch, 3, 224, 224, device="cuda")

    def encode() -> torch.Tensor:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            return model(images)[0]

    operations, seconds = operations_of(encode), timed(encode)
    return batch, seconds, share_of_peak(operations, seconds)


def timed(run: Callable[[], object], times: int = 5) -> float:
    """The best seconds of a call, the GPU waited for, after two that are not counted."""
    spent = []
    for _ in range(times + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        spent.append(time.perf_counter() - start)
    return min(spent[2:])
