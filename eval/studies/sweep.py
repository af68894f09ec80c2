"""A grid of settings, pretrained and evaluated cell by cell: ``tools/sweep.sh GRID.yaml``.

Every run is a process of its own, by the commands that a user types. They know what is done: a training resumes or
finds nothing left to do, an evaluation shows its record if network, protocol and data are still the same. So the same
command, after a kill at any moment, goes on where it was, and nothing is taken for done because a file is there.
"""

import argparse
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from selfpatch.eval.studies.grid import Cell, Grid, read_grid
from selfpatch.pretrain.cli import UserError, command_parser
from selfpatch.pretrain.files import raise_unless_writable, write_text
from selfpatch.reports.record import Record, file_name

PRETRAIN = (sys.executable, "-m", "selfpatch.pretrain.train")
EVALUATE = (sys.executable, "-m", "selfpatch.eval.run")
REPORT = (sys.executable, "-m", "selfpatch.reports.report")
LINE_EVERY = 60.0  # seconds between looks into the log of the process that runs
POLL_SLURM = 20.0  # seconds between looks at the jobs
DESCRIPTION = """\
Pretrain and evaluate a grid of settings, one cell after another, and write its ablation tables and curves.

  tools/sweep.sh configs/sweeps/toy.yaml
  tools/sweep.sh configs/sweeps/paper_k.yaml --launcher slurm
  tools/sweep.sh configs/sweeps/toy.yaml --dry-run            only check the grid and list its cells

A grid is a YAML file:
  name: k-and-neighbourhood            its folder under --out
  config: selfpatch_toy                of configs/pretrain; it may also be an axis
  data: data/toy/images                instead of the config's own
  options: {schedule.epochs: 5}        for every cell, as --cfg-options
  axes: {model.k: [1, 4], model.neighbourhood: [3, all]}   every combination is a cell; or instead of axes
  cells: [{name: one, config: dino_toy, options: {seed: 1}}, {name: two, config: moby_toy, against: one}, …]
                                       against: the cells that one is compared with (else the first)
  seeds: [0, 1, 2]                     every cell once with each
  evaluate: [{task: davis, options: {data: data/toy/DAVIS}}]
  gpus: 4                              processes of each pretraining
  slurm: {timeout_min: 1440, slurm_partition: gpu, gpus_per_node: 4}   for --launcher slurm

Interrupted or killed, the same command goes on; failed cells are tried again. The report is of all cells that are done,
in report/ of the grid's folder. Exit status 1: a cell failed."""


@dataclass(frozen=True)
class Place:
    """Where a sweep keeps what it makes; pretrained networks are shared by all sweeps under ``out``."""

    out: Path
    name: str

    @property
    def folder(self) -> Path:
        return self.out / self.name

    def cell_file(self, cell: Cell) -> Path:
        return self.folder / "cells" / f"{file_name(cell.name)}.json"

    def log(self, cell: Cell) -> Path:
        return self.folder / "logs" / f"{file_name(cell.name)}.log"

    def pretrained(self, cell: Cell) -> Path:
        """Work dir of a cell's pretraining: one for all cells, of any sweep, with the same effective config."""
        return self.out / "pretrained" / f"{Path(cell.config).stem}-{cell.pretrain_id}"


class CellError(Exception):
    """A process of a cell failed; the message is the last thing it said."""


# --- one cell --------------------------------------------------------------------------------------------------------


def run_cell(place: Place, cell: Cell, say: Callable[[str], None] = print) -> dict:
    """Pretrain and evaluate one cell, as far as it is not done; returns (and writes) its state."""
    with locked(place.cell_file(cell).with_suffix(".lock"), say) as lock:
        records, errors = [], []
        place.log(cell).parent.mkdir(parents=True, exist_ok=True)
        try:
            checkpoint = pretrain(place, cell, lock, say)
            for number, (task, _) in enumerate(cell.evaluations):
                try:
                    records.append(evaluate(place, cell, number, checkpoint, lock, say))
                except CellError as error:  # the other tasks are still worth having
                    errors.append(f"{task}: {error}")
                    say(f"{task} failed: {error}")
        except CellError as error:
            errors.append(f"pretraining: {error}")
            say(f"pretraining failed: {error}")
        return write_state(place, cell, "; ".join(errors), records)


def write_state(place: Place, cell: Cell, error: str, records: Sequence[str] = ()) -> dict:
    """Write and return what is known of a cell that was run; it is done where there is no ``error``."""
    status = "failed" if error else "done"
    state = {"identity": cell.identity, "status": status, "error": error or None, "records": list(records)}
    write_text(place.cell_file(cell), json.dumps(state, indent=1) + "\n")
    return state


