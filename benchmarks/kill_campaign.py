"""Nothing lost: the tiny pipeline under `dvc repro`, killed again and again at random moments, against undisturbed runs.

    python -m benchmarks.kill_campaign --kills 300

Each pipeline is a throw-away clone. SIGKILL hits dvc, the stage it runs, or one of the processes of a training, by
turns; the same command is given again until the pipeline is complete. Every third pipeline trains its world model in two
processes and is compared with an undisturbed run that does so too. Only Linux has what is looked at here.
"""

import json
import random
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import psutil
import typer
from ruamel.yaml import YAML

from benchmarks.harness import print_table
from tests.conftest import tree
from tests.project import Project
from tests.test_pipeline import processes_in

VICTIMS = "dvc", "stage", "rank"
MADE = "data", "models", "reports", "renders"
GRACE_S = 2.0
"""After which nothing of a killed run may be alive."""
RANKS_SHARE = 0.25
"""Of the time of a pipeline, that in which it trains in several processes, roughly."""
PATIENCE_S = 900.0
"""After which a run counts as stuck."""


class Pipeline:
    """One clone, its runs, and what went wrong in them (`counts`)."""

    def __init__(self, folder: Path, ranks: int, counts: Counter[str]):
        folder.mkdir()
        self.project, self.ranks, self.counts, self.log = Project(folder), ranks, counts, folder.with_suffix(".log")
        yaml, file = YAML(), folder / "params.yaml"
        params = yaml.load(file)
        params["fit"]["processes"], params["common"]["threads"] = ranks, 1
        yaml.dump(params, file)

    def start(self) -> psutil.Popen:
        with self.log.open("w") as log:
            return psutil.Popen(["dvc", "repro"], cwd=self.project.folder, env=self.project.environment(),
                                stdout=log, stderr=subprocess.STDOUT)  # fmt: skip

    def victim(self, dvc: psutil.Popen, kind: str) -> psutil.Process | None:
        """The process to kill, if there is one of this kind at this moment."""
        if kind == "dvc":
            return dvc
        stages = [p for p in dvc.children(recursive=True) if any(part.startswith("stages.") for part in p.cmdline())]
        ranks = [p for p in stages if p.parent() in stages]
        return next(iter([p for p in stages if p not in ranks] if kind == "stage" else ranks[::-1]), None)

    def killed(self, kind: str, after: float) -> bool:
        """Run, and kill a victim `after` seconds after the first of its kind came; False if the run ended before."""
        dvc, first, hit = self.start(), 0.0, False
        while not hit and dvc.poll() is None:
            time.sleep(0.01)
            try:
                if victim := self.victim(dvc, kind):
                    first = first or time.monotonic()
                    if time.monotonic() - first >= after:
                        victim.kill()
                        hit = True
            except psutil.Error:  # it has just ended
                continue
        return self.ended(dvc) != 0 and hit

    def ended(self, dvc: psutil.Popen) -> int:
        """The exit code of dvc, after nothing of its run is left; 1 if that never came."""
        try:
            code = int(dvc.wait(PATIENCE_S))
        except psutil.TimeoutExpired:
            dvc.kill()
            code = 1
            self.counts["stuck"] += 1
        time.sleep(GRACE_S)
        self.counts["orphans"] += len(processes_in(self.project.folder))
        deadline = time.monotonic() + PATIENCE_S
        while processes_in(self.project.folder) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.heal()
        return code

    def heal(self) -> None:
        """What README says of dvc's own lock."""
        lock = self.project.folder / ".dvc/tmp/rwlock"
        try:
            json.loads(lock.read_text() if lock.exists() else "{}")
        except ValueError:
            lock.unlink()
            self.counts["locks"] += 1

    def made(self) -> dict[str, object]:
        """The bytes of all artefacts; of reports without the seconds they hold, and so without their digests."""
        found: dict[str, object] = {}
        for name, data in tree(self.project.folder).items():
            if name.startswith(tuple(f"{top}/" for top in MADE)) and ".git" not in name:
                found[name] = data
                if name.startswith("reports/") and name.endswith("manifest.json"):
                    del found[name]
                elif name.startswith("reports/") and name.endswith("metrics.json"):
                    found[name] = {k: v for k, v in json.loads(data).items() if not k.startswith("seconds")}
        return found

    def strays(self) -> list[str]:
        """What a complete pipeline should not have left."""
        left = [p for p in self.project.folder.rglob("*") if p.suffix in (".partial", ".replaced", ".removed")]
        left += [p for p in (self.project.folder / "runs").rglob("*") if p.is_file() and p.name != "lock"]
        return [str(p.relative_to(self.project.folder)) for p in left if ".dvc" not in p.parts]


def main(
    kills: Annotated[int, typer.Option(help="how often to kill, in all")] = 300,
    kills_each: Annotated[int, typer.Option(help="how often to kill one pipeline at most")] = 10,
    seed: Annotated[int, typer.Option(help="of the moments and victims")] = 0,
) -> None:
    """Count what random kills of a pipeline's processes change in what it makes: nothing."""
    draw, rows = random.Random(seed), {1: Counter[str](), 2: Counter[str]()}
    undisturbed: dict[int, tuple[float, dict[str, object]]] = {}
    done = number = 0
    with tempfile.TemporaryDirectory(prefix="kill_campaign_") as root:

        def pipeline(name: str, ranks: int) -> Pipeline:
            return Pipeline(Path(root) / name, ranks, rows[ranks])

        def complete(run: Pipeline) -> bool:
            code = run.ended(run.start())
            if code:
                print(f"{run.project.folder.name} cannot be completed: {run.log.read_text()[-2000:]}")
            return not code

        while done < kills:
            ranks = 2 if number % 3 == 2 or (number == 1 and kills < 3 * kills_each) else 1
            counts = rows[ranks]
            if ranks not in undisturbed:
                reference, start = pipeline(f"undisturbed_{ranks}", ranks), time.monotonic()
                if not complete(reference):
                    raise typer.Exit(1)
                undisturbed[ranks] = time.monotonic() - start - GRACE_S, reference.made()
            length, expected = undisturbed[ranks]
            run, hits, going = pipeline(f"pipeline_{number}", ranks), 0, True
            while going and done < kills and hits < kills_each:
                kind = VICTIMS[done % (1 + ranks)]
                if going := run.killed(kind, draw.uniform(0, length * (RANKS_SHARE if kind == "rank" else 1))):
                    counts[kind] += 1
                    hits, done = hits + 1, done + 1
                    print(f"kill {done} of {kills}: {kind}, pipeline {number}", flush=True)
            number += 1
            counts["pipelines"] += 1
            if not complete(run):
                counts["stuck"] += 1
                continue
            counts["completed"] += 1
            made = run.made()
            different = sorted(name for name in made | expected if made.get(name) != expected.get(name))
            strays = run.strays()
            counts["different"] += bool(different)
            counts["strays"] += len(strays)
            for name in (*different, *strays):
                print(f"pipeline {number - 1}: {name} should not be so")
    names = ["pipelines", *VICTIMS, "completed", "different", "stuck", "orphans", "strays", "locks"]
    print(f"\n{done} kills, by victim; what they did to pipelines of one and of two processes\n")
    lines = [[str(ranks), *(str(counts[name]) for name in names)] for ranks, counts in rows.items()]
    print_table(["processes", *names], lines)
    if any(counts[name] for counts in rows.values() for name in ("different", "stuck", "orphans", "strays")):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
