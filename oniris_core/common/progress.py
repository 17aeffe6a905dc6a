"""One look for every long step: a bar with speed and time left on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_LINE_EVERY_S = 20.0


class Meter:
    """Counts `done` out of `total` and shows it."""

    def __init__(self, progress: Progress | None, console: Console, name: str, total: int, done: int):
        self._progress, self._console, self._name, self._total = progress, console, name, total
        self._done = self._first = done
        self._start = self._last_line = time.monotonic()
        self._task = progress.add_task(name, total=total, completed=done, note="") if progress else None

    def advance(self, by: int = 1, note: str = "") -> None:
        """Count `by` more; `note` is shown behind the bar."""
        self._done += by
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self._done, note=note)
            return
        now = time.monotonic()
        if now - self._last_line >= _LINE_EVERY_S or self._done == self._total:
            self._last_line = now
            rate = (self._done - self._first) / max(now - self._start, 1e-9)
            left = (self._total - self._done) / max(rate, 1e-9)
            self._console.print(f"{self._name}: {self._done}/{self._total}, {left:.0f} s left {note}".rstrip())


@contextmanager
def meter(name: str, total: int, done: int = 0) -> Iterator[Meter]:
    """Show the progress of `total` units under `name`, `done` of them finished before."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Meter(None, console, name, total, done)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        yield Meter(progress, console, name, total, done)
