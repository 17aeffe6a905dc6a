"""Collection at scale: the same store from any number of workers and from a cluster, and what is said when one fails."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr

from oniris_core.collection import collection, seats
from oniris_core.collection.seats import dask_seats
from oniris_core.common.errors import UserError
from oniris_core.data.episodes.store import open_episodes
from tests.conftest import ROOT, Run, tree
from tests.imports import closure
from tests.test_cli import one_error
from tests.worlds import shown

SHOW = ("--env-id", "tests.worlds:Show-v0", "--import-code", "--heuristic-share", "0",
        "--episodes", "4", "--size", "6,9")  # fmt: skip
KIT = ("oniris_core.data.playing.rollouts",)


def faulty(fault: str, when: int, **more: object) -> tuple[str, ...]:
    return (*SHOW, "--env-kwargs", json.dumps({"fault": fault, "when": when, **more}))


def one_line(result, pattern: str) -> None:
    errors = [line for line in result.output.splitlines() if line.startswith("oniris: error: ")]
    assert result.exit_code == 1, result.output
    assert len(errors) == 1, result.output
    assert re.search(pattern, errors[0]), errors[0]
    assert "Traceback" not in result.output


@pytest.fixture
def cluster() -> Iterator[str]:
    """The address of a Dask cluster with one worker, in this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from distributed import LocalCluster
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0",
                      silence_logs=logging.CRITICAL) as running:  # fmt: skip
        yield running.scheduler_address


@pytest.mark.pipeline
def test_the_same_store_with_any_number_of_workers_and_from_dask(params_only: Path, run: Run, cluster: str) -> None:
    folder = params_only
    for name, options in (("1", ["--workers", 1]), ("2", ["--workers", 2]), ("4", ["--workers", 4]),
                          ("dask", ["--dask-address", cluster])):  # fmt: skip
        result = run(folder, "collect", *SHOW, *options, "--out", f"{name}.zarr")
        assert result.exit_code == 0, result.output
        assert tree(folder / f"{name}.zarr") == tree(folder / "1.zarr")
    store = open_episodes(folder / "1.zarr")
    starts = np.concatenate([[0], store.episode_ends[:-1]])
    rows = np.setdiff1d(np.arange(len(store.actions)), starts)
    assert np.array_equal(store.frames[:][rows, 0, 0], [shown(action) for action in store.actions[rows]])
    assert len(set(store.episode_seed.tolist())) == 4
    assert store.attributes["deterministic"] is True
    assert store.attributes["screen"] == [6, 9]
    assert store.attributes["left_out"] == []
    assert not {"workers", "dask_address", "episode_timeout_s"} & set(store.attributes["params"])


@pytest.mark.pipeline
def test_what_was_played_before_leaves_no_trace(params_only: Path, run: Run) -> None:
    """BipedalWalker-v3 plays differently in a world that was played in before."""
    options = ("--env-id", "BipedalWalker-v3", "--episodes", 4, "--max-frames", 12, "--size", "8,8")
    for workers in (1, 2):
        assert run(params_only, "collect", *options, "--workers", workers, "--out", f"{workers}.zarr").exit_code == 0
    assert tree(params_only / "1.zarr") == tree(params_only / "2.zarr")


@pytest.mark.pipeline
@pytest.mark.parametrize(
    ("fault", "pattern"),
    [
        ("crash", r"episode 2 \(reset seed 2\) killed its process twice \(SIGSEGV: .*out of memory\)"),
        ("hang", r"episode 2 \(reset seed 2\) took longer than collect.episode_timeout_s = 1 s"),
        ("raise", r"episode 2 \(reset seed 2\) failed with ZeroDivisionError: a wheel came off"),
    ],
)
def test_an_episode_that_fails_is_named_and_the_others_are_kept(
    fault: str, pattern: str, params_only: Path, run: Run
) -> None:
    options = (*faulty(fault, 2), "--workers", 2, "--episode-timeout-s", 1, "--out", "a.zarr")
    one_line(run(params_only, "collect", *options), pattern + "; the finished ones are kept")
    kept = {file: file.stat().st_mtime_ns for file in params_only.glob("runs/collect/*/*/episode_*.npz")}
    assert len(kept) >= 2
    assert not (params_only / "a.zarr").exists()
    result = run(params_only, "collect", *options, "--failures-allowed", 1)
    assert result.exit_code == 0, result.output
    assert re.search(r"warning: " + pattern + r"; it is left out", " ".join(result.output.split()))
    store = open_episodes(params_only / "a.zarr")
    assert store.episode_seed.tolist() == [0, 1, 3]
    assert store.attributes["left_out"] == [2]
    assert len(store.split) == 3


@pytest.mark.pipeline
def test_an_episode_that_hangs_on_dask_is_named(
    params_only: Path, run: Run, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection, "LATE_S", 2.0)
    options = (*faulty("hang", 2, seconds=6), "--dask-address", cluster, "--episode-timeout-s", 0.5)
    one_line(run(params_only, "collect", *options), r"episode 2 \(reset seed 2\) took longer than .*= 0.5 s")
    assert len(list(params_only.glob("runs/collect/*/*/episode_*.npz"))) == 2