def state_of(place: Place, cell: Cell) -> dict:
    """What is known of a cell: pending if nothing is, if the grid has changed it, or if a record is gone."""
    try:
        state = json.loads(place.cell_file(cell).read_text(encoding="utf-8"))
        there = all((place.folder / record).is_file() for record in state["records"])
        if state["identity"] == cell.identity and there:
            return state
    except (OSError, ValueError, KeyError):
        pass  # never begun, or cut short: begun again
    return {"identity": cell.identity, "status": "pending", "error": None, "records": []}


def pretrain(place: Place, cell: Cell, lock: int, say: Callable[[str], None]) -> Path:
    """Train a cell's network, as far as it is not trained, and return its checkpoint."""
    work_dir = place.pretrained(cell)
    checkpoint = work_dir / "checkpoint.pth"
    with locked(work_dir.with_suffix(".lock"), say) as shared:
        say(f"pretraining{' goes on' if checkpoint.is_file() else ''}; log: {place.log(cell)}")
        words = [*PRETRAIN, *cell.pretrain_argv, "--work-dir", str(work_dir), "--resume"]
        output = run_logged(words, place.log(cell), (lock, shared), say)
        if not checkpoint.is_file():
            raise CellError(f"no {checkpoint} although the training ended well: {last_words(output)}")
    return checkpoint


def evaluate(place: Place, cell: Cell, number: int, checkpoint: Path, lock: int, say: Callable[[str], None]) -> str:
    """Run one of a cell's evaluations and return its record's path, relative to the sweep's folder."""
    task, argv = cell.evaluations[number]
    out = place.folder / "eval" / file_name(cell.name) / f"{number}-{task}"
    where = ["--records", str(place.folder / "records"), "--out", str(out)]
    record = run_evaluation([task, str(checkpoint), *argv, *where], place.log(cell), (lock,), say)
    say(f"{task}: " + "  ".join(f"{name} {value:.2f}" for name, value in list(record.overall.items())[:3]))
    return os.path.relpath(record.path, place.folder)


def run_evaluation(words: Sequence[str], log: Path, locks: Sequence[int], say: Callable[[str], None]) -> Record:
    """Run an evaluation as a process of its own, as :func:`run_logged` does, and return its record."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "record")
        run_logged([*EVALUATE, *words, "--record-path", str(path)], log, locks, say)
        return Record.read(path.read_text(encoding="utf-8").strip())


def run_logged(words: Sequence[str], log: Path, locks: Sequence[int], say: Callable[[str], None]) -> str:
    """Run a command, append its output to ``log``, and return it; now and then say the last line of it.

    The command inherits the locks: should this process be killed alone, they are held until the command has ended too,
    and no second one writes to the same files.

    Raises:
        CellError: the exit status is not 0.
    """
    environment = {name: value for name, value in os.environ.items() if name != "SELFPATCH_COMMAND"}
    with open(log, "a+b") as file:
        file.write(f"\n$ {' '.join(words)}\n".encode())
        file.flush()
        start = file.tell()

        def output() -> str:
            file.seek(start)
            return file.read().decode(errors="replace")

        streams = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
        with subprocess.Popen(words, **streams, env=environment, pass_fds=locks) as process:
            while process.returncode is None:
                try:
                    process.wait(timeout=LINE_EVERY)
                except subprocess.TimeoutExpired:
                    say(last_words(output())[-200:])
        if process.returncode:
            ended = f"signal {-process.returncode}" if process.returncode < 0 else f"exit status {process.returncode}"
            raise CellError(last_words(output(), error=True) or ended)
        return output()


def last_words(output: str, error: bool = False) -> str:
    """The last line that says something; with ``error``, the last one that is an error message, if there is one."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    messages = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return messages[-1] if error and messages else (lines[-1] if lines else "")


