"""How fast this code is, against a plain formulation of the same mathematics (tests/reference), in one run.

  .venv/bin/python tools/bench.py                    everything, a few minutes
  .venv/bin/python tools/bench.py --only propagation --rounds 5

Every measurement is a process of its own (so that peak memory is its own) in the tools' environment (tools/_env.sh),
the sides take turns (so that a drifting machine slows all), and the figure is the median over rounds. Quote the ratios:
absolute times belong to one machine. "products" is no competitor but a bound: the matrix products of a step's Linear
layers and nothing else, so that no step on this machine and in this precision can be faster.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import torch

REFERENCE = Path(__file__).resolve().parents[1] / "tests" / "reference"
ENVIRONMENT = Path(__file__).with_name("_env.sh")


def reference(name: str):
    """A module of tests/reference, which is no package."""
    spec = importlib.util.spec_from_file_location(name, REFERENCE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


# --- one function a measurement: seconds, and what the two sides must agree in -------------------------------------


def pretraining_case():
    """DINO+SelfPatch on a ViT-Ti/16 with published heads, and the published crops of 8 images."""
    from selfpatch.pretrain.selfpatch import SelfPatchPretraining

    torch.manual_seed(0)
    backbone = {"type": "VisionTransformer", "size": "tiny", "cls_token": False, "final_norm": False}
    crops = [torch.randn(2, 8, 3, 224, 224), torch.randn(8, 8, 3, 96, 96)]
    return SelfPatchPretraining(backbone).train(), crops


def pretrain(plain: bool, precision: str = "fp32") -> tuple[float, list[float]]:
    """A step of DINO+SelfPatch as :func:`pretraining_case` describes it."""
    from selfpatch.pretrain.optim import PretrainOptimWrapper, parameter_groups
    from selfpatch.pretrain.schedules import Step

    method, crops = pretraining_case()
    step = Step(lr=5e-4, weight_decay=0.04, momentum=0.996, teacher_temp=0.04)
    adamw = {"lr": step.lr, "weight_decay": step.weight_decay}
    losses: list[float] = []
    if plain:
        plain_step = reference("selfpatch_plain").plain_step
        optimizer = torch.optim.AdamW(parameter_groups(method), **adamw, foreach=False)

        def take() -> None:
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
        module = reference("moby_plain")
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
        propagate = reference("propagation_plain").propagate_video
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


def jf(plain: bool) -> tuple[float, list[float]]:
    """J and F of one frame of 480x854 pixels with three objects that move and deform."""
    masks = np.zeros((2, 12, 480, 854), np.uint8)
    y, x = np.mgrid[:480, :854]
    for stack, offset in zip(masks, (0, 9)):  # the prediction lags behind the truth
        for t, mask in enumerate(stack):
            for number in (1, 2, 3):
                angle = np.arctan2(y - 140 - 60 * number, x - 200 * number - 4 * t - offset)
                radius = np.hypot(y - 140 - 60 * number, x - 200 * number - 4 * t - offset)
                mask[radius < 60 + 10 * number + 12 * np.sin(5 * angle + 0.3 * t)] = number
    if plain:
        score = reference("jf_plain").score_sequence
    else:
        from selfpatch.eval.measures.jf import score_sequence as score
    J, F = score(*masks)
    return timed(lambda: score(*masks), warmup=0, times=3) / 10, [float(np.mean(J)), float(np.mean(F))]


CASES = {  # name: (title, baseline, the others, goal as a multiple of the baseline's speed)
    "pretrain": (
        "pretraining step, ViT-Ti/16, batch 8",
        ("plain fp32", lambda: pretrain(True)),
        [
            ("fp32", lambda: pretrain(False), 1.3),
            ("bf16", lambda: pretrain(False, "bf16"), 4.0),
            ("products fp32", lambda: products(torch.float32), None),
            ("products bf16", lambda: products(torch.bfloat16), None),
        ],
    ),
    "moby": (
        "MoBY step, ViT-Ti/16, batch 16",
        ("plain fp32", lambda: moby(True)),
        [("fp32", lambda: moby(False), None)],
    ),
    "propagation": (
        "label propagation, 480p, ViT-S/16, one frame",
        ("plain", lambda: propagation(True)),
        [("windowed", lambda: propagation(False), 2.5)],
    ),
    "jf": ("J&F, 480p, 3 objects, one frame", ("plain", lambda: jf(True)), [("packed", lambda: jf(False), 15.0)]),
}


def measure(case: str, side: str) -> dict:
    """Run one side of a case in a process of its own."""
    command = ["bash", "-c", 'source "$0" && exec "$PYTHON" "$@"', ENVIRONMENT, __file__, "--measure", case, side]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {case}/{side} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(case: str, rounds: int) -> None:
    """Print one case: both sides in turn, ``rounds`` times."""
    title, (base, _), others = CASES[case]
    sides = [base, *(name for name, _, _ in others)]
    found: dict[str, list[dict]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides:
            if sys.stderr.isatty():
                print(f"\r{title}: round {number + 1} of {rounds}, {side}   ", end="", file=sys.stderr, flush=True)
            found[side].append(measure(case, side))
    print(f"\n{title}")
    print(f"  {'':<14}{'ms':>10}{'peak MB':>10}{'speed':>8}{'goal':>7}   result")
    goals = {name: goal for name, _, goal in others}
    for side in sides:
        seconds = statistics.median(run["seconds"] for run in found[side])
        memory = max(run["memory"] for run in found[side])
        ratios = [a["seconds"] / b["seconds"] for a, b in zip(found[base], found[side])]
        goal = f"{goals[side]:.1f}x" if goals.get(side) else ""
        agreement = "" if side == base else agree(found[base][0]["result"], found[side][0]["result"])
        speed = f"{statistics.median(ratios):.2f}x"
        print(f"  {side:<14}{1000 * seconds:>10.2f}{memory:>10.0f}{speed:>8}{goal:>7}   {agreement}")


def agree(expected: list[float], found: list[float]) -> str:
    """How far the two sides' results are from each other."""
    if not expected or not found:  # timed alone
        return ""
    if isinstance(expected[0], int):
        same = sum(a == b for a, b in zip(expected, found)) / len(expected)
        return f"{100 * same:.2f} % of the labels equal"
    return f"largest difference {max(abs(a - b) for a, b in zip(expected, found)):.1e} of {max(map(abs, expected)):.3g}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="which comparisons")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is measured (default: 3)")
    parser.add_argument("--measure", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        case, side = args.measure
        _, base, others = CASES[case]
        seconds, result = {base[0]: base[1], **{name: run for name, run, _ in others}}[side]()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "memory": memory, "result": result}))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    for case in args.only:
        compare(case, args.rounds)


if __name__ == "__main__":
    main()