@pytest.mark.pipeline
def test_a_worker_that_dies_once_is_replaced(params_only: Path, run: Run, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    result = run(params_only, "collect", *faulty("crash once", 1, marks=str(marks)), "--workers", 2, "--out", "a.zarr")
    assert result.exit_code == 0, result.output
    assert open_episodes(params_only / "a.zarr").episode_seed.tolist() == [0, 1, 2, 3]


@pytest.mark.pipeline
@pytest.mark.parametrize(
    ("fault", "pattern"),
    [
        ("size", r"change size, from 6 x 9 to 7 x 9 pixels"),
        ("sizes", r"the screen is 6 x 9 pixels in one episode and 7 x 9 in another"),
        ("nothing", r"renders NoneType, but an RGB, RGBA or grey array"),
        ("not finite", r"not finite, in the episode reset with 2"),
    ],
)
def test_an_unfit_environment_is_bad_input(fault: str, pattern: str, params_only: Path, run: Run) -> None:
    one_error(run(params_only, "collect", *faulty(fault, 2), "--frame-skip", 1, "--workers", 1), pattern)
    assert not (params_only / "data/episodes.zarr").exists()


@pytest.mark.pipeline
def test_what_does_not_repeat_itself_is_said_and_recorded(params_only: Path, run: Run) -> None:
    result = run(params_only, "collect", *faulty("forgets its seed", -1), "--workers", 1)
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "warning: tests.worlds:Show-v0 is not deterministic" in said
    assert "note: 4 of 4 episodes have fewer than 48 frames" in said
    assert zarr.open_group(params_only / "data/episodes.zarr", mode="r").attrs["deterministic"] is False


@pytest.mark.pipeline
def test_a_policy_is_recorded_with_its_identity(params_only: Path, run: Run) -> None:
    options = ("--policy", "tests.worlds:Counts", "--policy-share", 0.5, "--import-code")
    assert run(params_only, "collect", *SHOW, *options, "--workers", 1).exit_code == 0
    imported = open_episodes(params_only / "data/episodes.zarr").attributes["imported"]
    assert imported.keys() == {"tests.worlds", "tests.worlds:Counts"}
    assert all(re.fullmatch(r"[0-9a-f]{64}", sha) for sha in imported.values())


@pytest.mark.pipeline
def test_failures_on_dask_are_named_too(params_only: Path, run: Run, cluster: str) -> None:
    one_line(
        run(params_only, "collect", *faulty("raise", 2), "--dask-address", cluster),
        r"episode 2 \(reset seed 2\) failed with ZeroDivisionError: a wheel came off",
    )
    assert len(list(params_only.glob("runs/collect/*/*/episode_*.npz"))) == 2  # one worker: those before it


def test_how_a_process_died_is_told_though_another_thread_was_told_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with seats.local_seats(1) as found:
        with pytest.raises(BrokenExecutor):
            found.submit(0, signal.raise_signal, signal.SIGKILL).result()
        process = found._processes[0]
        process.join()
        asked = iter([None, None])  # as long as the thread that reaped it has not yet noted how it ended
        monkeypatch.setattr(process._popen, "poll", lambda *_: next(asked, -signal.SIGKILL))
        assert found.renew(0) == signal.SIGKILL
        assert next(asked, "all") == "all"


def test_unfit_clusters_are_refused(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import Client, LocalCluster

    with dask_seats(cluster, KIT) as found:
        assert len(found) == 1
    own = seats.playing_kit(KIT)
    with monkeypatch.context() as patch:
        patch.setattr(Client, "run", lambda *_: {"tcp://w": {**own, "numpy": "1.0"}})
        with pytest.raises(UserError, match=r"worker tcp://w has numpy 1\.0, here it is .*would play other episodes"):
            dask_seats(cluster, KIT).__enter__()
        patch.setattr(Client, "nthreads", lambda _: {"tcp://w": 4})
        with pytest.raises(UserError, match=r"worker tcp://w has 4 threads; start workers with --nthreads 1"):
            dask_seats(cluster, KIT).__enter__()
    monkeypatch.setattr(seats, "DASK_WAIT_S", 0.5)
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0", silence_logs=logging.CRITICAL) as empty,
        pytest.raises(UserError, match="has no workers; start some: dask worker"),
    ):
        dask_seats(empty.scheduler_address, KIT).__enter__()


def test_a_scheduler_that_is_not_there_is_said_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seats.DASK_WAIT_S <= 5
    monkeypatch.setattr(seats, "DASK_WAIT_S", 1)
    with pytest.raises(UserError, match="no Dask scheduler answers"):
        dask_seats("tcp://127.0.0.1:9", KIT).__enter__()
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"collect.dask_address needs Dask: pip install '\.\[dask\]'"):
        dask_seats("tcp://127.0.0.1:9", KIT).__enter__()


def test_the_matrix_is_a_project_of_its_own_and_names_its_code(tmp_path: Path) -> None:
    from ruamel.yaml import YAML

    shutil.copytree(
        ROOT / "examples/matrix", tmp_path / "examples/matrix", ignore=shutil.ignore_patterns("tmp", "cache", "data")
    )
    stages = YAML(typ="safe").load(ROOT / "examples/matrix/dvc.yaml")["stages"]
    code = {f"../../{file.relative_to(ROOT)}" for file in closure(ROOT / "stages/collect.py")}
    for stage in stages.values():
        assert set(stage["deps"]) == code
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    listed = subprocess.run(
        [sys.executable, "-m", "dvc", "stage", "list", "--name-only"], cwd=tmp_path / "examples/matrix", check=True,
        capture_output=True, text=True, env={**os.environ, "DVC_NO_ANALYTICS": "1"},
    )  # fmt: skip
    names = ["collect@CartPole-v1", "collect@MountainCar-v0", "collect@LunarLander-v3", "seeds@0", "seeds@1", "seeds@2"]
    assert listed.stdout.split() == names