@contextmanager
def locked(path: Path, say: Callable[[str], None]) -> Iterator[int]:
    """Hold the lock ``path``, after waiting for whoever has it; gives the descriptor, for children to hold it too.

    By hand, since filelock's locks end with this process: a child that outlives it must keep the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is at it: waiting for {path}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


# --- all cells -------------------------------------------------------------------------------------------------------


def write_sweep(place: Place, grid: Grid) -> dict[str, dict]:
    """Write ``sweep.json``, as the reports read it, from what is known of each cell; returns the states by name."""
    states = {cell.name: state_of(place, cell) for cell in grid.cells}
    cells = [
        {"name": c.name, "settings": c.settings, "seed": c.seed, "against": c.against, **states[c.name]}
        for c in grid.cells
    ]
    content = {"name": grid.name, "axes": grid.axes, "cells": cells}
    write_text(place.folder / "sweep.json", json.dumps(content, indent=1) + "\n")
    return states


def run_here(place: Place, grid: Grid, parallel: int = 1) -> dict[str, dict]:
    """Run all cells in order, ``parallel`` at a time; returns the states."""

    def run(number: int, cell: Cell) -> None:
        head, began = f"[{number}/{len(grid.cells)}] {cell.name}: ", time.perf_counter()
        state = run_cell(place, cell, lambda line: print(head + line, flush=True))
        print(f"{head}{state['status']} after {time.perf_counter() - began:.0f} s", flush=True)

    states = write_sweep(place, grid)
    with ThreadPoolExecutor(parallel) as pool:  # each cell's work is done in processes of its own
        jobs = [pool.submit(run, number, cell) for number, cell in enumerate(grid.cells, 1)]
        try:
            for job in as_completed(jobs):
                job.result()
                states = write_sweep(place, grid)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return states


def slurm_executor(place: Place, grid: Grid) -> object:
    """What submits jobs to Slurm, with the grid's ``slurm`` parameters.

    Raises:
        UserError: submitit is not installed, there is no Slurm here, or a parameter is unknown.
    """
    try:
        import submitit

        executor = submitit.AutoExecutor(place.folder / "jobs", cluster="slurm")
        executor.update_parameters(name=f"sweep-{grid.name}", **grid.slurm)
    except ImportError:
        raise UserError("--launcher slurm needs submitit: pip install -e .[slurm]") from None
    except (RuntimeError, ValueError, TypeError, NameError, AssertionError) as error:
        raise UserError(f"--launcher slurm: {' '.join(str(error).split())[:300]}") from None
    return executor


def run_jobs(place: Place, grid: Grid, executor: object, poll: float = POLL_SLURM) -> dict[str, dict]:
    """Run all cells as jobs, side by side, and wait for them; returns the states.

    A job that an earlier, killed call submitted still runs: its cell's lock makes the new job wait and then find all
    done.
    """
    from submitit.helpers import as_completed as completed_jobs

    states = write_sweep(place, grid)
    jobs = {executor.submit(run_cell, place, cell): cell for cell in grid.cells}
    for job, cell in jobs.items():
        print(f"{cell.name}: job {job.job_id}", flush=True)
    for done, job in enumerate(completed_jobs(list(jobs), poll_frequency=poll), 1):
        cell = jobs[job]
        if (error := job.exception()) is not None:  # timed out, out of memory, cancelled: it wrote no state
            write_state(place, cell, f"job {job.job_id}: {last_words(str(error))}")
        states = write_sweep(place, grid)
        print(f"{cell.name}: {states[cell.name]['status']}, {len(jobs) - done} to go", flush=True)
    return states


def main(argv: Sequence[str]) -> int:
    """Run a sweep from the command line; 1 if a cell failed."""
    parser = command_parser(DESCRIPTION)
    parser.add_argument("grid", type=Path, metavar="GRID.yaml", help="the grid, such as one of configs/sweeps")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/sweeps"), help="sweeps and their networks go here")
    parser.add_argument("--launcher", choices=("none", "slurm"), default="none", help="here, or each cell as a job")
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="cells at a time on this machine")
    parser.add_argument("--dry-run", action="store_true", help="check the grid, list its cells and stop")
    args: argparse.Namespace = parser.parse_args(argv)

    if args.parallel < 1:
        raise UserError(f"--parallel {args.parallel}: must be 1 or more")
    if args.parallel > 1:  # cells must not fight for the cores
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // args.parallel)))
    grid = read_grid(args.grid)
    raise_unless_writable(args.out, "--out")
    place = Place(args.out, file_name(grid.name))
    if args.dry_run:
        for cell in grid.cells:
            print(f"{cell.name}: {cell.config}, {state_of(place, cell)['status']}")
        print(f"{len(grid.cells)} cells; nothing is wrong with {args.grid}")
        return 0
    if args.launcher == "slurm":
        states = run_jobs(place, grid, slurm_executor(place, grid))
    else:
        states = run_here(place, grid, args.parallel)
    failed = {name: state["error"] for name, state in states.items() if state["status"] == "failed"}
    print(f"{len(states)} cells: {len(states) - len(failed)} done, {len(failed)} failed")
    for name, error in failed.items():
        print(f"failed: {name}: {error}")
    reported = 0
    if any(state["records"] for state in states.values()):
        sources = ["--records", str(place.folder / "records"), "--sweep", str(place.folder / "sweep.json")]
        reported = subprocess.run([*REPORT, *sources, "--out", str(place.folder / "report")], check=False).returncode
    return 1 if failed else reported
