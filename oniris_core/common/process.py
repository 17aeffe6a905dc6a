"""Processes that behave: they die with their parent, hold a lock on what they write, and stop when asked."""

import atexit
import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from oniris_core.common.errors import Interrupted, UserError

_PR_SET_PDEATHSIG = 1
_LAUNCHER = "ONIRIS_LAUNCHER"
_NONE = -1
_launched = False


def die_with_parent(parent: int, with_signal: int = signal.SIGKILL) -> None:
    """Ask the kernel to send `with_signal` to this process when its parent (process id `parent`) dies.

    The parent may have died before the request was made; then the process ends at once. Only Linux offers this.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, with_signal, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), with_signal)


def launch_variables() -> dict[str, str]:
    """What a launcher of stages adds to their environment, so that they know whose death to look out for."""
    return {_LAUNCHER: str(os.getpid())}


def die_with_launcher() -> None:
    """Let a stage that dvc or a launcher of ranks has started die with it; others live on their own.

    To be called as early as may be: what comes before, the start of Python, is a moment in which a launcher can die unseen.
    Then its child belongs to a process of the system by now, which is of another group than the child and what started it;
    unless the child has a group of its own, as the ranks of torchrun have.
    """
    global _launched
    rank = "RANK" in os.environ  # whose launcher has died may wait for the others for ever
    launcher = os.environ.pop(_LAUNCHER, None)  # not that of a process which this one may start
    if sys.platform != "linux" or not (rank or "DVC_STAGE" in os.environ):
        return
    _launched = True
    parent = os.getppid() if launcher is None else int(launcher)
    if launcher is None and os.getpgrp() not in (os.getpid(), _group(parent)):
        parent = _NONE
    # A stage alone may still tidy up: that dvc was killed is no reason to lose what it has computed.
    die_with_parent(parent, signal.SIGKILL if rank else signal.SIGTERM)


def leave(code: int) -> NoReturn:
    """End the process, as `sys.exit` does; at once if dvc or a launcher of ranks has started it.

    Those are gone, or wait; and Python takes half a second and more to let go of torch.
    """
    if _launched:
        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _group(process: int) -> int:
    try:
        return os.getpgid(process)
    except ProcessLookupError:  # it has just ended
        return _NONE


@contextlib.contextmanager
def exclusive(folder: Path, what: str) -> Iterator[None]:
    """Hold the lock of `folder` (made if need be), or raise UserError naming the process that holds it.

    The kernel releases the lock however the process ends, so a killed run never leaves it behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("ab+", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _already_writing(file.read().decode().strip(), what) from None
        except OSError as error:
            raise UserError(
                f"cannot lock {folder / 'lock'}: {error.strerror}; the variable ONIRIS_RUNS may name a folder on another disk"
            ) from None
        with contextlib.suppress(OSError):  # the lock is what counts; on a full disk it holds without the number
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        yield


def _already_writing(process: str, what: object) -> UserError:
    who = f"process {process}" if process else "another process"
    return UserError(f"{who} is already writing {what}; wait for it")


class Claim:
    """A new, empty folder that one process fills: another that wants it meanwhile is refused, whatever else they share.

    What a process that has ended left in its place is swept away. The kernel lets go of the folder however this one ends.

    Raises:
        UserError: a process that still runs is filling it.
        OSError: it cannot be made, or what is in its place cannot be removed.
    """

    def __init__(self, folder: Path, what: object):
        self._folder = folder
        if not self._sweep():
            raise _already_writing("", what)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise _already_writing("", what) from None
        self._descriptor = os.open(folder, os.O_RDONLY)
        if not self._lock(self._descriptor) or not self.holds():
            os.close(self._descriptor)
            raise _already_writing("", what)

    def holds(self) -> bool:
        """Whether the folder is still there, and the one that was made: somebody may have removed what it lies in."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._folder.stat())
        except OSError:
            return False

    def close(self) -> None:
        """Remove the folder, if it still lies where it was made, and let go."""
        os.close(self._descriptor)
        with contextlib.suppress(OSError):  # the next one sweeps it
            self._sweep()

    def _sweep(self) -> bool:
        """Remove what lies in the folder's place, unless a process holds it; whether the place is free now."""
        try:
            descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return True
        try:
            if not self._lock(descriptor):
                return False
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self._folder)
            return True
        finally:
            os.close(descriptor)

    @staticmethod
    def _lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # some disks of other machines lock no folders
            return True
        return True


class StopRequest:
    """Set when SIGINT or SIGTERM arrives inside `stop_requests`; a loop looks at it between two units of work."""

    signal_number: int | None = None

    def raise_if_set(self) -> None:
        """Raise Interrupted if a signal has arrived."""
        if self.signal_number is not None:
            raise Interrupted(self.signal_number)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """While inside, a signal stops the run where it arrives: for what is made again from its beginning anyway."""
        self.raise_if_set()
        with stopped_at_once():
            yield


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """While inside, SIGINT and SIGTERM are noted instead of acted on, so that a unit of work is never torn."""
    request = StopRequest()

    def note(number: int, _: FrameType | None) -> None:
        request.signal_number = number

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stopped_at_once() -> Iterator[None]:
    """While inside, SIGINT and SIGTERM raise Interrupted where they arrive, also within `stop_requests`."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Interrupted(number)

    if (
        threading.current_thread() is not threading.main_thread()
    ):  # only there can handlers be set, and only there they run
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
