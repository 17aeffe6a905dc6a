"""Nothing outlives what has started it, from its first moment on; and the kill campaign says who did."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.kills import processes
from benchmarks.kills.processes import MARK, aftermath, marked
from oniris_core.collection import collection
from tests.conftest import ROOT, Run, tree
from tests.zygote import linux_only

STAGE = f"{sys.executable} -m stages.preset tiny"


def shell(script: str, folder: Path) -> None:
    environment = {**os.environ, MARK: str(folder), "PYTHONPATH": str(ROOT)}
    subprocess.run(["/bin/sh", "-c", script], cwd=folder, env=environment, stderr=subprocess.DEVNULL, check=True)
    end = time.monotonic() + 60
    while marked(folder) and time.monotonic() < end:
        time.sleep(0.02)


@linux_only
@pytest.mark.parametrize("known", ["DVC_STAGE=x", "RANK=0 ONIRIS_LAUNCHER=$$", "RANK=0 ONIRIS_LAUNCHER=$$ setsid"])
def test_a_stage_whose_launcher_died_while_it_was_started_does_nothing(known: str, params_only: Path) -> None:
    """The shell has ended before the stage is there. With it alive, the same stage does its work."""
    file = params_only / "params.yaml"
    file.write_text(file.read_text().replace("episodes: 8", "episodes: 9", 1))
    before = file.read_bytes()
    run = known if "setsid" in known else f"{known} exec"
    shell(f"(sleep 0.3; {run} {STAGE}) &", params_only)
    assert file.read_bytes() == before
    shell(f"{known} {STAGE}; true", params_only)
    assert file.read_bytes() != before


@linux_only
@pytest.mark.parametrize("group", ["", "setsid --wait", "timeout 60"])
def test_a_stage_in_a_group_of_its_own_is_no_orphan(group: str, params_only: Path) -> None:
    file = params_only / "params.yaml"
    file.write_text(file.read_text().replace("episodes: 8", "episodes: 9", 1))
    before = file.read_bytes()
    shell(f"DVC_STAGE=x {group} {STAGE}; true", params_only)
    assert file.read_bytes() != before


@linux_only
@pytest.mark.parametrize(
    ("launched", "waits"), [({"DVC_STAGE": "x"}, ""), ({}, "waited for\n")], ids=["by dvc", "by hand"]
)
def test_a_stage_that_dvc_has_started_does_not_linger_when_it_leaves(launched: dict[str, str], waits: str) -> None:
    """What it has said is written, and what is to be tidied up is; but no thread is waited for."""
    script = (
        "import atexit, stages, threading; from oniris_core.common.process import leave\n"
        "atexit.register(print, 'tidied'); threading.Timer(1, print, ['waited for']).start(); print('said'); leave(143)"
    )
    environment = {**os.environ, **launched}
    left = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (left.returncode, left.stdout, left.stderr) == (143, f"said\n{waits}tidied\n", "")


def test_a_collection_that_stops_waits_for_its_episodes_less_than_the_grace() -> None:
    assert collection.GRACE_S < processes.GRACE_S


@linux_only
def test_who_outlives_a_kill_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOOK_S", 0.01)
    with subprocess.Popen(["sleep", "0.6"], env={**os.environ, MARK: str(tmp_path)}) as sleeper:
        found = aftermath(tmp_path, grace=0.2)
        assert not found.stuck
        assert not found.starved
        assert f"sleep (sleep 0.6), process {sleeper.pid}, parent {os.getpid()}" in str(found.survivors[0])
        assert "in state S" in str(found.survivors[0])
        assert found.survivors[0].alive_s > 0.3
    with subprocess.Popen(["sleep", "0.6"], env={**os.environ, MARK: str(tmp_path)}):
        waits = iter(range(10**6))
        monkeypatch.setattr(
            processes, "queued", lambda _: 0.1 * next(waits)
        )  # as if it had waited for a core all the time
        found = aftermath(tmp_path, grace=0.2)
        assert found.starved
        assert len(found.survivors) == 1
    assert aftermath(tmp_path, grace=0.0).survivors == []


@linux_only
def test_a_wait_for_a_core_counts_from_its_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is booked when it is over: a stage that had waited for 13.5 s of 15.2 was an orphan."""
    monkeypatch.setattr(processes, "LOOK_S", 0.01)
    began = time.monotonic()

    def queued(_: int) -> float:
        passed = time.monotonic() - began
        return passed if passed > 0.6 else 0.0

    monkeypatch.setattr(processes, "queued", queued)
    with subprocess.Popen(["sleep", "1.5"], env={**os.environ, MARK: str(tmp_path)}):
        assert aftermath(tmp_path, grace=0.3).starved


@pytest.mark.pipeline
@pytest.mark.parametrize(
    ("stage", "last"),
    [
        ("train_vae", "training.fit.watch.report.write_training_report"),
        ("encode", "encoding.report.write_latent_report"),
        ("train", "training.fit.watch.report.write_training_report"),
        ("render", "evaluation.report.renders.write_results"),
    ],
)
def test_what_keeps_nothing_stops_where_the_signal_arrives(
    stage: str, last: str, pipeline: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of a stage is computed again by the next run: whoever stops it, or has killed its dvc, need not wait for it."""

    def work(*_: object, **__: object) -> None:
        with contextlib.suppress(Exception):  # as the code of others has it
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("it goes on")
        raise AssertionError("the stop was taken for trouble")

    before = tree(pipeline / "models"), tree(pipeline / "renders")
    monkeypatch.setattr(f"oniris_core.{last}", work)
    result = run(pipeline, stage, "--threads", "1")
    assert result.exit_code == 143, result.output
    assert (tree(pipeline / "models"), tree(pipeline / "renders")) == before
