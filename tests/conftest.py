"""A tiny pipeline, run once, that many tests look at or copy."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from typer.testing import CliRunner, Result

from oniris_core.config.reader import build
from oniris_core.data.playing.params import CollectParams
from oniris_core.training.world.params import TrainParams
from stages import collect, encode, export, play, policy, preset, render, train, train_vae
from tests.project import ROOT, defaults, forget_the_users_variables, write_defaults

APPS = {"collect": collect.app, "train_vae": train_vae.app, "encode": encode.app, "train": train.app, "render": render.app,
        "play": play.app, "policy": policy.app, "export": export.app, "preset": preset.app}  # fmt: skip

Run = Callable[..., Result]

# The same examples in every run: what fails here fails everywhere, and what passed still passes.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")


def collect_params(**values: object) -> CollectParams:
    """The default parameters of `collect` with some values in place of theirs."""
    return build(CollectParams, "collect", {**defaults()["collect"], **values}, "test")


def train_params(**values: object) -> TrainParams:
    """The default parameters of `train` with some values in place of theirs."""
    return build(TrainParams, "train", {**defaults()["fit"], **defaults()["train"], **values}, "test")


def pytest_configure() -> None:
    forget_the_users_variables()


THREADS = int(os.environ.get("OMP_NUM_THREADS", 2))


LONGEST = ("test_pipeline", "test_engine", "test_measures", "test_training", "test_data", "test_writers", "test_kills",
           "test_gpu_benchmark")  # fmt: skip
"""Begun first where several processes share the files: else the last to be begun keeps one of them waiting for the other."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session", autouse=True)
def _same_threads() -> None:
    import torch

    torch.set_num_threads(THREADS)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Another number of threads for a while: it decides how sums are rounded."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def one_thread() -> contextlib.AbstractContextManager[None]:
    """For networks so small that a second thread is in the way, above all on a machine that has other work."""
    return threads(1)


def tree(folder: Path, without: str = "") -> dict[str, bytes]:
    """The bytes of every file below `folder`, but for those in a folder named `without`."""
    files = (p for p in folder.rglob("*") if p.is_file() and without not in p.relative_to(folder).parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def run_stage(folder: Path, name: str, *options: object) -> Result:
    """Run a stage in this process with `folder` as the current one."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        return CliRunner().invoke(APPS[name], [str(option) for option in options])
    finally:
        os.chdir(before)


def start(folder: Path, stage: str, *options: str) -> "subprocess.Popen[str]":
    """Start a stage as a process of its own in `folder`; its stderr is a pipe."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(THREADS)}
    command = [sys.executable, "-m", f"stages.{stage}", *options]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="session")
def tiny_params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the tiny preset's parameters and nothing else. Look, do not touch."""
    folder = tmp_path_factory.mktemp("params")
    write_defaults(folder)
    assert run_stage(folder, "preset", "tiny").exit_code == 0
    return folder


@pytest.fixture(scope="session")
def tiny_pipeline(tiny_params: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all five stages have run with the tiny preset. Look, do not touch."""
    folder = tmp_path_factory.mktemp("tiny")
    shutil.copy(tiny_params / "params.yaml", folder)
    with threads(THREADS):  # whichever test asks for it first
        for name in ("collect", "train_vae", "encode", "train", "render"):
            result = run_stage(folder, name)
            assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="session")
def small_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small VAE, world model and starts, and in `out` their export. Look, do not touch."""
    from tests.exports import TWO_LEVELS, save_small

    folder = tmp_path_factory.mktemp("export")
    save_small(folder, TWO_LEVELS, (1, 2, 4))
    write_defaults(folder)
    options = ("--ema-width", "0.1", "--vae", "vae", "--world", "world", "--starts", "starts.npz", "--out", "out")
    with threads(1):
        result = run_stage(folder, "export", *options)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def pipeline(tiny_pipeline: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pipeline to do damage to."""
    shutil.copytree(tiny_pipeline, tmp_path / "pipeline")
    return tmp_path / "pipeline"


@pytest.fixture
def run() -> Run:
    """`run(folder, stage, *options)`."""
    return run_stage


@pytest.fixture
def params_only(tiny_params: Path, tmp_path: Path) -> Path:
    """A folder that holds the tiny preset's parameters and nothing else."""
    shutil.copy(tiny_params / "params.yaml", tmp_path)
    return tmp_path
