"""Nothing lost: trainings that are killed at random moments end with the bytes of an undisturbed run."""

import math
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import tree
from tests.test_training import OUTPUT, report
from tests.zygote import cpu_seconds, fork, linux_only, run_stage_as_process

KILLS, STEPS = 8, 30
PHASES = "before the first checkpoint", "between two checkpoints", "after the last checkpoint"


def phase(folder: Path) -> str:
    """When a run was killed, by what it left."""
    steps = sorted(int(path.stem.removeprefix("step_")) for path in folder.glob("runs/*/*/*/step_*.json"))
    return PHASES[0 if not steps else 1 if steps[-1] < STEPS else 2]


def strays(folder: Path) -> list[str]:
    """Whatever a finished run should not have left."""
    left = [p for p in folder.rglob("*") if p.suffix in (".partial", ".replaced", ".removed")]
    left += [p for p in (folder / "runs").rglob("*") if p.is_file() and p.name != "lock"]
    return sorted(str(p.relative_to(folder)) for p in left)


@linux_only
@pytest.mark.pipeline
@pytest.mark.parametrize("stage", ["train_vae", "train"])
def test_killed_at_random_moments_and_rerun_gives_the_same_bytes(stage: str, pipeline: Path, tmp_path: Path) -> None:
    out, told, said = pipeline / OUTPUT[stage], pipeline / "reports" / stage, tmp_path / "said.txt"
    options = ("--threads", "1", "--steps", str(STEPS))  # more than the preset has, so that some of the kills hit them
    phases, draw = Counter[str](), random.Random(stage)

    def attempt(until: float, wanted: str | None = None) -> tuple[int | None, float]:
        """Run, and kill after so many seconds of its own time, or when its checkpoints say that it is in a phase."""
        for made in (out, told):  # as DVC does
            shutil.rmtree(made, ignore_errors=True)
        process = fork(run_stage_as_process, pipeline, stage, options, said)
        used = 0.0 if wanted else cpu_seconds(process, until)
        while wanted and process.is_alive() and phase(pipeline) != wanted:
            time.sleep(0.002)
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            phases[phase(pipeline)] += 1
        else:
            assert process.exitcode == 0, said.read_text()
        return process.exitcode, used

    code, length = attempt(math.inf)
    undisturbed = tree(out), report(told)
    code = None
    while phases.total() < KILLS or code != 0:
        # At random within each eighth of its length, later and later: what is done is not done again.
        moment = (phases.total() + draw.random()) / KILLS * length
        fresh = code is None or code == 0
        code, used = attempt(moment if phases.total() < KILLS else math.inf)
        if code == 0:
            length = min(length, used) if fresh else length  # else a first run that took long is never reached again
            assert (tree(out), report(told)) == undisturbed
            assert strays(pipeline) == []
    for wanted in PHASES[1:]:  # where chance may not have led
        assert attempt(math.inf, wanted)[0] == -signal.SIGKILL
    assert attempt(math.inf)[0] == 0
    assert (tree(out), report(told)) == undisturbed
    assert strays(pipeline) == []
    assert set(phases) == set(PHASES), phases
