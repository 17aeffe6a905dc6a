"""Post-hoc averages: any width from snapshots of the tracked ones, close to what tracking it would have given."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from oniris_core.common import power_average
from oniris_core.common.artefacts.weights import load_tensors, save_tensors
from oniris_core.common.errors import UserError
from oniris_core.common.power_average import PowerProfile, combine, exponent_of_width
from oniris_core.training.fit.optimiser.ema import PowerEma
from oniris_core.training.world.snapshots import SnapshotEma
from oniris_core.world.averages import Averages, snapshot_file, snapshot_steps
from oniris_core.world.store import load_world
from tests.conftest import Run, one_thread, tree
from tests.test_cli import sign

STEPS = 1500


def test_the_product_of_profiles_is_its_integral() -> None:
    t = (np.arange(200_000) + 0.5) / 200_000 * 0.7
    for a, b in [((0.05, 0.4), (0.1, 0.7)), ((0.1, 0.4), (0.05, 0.7)), ((0.2, 0.7), (0.2, 0.7))]:
        one, other = PowerProfile(*a), PowerProfile(*b)
        values = [
            np.where(t <= p.end, (p.exponent + 1) * t**p.exponent / p.end ** (p.exponent + 1), 0) for p in (one, other)
        ]
        assert one.dot(other) == pytest.approx(values[0] @ values[1] * (t[1] - t[0]), rel=1e-3)
        assert one.dot(other) == other.dot(one)


def test_a_profile_is_combined_of_itself_alone() -> None:
    profiles = [PowerProfile(width, end) for width in (0.05, 0.1) for end in (0.5, 1.0)]
    for index, profile in enumerate(profiles):
        weights, error = combine(profiles, profile)
        np.testing.assert_allclose(weights, np.eye(4)[index], atol=1e-9)
        assert error < 1e-6
    weights, _ = combine(profiles, PowerProfile(0.2, 1.0))
    assert weights.sum() == pytest.approx(1, abs=1e-9)


def test_snapshots_are_spread_evenly() -> None:
    assert snapshot_steps(100, 4) == (20, 40, 60, 80)
    assert snapshot_steps(100, 0) == ()
    assert snapshot_steps(4, 16) == (1, 2, 3)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> tuple[Averages, dict[float, nn.Module]]:
    """A small network fitted to noisy targets; its averages of several widths, and what 0.05 and 0.1 left on disk."""
    folder, g = tmp_path_factory.mktemp("world"), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
    model.register_buffer("constant", torch.tensor([12345.678]))  # half precision would not hold it
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    kept = snapshot_steps(STEPS, 16)
    emas = [SnapshotEma(model, width, kept, folder / "snapshots") for width in (0.05, 0.1)]
    emas += [PowerEma(model, width) for width in (0.04, 0.06, 0.075, 0.09, 0.15, 0.2)]
    with one_thread():
        for step in range(STEPS):
            x = torch.randn(16, 4, generator=g)
            loss = (model(x) - x.prod(1, keepdim=True) - torch.randn(16, 1, generator=g)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for ema in emas:
                ema.update(model, step)
    averages = Averages(folder, (0.05, 0.1), STEPS, kept)
    for ema in emas[:2]:
        save_tensors(averages.file(ema.width, STEPS), ema.model.state_dict())
    return averages, {ema.width: ema.model for ema in emas}


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Of all parameters at once, relative to b."""
    flat = [torch.cat([value.flatten() for name, value in sorted(x.items()) if name != "constant"]) for x in (a, b)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


@pytest.mark.parametrize("width", [0.04, 0.06, 0.075, 0.09, 0.15, 0.2])
def test_any_width_is_close_to_tracking_it(width: float, training: tuple[Averages, dict[float, nn.Module]]) -> None:
    averages, tracked = training
    made, direct = averages.load(width), tracked[width].state_dict()
    error = distance(made, direct)
    neighbour = min(distance(tracked[w].state_dict(), direct) for w in (0.05, 0.1))
    # Measured: 4.8e-5 for 0.075, where the nearer tracked average is 3.1e-2 away; 1.0e-3 of 1.7e-1 for 0.2.
    assert error < 0.02 * neighbour
    assert torch.equal(made["constant"], torch.tensor([12345.678]))


@pytest.mark.parametrize("wrong", [0.7, 1.4])
def test_another_profile_would_not_do(
    wrong: float, training: tuple[Averages, dict[float, nn.Module]], monkeypatch: pytest.MonkeyPatch
) -> None:
    averages, tracked = training
    direct = tracked[0.075].state_dict()
    right = distance(averages.load(0.075), direct)
    monkeypatch.setattr(power_average, "exponent_of_width", lambda width: wrong * exponent_of_width(width))
    assert distance(averages.load(0.075), direct) > 5 * right


def test_half_precision_costs_little(training: tuple[Averages, dict[float, nn.Module]]) -> None:
    averages, tracked = training
    file = snapshot_file(averages.folder / "snapshots", 0.05, averages.snapshots[-1])
    kept = load_tensors(file)
    assert {value.dtype for name, value in kept.items() if name != "constant"} == {torch.float16}
    rounded = {name: value.half().float() for name, value in tracked[0.075].state_dict().items()}
    assert distance(rounded, tracked[0.075].state_dict()) < 3e-4


def test_a_tracked_width_is_what_was_tracked(training: tuple[Averages, dict[float, nn.Module]]) -> None:
    averages, tracked = training
    for width in (0.05, 0.1):
        assert all(torch.equal(value, averages.load(width)[k]) for k, value in tracked[width].state_dict().items())


def test_a_width_out_of_reach_is_refused_with_the_range(training: tuple[Averages, dict[float, nn.Module]]) -> None:
    averages, _ = training
    for width in (0.02, 0.25):
        with pytest.raises(UserError, match=r"would be missed by \d+%; choose one from 0\.035 to 0\.21"):
            averages.load(width)
    without = Averages(averages.folder, (0.05, 0.1), STEPS, ())
    assert without.load(0.1).keys() == averages.load(0.1).keys()
    with pytest.raises(UserError, match=r"there are: 0\.05, 0\.1, and no snapshots"):
        without.load(0.075)


@pytest.mark.pipeline
def test_render_takes_any_width(pipeline: Path, run: Run) -> None:
    made = [load_world(pipeline / "models/world", width).denoiser.state_dict() for width in (0.05, 0.075, 0.1)]
    assert distance(made[1], made[0]) > 0
    assert distance(made[1], made[2]) > 0
    before = tree(pipeline / "renders")
    result = run(pipeline, "render", "--ema-width", "0.075")
    assert result.exit_code == 0, result.output
    assert tree(pipeline / "renders") != before


@pytest.mark.pipeline
def test_a_model_from_before_snapshots_has_its_tracked_widths_only(pipeline: Path) -> None:
    folder = pipeline / "models/world"
    tracked = load_world(folder, 0.05).denoiser.state_dict()
    about = json.loads((folder / "config.json").read_text())
    del about["ema_snapshots"], about["steps"]
    (folder / "config.json").write_text(json.dumps(about))
    shutil.rmtree(folder / "snapshots")
    sign(folder)
    assert all(torch.equal(value, tracked[k]) for k, value in load_world(folder, 0.05).denoiser.state_dict().items())
    with pytest.raises(UserError, match="no snapshots to make others from"):
        load_world(folder, 0.075)
