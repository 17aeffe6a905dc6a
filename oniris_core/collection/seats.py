"""Where episodes are played: executors of concurrent.futures, local processes or a Dask cluster, one episode at a seat."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from oniris_core.common.artefacts.files import digest, sha256_file
from oniris_core.common.errors import UserError
from oniris_core.common.process import die_with_parent

DASK_WAIT_S = 5
"""How long the scheduler and its first worker may take to answer."""

RENEW_WAIT_S = 5
"""How long a process that died may take to tell how."""

PLAYING_PACKAGES = (
    "gymnasium",
    "numpy",
    "pillow",
    "box2d",
    "ufal.pybox2d",
    "pygame-ce",
    "pygame",
    "ale-py",
    "minigrid",
)
"""What the frames of an episode depend on."""


class LocalSeats:
    """A process of its own for each seat: when it dies it is known whose episode it was, and no other is lost."""

    is_local = True

    def __init__(self, count: int):
        self._executors = [_process() for _ in range(count)]
        self._processes: dict[int, BaseProcess] = {}

    def __len__(self) -> int:
        return len(self._executors)

    def submit(self, seat: int, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Let a seat that is free do `work`; the first time its process is started."""
        before = set(multiprocessing.active_children())
        future = self._executors[seat].submit(work, *arguments)
        for started in set(multiprocessing.active_children()) - before:
            self._processes[seat] = started
        return future

    def renew(self, seat: int) -> int:
        """Put a new process in the place of one that died; return the signal that ended it, 0 if it ended itself."""
        died = self._processes.pop(seat)
        # The executor's own thread waits for the process too. If that one is told first, `join` comes back here without an
        # exit code, which is known a moment later.
        end = time.monotonic() + RENEW_WAIT_S
        while died.exitcode is None and time.monotonic() < end:
            died.join(timeout=0.01)
        self._executors[seat].shutdown(wait=False)
        self._executors[seat] = _process()
        return max(-(died.exitcode or 0), 0)

    def close(self, busy: bool) -> None:
        """End all processes; those that are `busy` are killed."""
        if busy:
            for process in self._processes.values():
                process.kill()
        for executor in self._executors:
            executor.shutdown(wait=True, cancel_futures=True)


class DaskSeats:
    """The workers of a Dask cluster. Dask itself replaces one that died, and plays its episode again."""

    is_local = False

    def __init__(self, client: Any, count: int):
        self._client, self._count = client, count
        # Identical work has one result in Dask unless it is told otherwise; an episode must be played when it is asked for.
        self._executor: Executor = client.get_executor(pure=False)

    def __len__(self) -> int:
        return self._count

    def submit(self, _: int, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Let whichever worker is free do `work`."""
        return self._executor.submit(work, *arguments)

    def renew(self, seat: int) -> int:
        """Not asked of a cluster, which renews its workers itself."""
        raise NotImplementedError

    def close(self, busy: bool) -> None:
        """Let go of the cluster; it is not ours to end."""
        self._executor.shutdown(wait=not busy)  # without waiting it takes back what is still to be played
        self._client.close()


Seats = LocalSeats | DaskSeats


@contextmanager
def local_seats(count: int) -> Iterator[LocalSeats]:
    """`count` processes on this machine."""
    seats, busy = LocalSeats(count), True
    try:
        yield seats
        busy = False
    finally:
        seats.close(busy)


@contextmanager
def dask_seats(address: str, modules: tuple[str, ...]) -> Iterator[DaskSeats]:
    """The workers of the Dask cluster at `address`.

    Args:
        address: of its scheduler, such as tcp://10.0.0.1:8786.
        modules: the modules an episode is played with; a worker must have the same.

    Raises:
        UserError: Dask is not installed, nothing answers, a worker has several threads, other code or other packages.
    """
    try:
        from distributed import Client
    except ImportError:
        raise UserError("collect.dask_address needs Dask: pip install '.[dask]'") from None
    try:
        client = Client(address, timeout=DASK_WAIT_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"no Dask scheduler answers at collect.dask_address = {address}: {' '.join(str(error).split())[:200]}"
        ) from None
    try:
        _check_workers(client, address, modules)
        seats, busy = DaskSeats(client, len(client.nthreads())), True
    except BaseException:
        client.close()
        raise
    try:
        yield seats
        busy = False
    finally:
        seats.close(busy)


def _check_workers(client: Any, address: str, modules: tuple[str, ...]) -> None:
    try:
        client.wait_for_workers(1, timeout=DASK_WAIT_S)
    except TimeoutError:
        raise UserError(f"the Dask cluster at {address} has no workers; start some: dask worker {address}") from None
    try:
        client.run_on_scheduler(playing_kit, modules)  # it unpacks every task on its way to a worker
        found = client.run(playing_kit, modules)
    except Exception as error:  # what cannot be imported there is told in many ways
        raise UserError(f"the Dask cluster at {address} cannot run this code ({' '.join(str(error).split())[:200]}); "
                        "start scheduler and workers in a checkout of it, with PYTHONPATH=.") from None  # fmt: skip
    for worker, threads in client.nthreads().items():
        if threads > 1:  # environments draw with libraries that serve one thread of a process
            raise UserError(f"the Dask worker {worker} has {threads} threads; start workers with --nthreads 1")
    mine = playing_kit(modules)
    for worker, kit in found.items():
        for what in mine:
            if kit[what] != mine[what]:
                raise UserError(f"the Dask worker {worker} has {what} {kit[what] or 'not'}, here it is "
                                f"{mine[what] or 'not there'}; it would play other episodes")  # fmt: skip


def playing_kit(modules: tuple[str, ...]) -> dict[str, str]:
    """What decides the bytes of an episode besides its parameters: versions of packages, digest of the code."""
    kit = {}
    for package in PLAYING_PACKAGES:
        try:
            kit[package] = version(package)
        except PackageNotFoundError:
            kit[package] = ""
    kit["code"] = digest([sha256_file(Path(str(import_module(name).__file__))) for name in modules])[:12]
    return kit


def _process() -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, initializer=_start_worker, initargs=(os.getpid(),))


def _start_worker(parent: int) -> None:
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    os.environ["OMP_NUM_THREADS"] = "1"  # a policy's network must not fight the other workers for the cores


def within(seconds: float, work: Callable[..., Any], *arguments: Any) -> Any:
    """`work(*arguments)` in a worker process that the kernel ends when it takes longer, wherever it hangs."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return work(*arguments)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
