"""How fast this code is, against a plain formulation of the same mathematics (tests/reference), in one run.

  .venv/bin/python tools/bench.py                            everything, ten minutes
  .venv/bin/python tools/bench.py --only propagation --rounds 5
  .venv/bin/python tools/bench.py --only davis --published ~/dino    beside the published script of a checkout of yours
  .venv/bin/python tools/bench.py --device cuda              images/s, share of the card's peak and memory on a GPU

Every measurement is a process of its own (so that peak memory is its own) in the tools' environment (tools/_env.sh),
the sides take turns (so that a drifting machine slows all), and the figure is the median over rounds. Quote the ratios:
absolute times belong to one machine. "products" is no competitor but a bound: the matrix products of a step's Linear
layers and nothing else, so that no step on this machine and in this precision can be faster.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from bench_cases import augmentation, jf, moby, pretrain, products, propagation, video

ENVIRONMENT = Path(__file__).with_name("_env.sh")


CASES = {  # name: (title, baseline, the others, goal as a multiple of the baseline's speed)
    "pretrain": (
        "pretraining step, ViT-Ti/16, batch 8",
        ("plain fp32", lambda: pretrain(True)),
        [
            ("plain bf16", lambda: pretrain(True, "bf16"), None),
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
    "augment": (
        "augmentation, ten crops of an image, one core",
        ("plain", lambda: augmentation(True)),
        [("ours", lambda: augmentation(False), 3.0)],
    ),
    "davis": (
        "DAVIS end to end, 480p, ViT-S/16, one frame",
        ("plain fp32", lambda: video("plain")),
        [
            ("published", lambda: video("published"), None),
            ("fp32", lambda: video("ours"), 2.0),
            ("bf16", lambda: video("ours", "bf16"), 3.0),
        ],
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
    sides = [base, *(name for name, _, _ in others if name != "published" or "SELFPATCH_PUBLISHED" in os.environ)]
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
    add = parser.add_argument
    add("--published", metavar="DIR", help="a checkout of github's facebookresearch/dino: its video script runs, too")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: how fast a GPU is used, against its peak")
    args = parser.parse_args()
    if args.device == "cuda":
        from bench_cuda import report

        return report()
    if args.published:
        os.environ["SELFPATCH_PUBLISHED"] = str(Path(args.published).resolve())
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
