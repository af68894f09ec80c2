"""Progress of anything that takes long: how much is done, how fast it goes, how long the rest takes."""

import sys
import time
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY = 30.0  # seconds between lines where there is no terminal


class Meter:
    """A bar on a terminal, else a line now and then; a line with the speed when all is done.

    Args:
        title: what is done; it may be changed on the way.
        total: of how many; 0 where :meth:`update` tells it.
        unit: what is counted, such as "frames".
        done: how many an earlier run left done: they do not count for the speed.
        file: where the bar is shown; None: standard output.
        summary: whether a line with the speed is said when all is done.
    """

    def __init__(
        self,
        title: str,
        total: int,
        unit: str,
        done: int = 0,
        file: TextIO | None = None,
        summary: bool = True,
    ) -> None:
        file = file or sys.stdout
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self.file = file
        self.before, self.summary = done, summary
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, console=Console(file=file), transient=True) if file.isatty() else None

    def __enter__(self) -> "Meter":
        self.began = self.said = time.perf_counter()
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task(self.title, total=self.total, completed=self.done)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()
        if self.summary and self.done == self.total > self.before:
            self._say(f"{self.title}: {self.done - self.before} {self.unit}, {self._speed():.2f} {self.unit}/s")

    def _say(self, line: str) -> None:
        print(line, file=self.file, flush=True)

    def _speed(self) -> float:
        return (self.done - self.before) / (time.perf_counter() - self.began)

    def advance(self, count: int = 1) -> None:
        self.done += count
        speed = self._speed()
        if self.bar:
            description = f"{self.title}  {speed:.2f} {self.unit}/s"
            self.bar.update(self.task, completed=self.done, total=self.total, description=description)
        elif time.perf_counter() - self.said > LINE_EVERY:
            self.said = time.perf_counter()
            left = time.strftime("%H:%M:%S", time.gmtime(max(0, self.total - self.done) / speed))
            of = f"{self.done} of {self.total} {self.unit}"
            self._say(f"{self.title}: {of}, {speed:.2f} {self.unit}/s, {left} left")

    def update(self, done: int, total: int) -> None:
        """Say that ``done`` of ``total`` are done: the callback of what counts by itself."""
        self.total = total
        self.advance(done - self.done)
