"""A training that stopped halfway: what it leaves is taken up if it fits and is whole, and only then."""

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import pytest
import torch
from typer.testing import Result

from oniris_core.common.artefacts.runs import workspace
from oniris_core.training.fit.checkpoints import Checkpoints
from tests.conftest import Run, run_stage, tree
from tests.test_cli import one_error, sign
from tests.test_training import KilledError, report
from tests.zygote import linux_only

pytestmark = pytest.mark.pipeline

STEPS = 2, 4
"""Of the checkpoints that are left."""


@pytest.fixture(scope="module")
def killed(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny pipeline whose `train` was killed after its second checkpoint."""
    folder = tmp_path_factory.mktemp("killed") / "pipeline"
    shutil.copytree(tiny_pipeline, folder)
    save = Checkpoints.save

    def die(self: Checkpoints, step: int, tensors: dict[str, torch.Tensor]) -> None:
        if step > STEPS[-1]:
            raise KilledError
        save(self, step, tensors)

    with patch.object(Checkpoints, "save", die), pytest.raises(KilledError):
        run_stage(folder, "train")
    shutil.copytree(folder / "runs", folder.parent / "runs")
    return folder


@pytest.fixture
def interrupted(killed: Path, tiny_pipeline: Path) -> Iterator[Path]:
    """The same folder for every test (unfinished work knows the path of its output), as it was when `train` was killed."""
    yield killed
    for name, source in (("runs", killed.parent), ("models", tiny_pipeline), ("data", tiny_pipeline)):
        shutil.rmtree(killed / name)
        shutil.copytree(source / name, killed / name)


def checkpoint(folder: Path, step: int) -> Path:
    (found,) = folder.glob(f"runs/train/*/*/step_{step:09d}.safetensors")
    return found


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[-len(data) // 3] ^= 1
    return bytes(changed)


def finished(result: Result, folder: Path, tiny_pipeline: Path) -> None:
    """All is as if nothing had happened."""
    assert result.exit_code == 0, result.output
    assert tree(folder / "models/world") == tree(tiny_pipeline / "models/world")
    assert report(folder / "reports/train") == report(tiny_pipeline / "reports/train")
    assert not list(folder.glob("runs/*/*/*/*"))


@pytest.mark.parametrize(("steps", "start"), [((4,), 2), ((2, 4), 0)])
@pytest.mark.parametrize("damage", [truncate, flip])
def test_damaged_checkpoints_are_named_and_the_last_whole_one_is_used(
    damage: Callable[[bytes], bytes],
    steps: tuple[int, ...],
    start: int,
    interrupted: Path,
    tiny_pipeline: Path,
    run: Run,
) -> None:
    for step in steps:
        file = checkpoint(interrupted, step)
        file.write_bytes(damage(file.read_bytes()))
    result = run(interrupted, "train")
    finished(result, interrupted, tiny_pipeline)
    for step in STEPS:
        assert (f"step_{step:09d}.safetensors is damaged" in result.output) == (step in steps)
    assert ("is whole; starting from the beginning" in result.output) == (not start)
    assert (f"train: going on from step {start}\n" in result.output) == bool(start)


def test_a_checkpoint_of_another_architecture_is_refused(interrupted: Path, run: Run) -> None:
    file, models = checkpoint(interrupted, 4), tree(interrupted / "models")
    checkpoints = Checkpoints(file.parent)
    _, tensors = checkpoints.load_last(lambda _: None) or (file, {})
    names = sorted(name.removeprefix("model/") for name in tensors if name.startswith("model/"))
    first, last = (f"model/{names[index]}" for index in (0, -1))
    other = {**tensors, first: torch.zeros(3, 3, 3), last: torch.zeros(7)}
    before = tree(interrupted / "runs")
    checkpoints.save(4, other)
    one_error(
        run(interrupted, "train"),
        rf"{file.name} belongs to another architecture: '{names[0]}' has shape \[3, 3, 3\], this one wants",
    )
    assert tree(interrupted / "models") == models
    assert set(tree(interrupted / "runs")) >= {name for name in before if "step_" in name}  # nothing is thrown away


def test_another_learning_rate_starts_afresh(interrupted: Path, run: Run) -> None:
    result = run(interrupted, "train", "--lr", "0.005")
    assert result.exit_code == 0
    assert "going on" not in result.output


def test_other_data_start_afresh(interrupted: Path, run: Run) -> None:
    about = interrupted / "data/latents.zarr/zarr.json"
    about.write_text(about.read_text() + "\n")
    sign(interrupted / "data/latents.zarr")
    result = run(interrupted, "train")
    assert result.exit_code == 0
    assert "going on" not in result.output


def test_other_code_starts_afresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONIRIS_RUNS", str(tmp_path / "runs"))
    module = ModuleType("oniris_core.extra")
    module.__file__, module.__spec__ = str(tmp_path / "extra.py"), ModuleSpec("oniris_core.extra", None)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    folders = []
    for source in ("x = 1\n", "x = 2\n", "x = 1\n"):
        (tmp_path / "extra.py").write_text(source)
        with contextlib.suppress(KilledError), workspace("train", tmp_path / "out") as folder:
            folders.append(folder)
            raise KilledError
    assert folders[0] == folders[2] != folders[1]


@linux_only
@pytest.mark.parametrize(
    ("file", "start", "said"),
    [
        ("step_000000006.safetensors", 4, r"/step_000000006.safetensors: No space left on device"),
        ("step_000000006.json", 4, r"/step_000000006.json: No space left on device"),
        ("reports/train.partial/curves.png", 6, r"cannot write reports/train: No space left on device; .* untouched"),
        ("models/world.partial/manifest.json", 6, r"cannot write models/world: No space left on device; .* untouched"),
    ],
)
def test_a_full_disk_leaves_the_last_checkpoint_and_the_old_model_whole(
    file: str, start: int, said: str, interrupted: Path, tiny_pipeline: Path, run: Run
) -> None:
    fsync, models = os.fsync, tree(interrupted / "models")

    def full(descriptor: int) -> None:
        if file in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with patch("os.fsync", full):
        one_error(run(interrupted, "train"), said, exit_code=1)
    assert tree(interrupted / "models") == models
    assert not list(interrupted.rglob("*.partial"))
    result = run(interrupted, "train")
    assert f"going on from step {start}\n" in result.output
    finished(result, interrupted, tiny_pipeline)
