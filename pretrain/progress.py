"""Progress of an evaluation: how much is done, how fast it goes, how long the rest takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY = 30.0  # seconds between lines where there is no terminal


def _print(line: str) -> None:
    print(line, flush=True)


class Meter:
    """A bar on a terminal, else a line now and then; a line with the speed when all is done.

    Args:
        title: what is done; it may be changed on the way.
        total: of how many.
        unit: what is counted, such as "frames".
        done: how many an earlier run left done: they do not count for the speed.
        say: is given the lines.
    """

    def __init__(self, title: str, total: int, unit: str, done: int = 0, say: Callable[[str], None] = _print) -> None:
        self.title, self.total, self.unit, self.done, self.say = title, total, unit, done, say
        self.before = done
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, transient=True) if sys.stdout.isatty() else None

    def __enter__(self) -> Meter:
        self.began = self.said = time.perf_counter()
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task(self.title, total=self.total, completed=self.done)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()
        if self.done == self.total > self.before:
            self.say(f"{self.title}: {self.done - self.before} {self.unit}, {self._speed():.2f} {self.unit}/s")

    def _speed(self) -> float:
        return (self.done - self.before) / (time.perf_counter() - self.began)

    def advance(self, count: int = 1) -> None:
        """Say that ``count`` more are done."""
        self.done += count
        speed = self._speed()
        if self.bar:
            description = f"{self.title}  {speed:.2f} {self.unit}/s"
            self.bar.update(self.task, completed=self.done, description=description)
        elif time.perf_counter() - self.said > LINE_EVERY:
            self.said = time.perf_counter()
            left = time.strftime("%H:%M:%S", time.gmtime(max(0, self.total - self.done) / speed))
            of = f"{self.done} of {self.total} {self.unit}"
            self.say(f"{self.title}: {of}, {speed:.2f} {self.unit}/s, {left} left")
