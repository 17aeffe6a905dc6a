"""What a process holds at ten points of a long run, and what a step costs it there."""

import gc
import os
import time
from collections.abc import Callable

import psutil

from benchmarks.harness import print_table

POINTS = 10
NAMES = ("step", "memory, MiB", "file handles", "threads", "CPU ms a step", "ms a step")


class Watch:
    """Looks at a process whenever another tenth of its steps is done.

    CPU time counts, not the clock's: on a machine with other work a step takes longer now and then, but costs the same.

    Args:
        total: steps of the run, if they tell how far it is.
        pid: the process; 0: this one.
        unit: what a step is, for the table.
        more: other things to look at, by the name of their column.
    """

    def __init__(
        self, total: int, pid: int = 0, unit: str = "step", more: dict[str, Callable[[], float]] | None = None
    ):
        self._process, self._total, self._unit, self._more = psutil.Process(pid or os.getpid()), total, unit, more or {}
        self.rows: list[list[float]] = []
        self._mark()
        self._at = 0

    def see(self, done: int, share: float | None = None) -> None:
        """So many steps are done; `share` of the run, where it is not told by them."""
        if (done / self._total if share is None else share) * POINTS < len(self.rows) + 1 or done == self._at:
            return
        if self._process.pid == os.getpid():
            gc.collect()
        with self._process.oneshot():
            found = self._process
            rss, handles, threads = found.memory_info().rss / 2**20, found.num_fds(), found.num_threads()
        steps, (cpu, clock) = done - self._at, (self._cpu() - self._before, time.perf_counter() - self._clock)
        more = [look() for look in self._more.values()]
        self.rows.append([done, rss, handles, threads, 1e3 * cpu / steps, 1e3 * clock / steps, *more])
        print(f"{done} {self._unit}s: {rss:.1f} MiB, {handles} file handles, {threads} threads, {1e3 * cpu / steps:.3f} ms",
              flush=True)  # fmt: skip
        self._at = done
        self._mark()

    def table(self) -> None:
        """Print all points, and the last as a multiple of the first."""
        names = [name.replace("step", self._unit) for name in NAMES] + list(self._more)
        if not self.rows:
            return
        digits = (0, 1, 0, 0, 3, 3, *(1,) * len(self._more))
        lines = [[f"{value:,.{n}f}" for value, n in zip(row, digits, strict=True)] for row in self.rows]
        last, first = self.rows[-1], self.rows[0]
        lines.append(["last / first", *(f"{b / a:.3f}" if a else "" for a, b in zip(first[1:], last[1:], strict=True))])
        print()
        print_table(names, lines)

    def _mark(self) -> None:
        self._before, self._clock = self._cpu(), time.perf_counter()

    def _cpu(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system
