"""Something that is killed at random moments and started again: what all of them share."""

import hashlib
import os
import random
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.kills.processes import LOOK_S, PATIENCE_S, aftermath, computed, marks

UNFINISHED = (".partial", ".replaced", ".removed")
ASIDE = {".dvc", ".git", "__pycache__", "runs"}
"""Folders without results; of `runs` only locks may be left."""
STUCK = -1
IDLE_S = 3.0
"""Without computing, after which a run will not come to its moment: it waits for its user."""

Spans = dict[str, tuple[float, float]]
"""By kind of victim: from when to when there was one, as CPU seconds of the whole run by then."""


class Subject:
    """One folder in which a command is given again and again until it has come to its end.

    Attributes:
        victims: the kinds of processes to kill.
        command: what is given, in `folder`.
        again: whether the same command goes on after a kill; else there is nothing to compare.
        folder, temporary, log: where it works, where its temporary files are, and what it says.
    """

    victims: tuple[str, ...] = ()
    command: Sequence[str] = ()
    again = True

    def __init__(self, folder: Path):
        self.folder, self.temporary = folder, folder.with_name(folder.name + ".tmp")
        self.log = folder.with_name(folder.name + ".log")

    def prepare(self) -> None:
        """Make the folder, from nothing."""
        self.remove()
        self.folder.mkdir(parents=True)

    def remove(self) -> None:
        """Leave nothing of it."""
        for made in (self.folder, self.temporary):
            shutil.rmtree(made, ignore_errors=True)
        self.log.unlink(missing_ok=True)

    def environment(self) -> dict[str, str]:
        """Of the command."""
        return {**os.environ, **marks(self.folder, self.temporary)}

    def start(self) -> psutil.Popen:
        """Give the command."""
        with self.log.open("w") as log:
            return psutil.Popen(self.command, cwd=self.folder, env=self.environment(), stdin=subprocess.DEVNULL,
                                stdout=log, stderr=subprocess.STDOUT)  # fmt: skip

    def victim(self, root: psutil.Popen, kind: str) -> int | None:  # noqa: ARG002  (others have more kinds)
        """The process of a kind, if there is one at this moment; `root` is that of the command."""
        return int(root.pid)

    def attend(self, root: psutil.Popen, last: bool) -> None:
        """Called while it runs: whatever a user may do. In its `last` run it must come to an end of its own."""

    def run(self, look: Callable[[psutil.Popen], bool], last: bool) -> int:
        """Give the command and wait for its end; its exit code.

        Args:
            look: called all the time while it runs; True: it need not be called any more.
            last: see `attend`.
        """
        root, looking, end = self.start(), True, time.monotonic() + PATIENCE_S
        try:
            while root.poll() is None:
                if time.monotonic() > end:
                    root.kill()
                    return STUCK
                looking = looking and not look(root)
                self.attend(root, last)
                time.sleep(LOOK_S)
        except BaseException:  # Ctrl-C
            root.kill()
            raise
        return int(root.returncode)

    def heal(self) -> int:
        """Do what README says is to be done after a kill; how much of it there was."""
        return 0

    def broken(self) -> list[str]:
        """What is not as it should be right after a kill, when no process is left."""
        return []

    def results(self) -> dict[str, bytes]:
        """The bytes of every file that the command has made, in whatever respect it should be the same each time."""
        files = {str(path.relative_to(self.folder)): path for path in self.folder.rglob("*") if path.is_file()}
        return {name: path.read_bytes() for name, path in files.items() if not ASIDE & {*Path(name).parts}}

    def made(self) -> dict[str, str]:
        """The digests of the results."""
        return {name: digest(data) for name, data in self.results().items()}

    def strays(self) -> list[str]:
        """What a run that has come to its end should not have left."""
        left = [path for path in self.folder.rglob("*") if path.suffix in UNFINISHED and ".dvc" not in path.parts]
        left += [path for path in (self.folder / "runs").rglob("*") if path.is_file() and path.name != "lock"]
        return sorted(str(path.relative_to(self.folder)) for path in left)

    def litter(self) -> list[str]:
        """Temporary files that are still there, their names without what is drawn for each."""
        found = self.temporary.iterdir() if self.temporary.is_dir() else []
        return sorted({re.split("[_-]", path.name)[0] for path in found})


