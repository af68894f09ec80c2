"""How fast this code is, against a plain formulation of the same mathematics (tests/reference), in one run.

  .venv/bin/python tools/bench.py                                    everything, ten minutes
  .venv/bin/python tools/bench.py --only propagation --rounds 5
  .venv/bin/python tools/bench.py --published ~/SelfPatch ~/dino ~/davis2017-evaluation   the published code, too
  .venv/bin/python tools/bench.py --only pretrain jf --against ~/before   another version of this project, prepared
  .venv/bin/python tools/bench.py --device cuda                      images/s, share of the card's peak, memory on a GPU

Every measurement is a process of its own (so that peak memory is its own) in the tools' environment (tools/_env.sh),
the sides take turns (so that a drifting machine slows all), and the figure is the median over rounds. Quote the ratios:
absolute times belong to one machine. "products" is no competitor but a bound: the matrix products of a step's Linear
layers and nothing else, so that no step on this machine and in this precision can be faster. Where others use the
machine, too, take --processor-time and one thread (OMP_NUM_THREADS=1).
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from bench_cases import augmentation, jf, moby, pretrain, products, propagation, video
from bench_published import checkout

TOOLS = Path(__file__).resolve().parent
THERE = " there"  # of a side: as another version of the project has it
# Another version of this file knows no --processor-time, so its clock is changed from outside.
START = """
import os, runpy, sys, time
del sys.argv[0]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
if "SELFPATCH_PROCESSOR_TIME" in os.environ:
    time.perf_counter = time.process_time
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class Side:
    """One side of a case: ``run`` gives its seconds and what the sides must agree in.

    Args:
        aim: the speed that it should have, as a multiple of that of the side ``of``.
        tools: the folder of the benchmark that runs it.
    """

    name: str
    run: Callable[[], tuple[float, list]]
    aim: float | None = None
    of: str | None = None
    tools: Path = TOOLS

    @property
    def ours(self) -> bool:
        """Whether it is this project's code that is timed."""
        return not self.name.startswith(("plain", "published", "products"))


CASES = {  # name: (title, sides, of which the first is the baseline)
    "pretrain": (
        "pretraining step, ViT-Ti/16, batch 8",
        [
            Side("plain fp32", lambda: pretrain("plain")),
            Side("plain bf16", lambda: pretrain("plain", "bf16")),
            Side("published fp32", lambda: pretrain("published")),
            Side("published bf16", lambda: pretrain("published", "bf16")),
            Side("products fp32", lambda: products(torch.float32)),
            Side("products bf16", lambda: products(torch.bfloat16)),
            Side("fp32", lambda: pretrain("ours"), 1.0, "products fp32"),  # a bound, not to be reached
            Side("bf16", lambda: pretrain("ours", "bf16"), 1.3, "published bf16"),
        ],
    ),
    "moby": (
        "MoBY step, ViT-Ti/16, batch 16",
        [Side("plain fp32", lambda: moby(True)), Side("fp32", lambda: moby(False))],
    ),
    "propagation": (
        "label propagation, 480p, ViT-S/16, one frame",
        [Side("plain", lambda: propagation(True)), Side("windowed", lambda: propagation(False), 2.5, "plain")],
    ),
    "augment": (
        "augmentation, ten crops of an image, processor time of one core",
        [
            Side("plain", lambda: augmentation("plain")),
            Side("published", lambda: augmentation("published")),
            Side("ours", lambda: augmentation("ours"), 3.0, "published"),
        ],
    ),
    "davis": (
        "DAVIS end to end, 480p, ViT-S/16, one frame",
        [
            Side("plain fp32", lambda: video("plain")),
            Side("published", lambda: video("published")),
            Side("fp32", lambda: video("ours"), 2.0, "published"),
            Side("bf16", lambda: video("ours", "bf16"), 3.0, "published"),
        ],
    ),
    "jf": (
        "J&F, 480p, 3 objects, one frame",
        [
            Side("plain", lambda: jf("plain")),
            Side("published", lambda: jf("published")),
            Side("packed", lambda: jf("ours"), 15.0, "plain"),
        ],
    ),
}


def measure(case: str, side: Side) -> dict:
    """Run one side of a case in a process of its own."""
    words = [side.tools / "bench.py", "--measure", case, side.name.removesuffix(THERE)]
    command = ["bash", "-c", 'source "$0" && exec "$PYTHON" "$@"', side.tools / "_env.sh", "-c", START, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {case}/{side.name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def sides_of(case: str, against: Path | None) -> list[Side]:
    """The sides of a case that can be run; with ``against`` ours alone, each as it is there and here."""
    _, sides = CASES[case]
    if against is None:
        return [side for side in sides if not side.name.startswith("published") or checkout(case)]
    ours = [side for side in sides if side.ours]
    there = [replace(side, name=side.name + THERE, aim=None, tools=against / "tools") for side in ours]
    return there + [replace(side, aim=1.0, of=side.name + THERE) for side in ours]


def compare(case: str, rounds: int, against: Path | None) -> None:
    """Print one case: its sides in turn, ``rounds`` times."""
    title, sides = CASES[case][0], sides_of(case, against)
    found: dict[str, list[dict]] = {side.name: [] for side in sides}
    for number in range(rounds):
        for side in sides:
            if sys.stderr.isatty():
                print(f"\r{title}: round {number + 1} of {rounds}, {side.name}   ", end="", file=sys.stderr, flush=True)
            found[side.name].append(measure(case, side))

    def speed(side: str, of: str) -> str:
        return f"{statistics.median(b['seconds'] / a['seconds'] for a, b in zip(found[side], found[of])):.2f}x"

    base = sides[0].name
    print(f"\n{title}")
    print(f"  {'':<16}{'ms':>10}{'peak MB':>10}{'speed':>8}   {'aim':<22}{'came out':<10}result")
    for side in sides:
        runs = found[side.name]
        seconds, memory = statistics.median(run["seconds"] for run in runs), max(run["memory"] for run in runs)
        aim = f"{side.aim:g}x {side.of}" if side.aim else ""
        came_out = speed(side.name, side.of) if side.of in found else ""
        result = "" if side.name == base else agree(found[base][0]["result"], runs[0]["result"])
        print(
            f"  {side.name:<16}{1000 * seconds:>10.2f}{memory:>10.0f}{speed(side.name, base):>8}   "
            f"{aim:<22}{came_out:<10}{result}"
        )


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
    add(
        "--published",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="checkouts of alinlab/SelfPatch, facebookresearch/dino "
        "and davisvideochallenge/davis2017-evaluation: what there is of them runs beside ours",
    )
    add("--against", type=Path, metavar="DIR", help="another checkout of this project, with its .venv: ours beside it")
    add("--processor-time", action="store_true", help="count the processor's seconds: other programs slow them less")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: how fast a GPU is used, against its peak")
    args = parser.parse_args()
    if args.device == "cuda":
        from bench_cuda import report

        return report()
    if args.measure:
        case, name = args.measure
        seconds, result = next(side.run for side in CASES[case][1] if side.name == name)()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "memory": memory, "result": result}))
        return
    os.environ["SELFPATCH_PUBLISHED"] = os.pathsep.join(str(folder.resolve()) for folder in args.published or ())
    if args.processor_time:
        os.environ["SELFPATCH_PROCESSOR_TIME"] = "1"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    for case in args.only:
        compare(case, args.rounds, args.against and args.against.resolve())


if __name__ == "__main__":
    main()
