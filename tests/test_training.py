"""One loop, resumable to the bit: an interrupted run and an undisturbed one give the same bytes."""

import json
import math
import signal
import subprocess
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn

from oniris_core.nn.power_average import exponent_of_width
from oniris_core.training.checkpoints import Checkpoints
from oniris_core.training.ema import PowerEma
from oniris_core.training.schedules import cosine, inverse_sqrt, warmup
from oniris_core.world.loss import ExpectedLoss
from tests.conftest import Run, start, tree

OUTPUT = {"train_vae": "models/vae", "train": "models/world"}


class KilledError(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.pipeline
@pytest.mark.parametrize("stage", ["train_vae", "train"])
def test_killed_at_every_checkpoint_and_rerun_gives_the_same_bytes(
    stage: str, tiny_pipeline: Path, pipeline: Path, run: Run
) -> None:
    """Dies before, then after each of the three checkpoints of the tiny run."""
    save, out = Checkpoints.save, pipeline / OUTPUT[stage]
    for survivors in (0, 1, 1):  # from nothing, from step 0 to 2, from 2 to 4; the rerun below does 4 to 6
        saved = 0

        def die(self: Checkpoints, step: int, tensors: dict) -> None:
            nonlocal saved
            if saved == survivors:  # noqa: B023
                raise KilledError
            saved += 1
            save(self, step, tensors)

        with patch.object(Checkpoints, "save", die), pytest.raises(KilledError):
            run(pipeline, stage)
        assert tree(out) == tree(tiny_pipeline / OUTPUT[stage])  # the artefact there before is untouched
    result = run(pipeline, stage)
    assert result.exit_code == 0
    assert tree(out) == tree(tiny_pipeline / OUTPUT[stage])
    assert tree(pipeline / "reports" / stage) == tree(tiny_pipeline / "reports" / stage)
    assert not list((pipeline / "runs" / stage).rglob("step_*"))


def wait_for_checkpoint(folder: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not list((folder / "runs").rglob("step_*.json")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.pipeline
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_process_goes_on_from_its_checkpoint(number: int, exit_code: int, pipeline: Path) -> None:
    options = ("--steps", "60", "--checkpoint-every", "10", "--threads", "2")
    undisturbed = start(pipeline, "train", *options, "--out", "a", "--report", "ra")
    assert undisturbed.communicate()[1]
    assert undisturbed.returncode == 0
    with start(pipeline, "train", *options, "--out", "b", "--report", "rb") as process:
        wait_for_checkpoint(pipeline, process)
        process.send_signal(number)
        _, said = process.communicate()
    assert process.returncode == exit_code
    assert "Traceback" not in said
    assert not (pipeline / "b").exists()
    with start(pipeline, "train", *options, "--out", "b", "--report", "rb") as process:
        _, said = process.communicate()
    assert process.returncode == 0
    assert "going on from step" in said
    assert tree(pipeline / "a") == tree(pipeline / "b")


@pytest.mark.pipeline
def test_another_parameter_starts_afresh(pipeline: Path, run: Run) -> None:
    with patch.object(Checkpoints, "save", autospec=True, side_effect=Checkpoints.save) as save:
        killed = patch("oniris_core.training.world.WorldTrainer.after_step", side_effect=[None, None, KilledError])
        with killed, pytest.raises(KilledError):
            run(pipeline, "train")
        assert save.call_count == 1
    result = run(pipeline, "train", "--lr", "0.005")
    assert result.exit_code == 0
    assert "going on" not in result.output


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path) -> None:
    checkpoints, said = Checkpoints(tmp_path), list[str]()
    for step in (1, 2, 3):
        checkpoints.save(step, {"x": torch.full((9,), float(step))})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"step_00000000{n}.{kind}" for n in (2, 3) for kind in ("json", "safetensors")
    ]
    path = tmp_path / "step_000000003.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    step, tensors = checkpoints.load_last(said.append) or (0, {})
    assert (step, tensors["x"][0]) == (2, 2.0)
    assert len(said) == 1
    assert "step_000000003.safetensors is damaged" in said[0]
    (tmp_path / "step_000000002.safetensors").write_bytes(b"")
    assert checkpoints.load_last(said.append) is None


@pytest.mark.pipeline
def test_a_loss_that_is_not_finite_stops_with_step_and_episodes(pipeline: Path, run: Run) -> None:
    out = tree(pipeline / "models")
    result = run(pipeline, "train_vae", "--lr", "1e30", "--clip-norm", "1e30")
    assert result.exit_code == 1
    errors = [line for line in result.output.splitlines() if "oniris: error" in line]
    assert len(errors) == 1
    assert "is not finite at step" in errors[0]
    assert "episodes" in errors[0]
    assert "last good checkpoint" in errors[0]
    assert tree(pipeline / "models") == out


@pytest.mark.parametrize(("width", "exponent"), [(0.05, 16.97), (0.10, 6.94)])
def test_ema_widths_of_the_paper(width: float, exponent: float) -> None:
    assert exponent_of_width(width) == pytest.approx(exponent, abs=0.01)


def test_power_ema_has_the_profile_it_claims() -> None:
    model = nn.Linear(1, 1, bias=False)
    ema, steps = PowerEma(model, 0.1), 2000
    for step in range(steps):
        with torch.no_grad():
            model.weight.fill_(step / steps)
        ema.update(model, step)
    gamma = exponent_of_width(0.1)
    assert float(ema.model.weight) == pytest.approx((gamma + 1) / (gamma + 2), abs=1e-3)  # the mean of t under t^gamma


def test_learning_rates() -> None:
    assert [warmup(step, 4) for step in (0, 3, 9)] == [0.25, 1, 1]
    assert [inverse_sqrt(step, 100) for step in (0, 100, 400)] == [1, 1, 0.5]
    assert cosine(0, 10, 0.1) == 1
    assert cosine(5, 10, 0.1) == pytest.approx(0.55)
    assert cosine(10, 10, 0.1) == pytest.approx(0.1)


def test_the_expected_loss_follows_the_loss() -> None:
    expected, g = ExpectedLoss(), torch.Generator().manual_seed(0)
    sigma = torch.tensor([0.1, 1.0, 5.0])
    assert torch.equal(expected(sigma), torch.ones(3))  # nothing seen yet
    for step in range(401):
        s = torch.randn(64, generator=g).exp()
        expected.observe(s, 0.2 * s.sqrt() * torch.exp(0.1 * torch.randn(64, generator=g)), step)
    torch.testing.assert_close(expected(sigma).log10(), (0.2 * sigma.sqrt()).log10(), atol=0.05, rtol=0)
    copy = ExpectedLoss()
    copy.load_state_dict(expected.state_dict())
    assert torch.equal(copy(sigma), expected(sigma))


@pytest.mark.pipeline
def test_reports_hold_numbers_and_curves(tiny_pipeline: Path) -> None:
    metrics = json.loads((tiny_pipeline / "reports/train_vae/metrics.json").read_text())
    assert set(metrics) >= {"psnr", "crop_psnr", "position_spread_db", "compression"}
    assert metrics["compression"] == 192
    assert {"error@0.1", "error@3", "copy_last"} <= set(
        json.loads((tiny_pipeline / "reports/train/metrics.json").read_text())
    )
    curve = np.genfromtxt(tiny_pipeline / "reports/train/curves.csv", delimiter=",", names=True)
    assert len(curve) == 6
    assert all(math.isfinite(value) for value in curve["loss"])