def digest(data: bytes) -> str:
    """SHA-256, the first 16 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()[:16]


def measure(subject: Subject) -> dict[str, Any]:
    """Run it undisturbed: what it makes (`made`), temporary files that stay (`litter`), and the `spans` of its victims.

    Raises:
        RuntimeError: it cannot be completed, or leaves something.
    """
    spans = Spans()

    def look(root: psutil.Popen) -> bool:
        clock = computed(root.pid)
        for kind in subject.victims:
            if subject.victim(root, kind) is not None:
                spans[kind] = spans.get(kind, (clock, clock))[0], clock
        return False

    code = subject.run(look, last=True)
    left = [str(one) for one in aftermath(subject.folder).survivors] + subject.strays()
    if code or left:
        raise RuntimeError(f"{subject.folder.name}: exit code {code}, left {left}: {subject.log.read_text()[-2000:]}")
    return {"spans": spans, "made": subject.made(), "litter": subject.litter()}


def kill(subject: Subject, kind: str, moment: float) -> bool:
    """Run, and kill a victim when the run has computed for `moment` seconds, or computes no more; whether that ended it."""
    hits, last = list[int](), [-1.0, 0.0]

    def look(root: psutil.Popen) -> bool:
        clock, now = computed(root.pid), time.monotonic()
        if clock != last[0]:
            last[:] = clock, now
        due = clock >= moment or now - last[1] > IDLE_S
        victim = subject.victim(root, kind) if due else None
        if victim is None:
            return False
        try:
            psutil.Process(victim).kill()
        except psutil.Error:  # it has just ended
            return False
        hits.append(victim)
        return True

    return subject.run(look, last=False) != 0 and bool(hits)


def disturb(subject: Subject, expected: dict[str, Any], kinds: Sequence[str], draw: random.Random,
            tell: Callable[[str], None]) -> Counter[str]:  # fmt: skip
    """Kill it once for each of `kinds`, in this order, complete it, and compare; what was counted.

    Args:
        subject: to be prepared.
        expected: what `measure` has found.
        kinds: of the victims.
        draw: of the moments.
        tell: is told what is not as it should be, a line each.
    """
    counts = Counter[str](cases=1)
    subject.prepare()
    for kind in kinds:
        hit = kill(subject, kind, draw.uniform(*expected["spans"][kind]))
        after = aftermath(subject.folder)
        counts["stuck"] += after.stuck
        counts["starved" if after.starved else "orphans"] += len(after.survivors)
        for survivor in after.survivors:
            tell(f"after the kill of {kind}: {survivor}")
        if not hit:  # it has come to its end before
            break
        counts.update(("kills", kind))
        counts["healed"] += subject.heal()
        for trouble in subject.broken():
            counts["broken"] += 1
            tell(f"after the kill of {kind}: {trouble}")
    if subject.again:
        code = subject.run(lambda _: True, last=True)
        left = aftermath(subject.folder)
        if code or left.stuck:
            counts["stuck"] += 1
            tell(f"it cannot be completed (exit code {code}): {subject.log.read_text()[-1500:]}")
            return counts
        counts["completed"] += 1
        made, wanted = subject.made(), expected["made"]
        different = sorted(name for name in made.keys() | wanted.keys() if made.get(name) != wanted.get(name))
        counts["different"] += bool(different)
        counts["strays"] += len(subject.strays())
        for name in different:
            tell(f"{name} is {'different' if name in made and name in wanted else 'missing or too many'}")
        for name in subject.strays():
            tell(f"{name} was left")
    litter = {*subject.litter()} - {*expected["litter"]}  # torch leaves folders always
    counts["litter"] += len(litter)
    for name in litter:
        tell(f"{name} was left in the folder for temporary files")
    return counts
