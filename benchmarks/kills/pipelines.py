"""The tiny pipeline under `dvc repro`, as a subject: a clone in which one stage, or all of them, are still to be run.

A run before its first kill is an undisturbed one, and what follows the last kill is the same again if it starts from the
same bytes. So the stages before the one that is killed are copied from an undisturbed pipeline, and those after it are in
DVC's cache, which hands them out only for the same inputs; else they are run, and the difference shows.
"""

import json
import shutil
from pathlib import Path

import psutil
from ruamel.yaml import YAML

from benchmarks.kills.processes import descendants, marks
from benchmarks.kills.subject import Spans, Subject
from tests.project import Project

STAGES = "collect", "train_vae", "encode", "train", "render"
TRAININGS = "train_vae", "train"


class Pipeline(Subject):
    """Under `dvc repro`.

    Attributes:
        ranks: processes that train.
        like: an undisturbed pipeline to begin from, or None: everything is to be made.
        only: the stage to run; None: all.
    """

    command = ("dvc", "repro")  # by the path that its environment has

    def __init__(self, folder: Path, ranks: int, like: Path | None = None, only: str | None = None):
        super().__init__(folder)
        self.ranks, self.like, self.only = ranks, like, only
        self.victims = ("dvc", *(f"stage of {name}" for name in STAGES))
        if ranks > 1:
            self.victims += tuple(f"rank of {name}" for name in TRAININGS)

    def prepare(self) -> None:
        self.remove()
        if self.like is None:
            self.folder.mkdir(parents=True)
            Project(self.folder)
        else:
            shutil.copytree(self.like, self.folder, symlinks=True, ignore=self._not_copied)
            self._forget()
        yaml, file = YAML(), self.folder / "params.yaml"
        params = yaml.load(file)
        params["fit"]["processes"], params["common"]["threads"] = self.ranks, 1
        yaml.dump(params, file)

    def _not_copied(self, folder: str, names: list[str]) -> set[str]:
        aside = {".dvc": {"tmp"}, ".": {"runs"}}
        return aside.get(str(Path(folder).relative_to(self.like or ".")), set()) & {*names}

    def _forget(self) -> None:
        """Let the stage that is to be run be as if it had never been, and those after it as if in another clone."""
        first = STAGES.index(self.only or STAGES[0])
        yaml, lock = YAML(), self.folder / "dvc.lock"
        stages, locked = yaml.load(self.folder / "dvc.yaml")["stages"], yaml.load(lock)
        for name in STAGES[first:]:
            del locked["stages"][name]
            for out in stages[name]["outs"]:
                shutil.rmtree(self.folder / out)
        yaml.dump(locked, lock)
        for key in (self.folder / ".dvc/cache/runs").glob("*/*"):
            if self.only is None or any(f"stages.{self.only}\n" in entry.read_text() for entry in key.iterdir()):
                shutil.rmtree(key)

    def environment(self) -> dict[str, str]:
        own = {"DVC_SITE_CACHE_DIR": str(self.folder / ".dvc/tmp/site")}  # what dvc keeps outside of any project
        return {**Project.environment(self), **marks(self.folder, self.temporary), **own}  # type: ignore[arg-type]

    def victim(self, root: psutil.Popen, kind: str) -> int | None:
        if kind == "dvc":
            return int(root.pid)
        what, _, name = kind.partition(" of ")
        stages = [pid for pid in descendants(root.pid) if (found := _stage(pid)) and name in ("", found)]
        if what == "stage":
            return next(iter(stages), None)
        return stages[-1] if len(stages) > self.ranks else None

    def heal(self) -> int:
        lock = self.folder / ".dvc/tmp/rwlock"
        try:
            json.loads(lock.read_text() if lock.exists() else "{}")
        except ValueError:
            lock.unlink()
            return 1
        return 0

    def results(self) -> dict[str, bytes]:
        """All but what holds seconds, and so the digests of reports."""
        found = super().results()
        del found["dvc.lock"]
        for name in [name for name in found if name.startswith("reports/")]:
            if name.endswith("manifest.json"):
                del found[name]
            elif name.endswith("metrics.json"):
                kept = {k: v for k, v in json.loads(found[name]).items() if not k.startswith("seconds")}
                found[name] = json.dumps(kept).encode()
        return found


def _stage(pid: int) -> str | None:
    """The name of the stage that a process runs, if it runs one."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return None
    return next((word.removeprefix("stages.") for word in words if word.startswith("stages.")), None)


def spans(found: Spans, only: str | None) -> Spans:
    """When there are victims in a clone in which only one stage is run (None: all are), by what `measure` has found in one
    in which all are."""
    start, end = found["stage of collect"][0], found["stage of render"][1]
    if only is None:
        return {"dvc": found["dvc"], "stage": (start, end), "rank": found.get("rank of train", (start, end))}
    begun, ended = found[f"stage of {only}"]
    sooner = begun - start  # dvc finds the stages before it done
    rank = found.get(f"rank of {only}", (begun, ended))
    return {"dvc": (0.0, ended - sooner + found["dvc"][1] - end), "stage": (start, ended - sooner),
            "rank": (rank[0] - sooner, rank[1] - sooner)}  # fmt: skip
