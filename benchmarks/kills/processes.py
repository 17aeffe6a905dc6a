"""The processes of a disturbed run: what they have computed, and who of them outlives a kill, for how long and why."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MARK = "KILL_CAMPAIGN"
"""A variable that all processes of a run inherit, with its folder as the value: so that they are known whoever their parent
is by then, and wherever they are."""
GRACE_S = 2.0
"""After which nothing of a killed run may be alive."""
PATIENCE_S = 900.0
"""After which a run counts as stuck."""
LOOK_S = 0.1
"""From one look at processes to the next."""


def marked(folder: Path) -> list[int]:
    """The processes alive that began in the run of a folder. A zombie has no environment any more and is none of them."""
    sought, found = f"{MARK}={folder}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if sought in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:  # it has ended, or is not ours to look at
            continue
    return found


def descendants(pid: int) -> Iterator[int]:
    """The children of a process and theirs, without a look at all that there are."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return
    for child in children:
        yield child
        yield from descendants(child)


def computed(pid: int) -> float:
    """CPU seconds of a process with all its descendants, also of those that have ended and were waited for."""
    total = 0.0
    for one in (pid, *descendants(pid)):
        try:
            total += sum(psutil.Process(one).cpu_times()[:4])
        except psutil.Error:
            continue
    return total


def queued(pid: int) -> float:
    """Seconds that the first thread of a process has waited for a core in its life."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


@dataclass
class Survivor:
    """A process that was alive after the kill: who it is, its state at the end of the grace, and its times since.

    Attributes:
        about: name, command line, parent.
        state: letters of /proc (R runs or waits for a core, D for a disk, S sleeps), and where in the kernel.
        began: (CPU seconds, seconds in the queue) when it was first seen.
        alive_s, cpu_s, queue_s: from the kill on, when it was last seen.
    """

    about: str
    began: tuple[float, float]
    state: str = ""
    alive_s: float = 0.0
    cpu_s: float = 0.0
    queue_s: float = 0.0

    def __str__(self) -> str:
        return (f"{self.about}: alive for {self.alive_s:.1f} s, of them {self.cpu_s:.1f} s computing and {self.queue_s:.1f} s "
                f"waiting for a core; after {GRACE_S:g} s in state {self.state}")  # fmt: skip


@dataclass
class Aftermath:
    """Who was alive when the grace had passed; whether it was only for want of a core (`starved`); who never went (`stuck`)."""

    survivors: list[Survivor] = field(default_factory=list)
    starved: bool = False
    stuck: bool = False


def aftermath(folder: Path, grace: float = GRACE_S) -> Aftermath:
    """Wait until no process of a run is alive. To be called right after the kill, or after the end of a run.

    A run is starved if it would have been gone within the grace without the time in which one of its processes waited for a
    core, and with it those that wait for that one.
    """
    start, seen, late = time.monotonic(), dict[int, Survivor](), dict[int, Survivor]()
    passed = waited = 0.0
    while alive := marked(folder):
        passed, waits = time.monotonic() - start, [0.0]
        for pid in alive:
            try:
                process = psutil.Process(pid)
                times = sum(process.cpu_times()[:2]), queued(pid)
                if pid not in seen:
                    seen[pid] = Survivor(_about(process), times)
                one = seen[pid]
                waits.append(times[1] - one.began[1] - one.queue_s)
                one.alive_s, one.cpu_s, one.queue_s = passed, times[0] - one.began[0], times[1] - one.began[1]
                if passed >= grace and not one.state:
                    one.state, late[pid] = _state(pid), one
            except (psutil.Error, OSError):  # it has just ended
                continue
        # The kernel books a wait when it is over, however many looks ago it began.
        waited = min(waited + max(waits), passed)
        if passed > PATIENCE_S:
            for pid in alive:
                psutil.Process(pid).kill()
            return Aftermath([*late.values()], stuck=True)
        time.sleep(LOOK_S)
    longest = max((one.alive_s for one in late.values()), default=0.0)
    return Aftermath([*late.values()], starved=longest - waited < grace)


def _about(process: psutil.Process) -> str:
    parent = process.parent()
    words = " ".join(process.cmdline())
    of = f"{parent.pid} {parent.name()}" if parent else "none"
    return f"{process.name()} ({words[:160]}), process {process.pid}, parent {of}"


def _state(pid: int) -> str:
    letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    try:
        where = Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        where = ""
    return f"{letter} {where}" if where not in ("", "0") else letter


def marks(folder: Path, temporary: Path) -> dict[str, str]:
    """Variables of a run in `folder`: marked, with one thread, and with a folder of its own for temporary files."""
    temporary.mkdir(exist_ok=True)
    return {MARK: str(folder), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"}
