"""Scores of samples: what draws as the truth is drawn wins, an average and too wide a guess lose, and losing does not pay."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from oniris_core.evaluation.measures.horizons import Curves, flat_metrics, measure
from oniris_core.evaluation.probes.states.reader import Quantity
from oniris_core.evaluation.probes.states.registry import reader_for
from oniris_core.evaluation.rollouts.rollouts import Rollouts
from oniris_core.evaluation.scores.intervals import Bootstrap
from oniris_core.evaluation.scores.scores import Distance, euclidean, fair_energy_score, mean_of, spread_and_error
from tests.conftest import Run, one_thread

CASES = 4000
ANGLE = Quantity("angle", "deg", lambda states: states, 360.0)
LANDER = reader_for("LunarLander-v3")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def process(kind: str, spread: float, samples: int, seed: int) -> np.ndarray:
    """[S, N, 2] points, or [S, N] angles, round middles that change from case to case: angles round 180 degrees."""
    rng = np.random.default_rng(seed)
    if kind == "points":
        middle = np.random.default_rng(99).uniform(0, 100, (CASES, 2))
        return middle + spread * rng.normal(size=(samples, CASES, 2))
    middle = np.random.default_rng(99).uniform(150, 210, CASES)
    return (middle + spread * rng.normal(size=(samples, CASES)) + 180) % 360 - 180


@pytest.mark.parametrize(
    ("kind", "distance", "period"), [("points", euclidean, None), ("angles", ANGLE.distance, 360.0)]
)
def test_who_draws_as_the_truth_is_drawn_scores_best(kind: str, distance: Distance, period: float | None) -> None:
    truth = process(kind, 12, 1, seed=0)[0]

    def score(spread: float, samples: int = 4) -> float:
        return float(fair_energy_score(process(kind, spread, samples, 1), truth, distance, np.array(0.0)).mean())

    def calibration(spread: float, samples: int = 4) -> float:
        drawn = process(kind, spread, samples, 1)
        spread_sq, error_sq = spread_and_error(drawn, truth, mean_of(drawn, period), distance)
        return float(np.sqrt(spread_sq.mean() / error_sq.mean()))

    right = score(12)
    assert score(0) > 1.1 * right  # always the mean: least error of one sample, but not the best forecast
    assert score(24) > 1.1 * right
    assert distance(process(kind, 0, 1, 1)[0], truth).mean() < distance(process(kind, 12, 1, 1)[0], truth).mean()
    assert score(12, samples=16) == pytest.approx(
        right, rel=0.03
    )  # fair: any number of samples has the same expectation
    for samples in (2, 4, 16):
        assert calibration(12, samples) == pytest.approx(1, abs=0.05)
    assert calibration(0) == pytest.approx(0, abs=1e-6)
    assert calibration(24) > 1.3


def test_the_score_is_the_formula() -> None:
    samples, truth = np.array([[1.0], [4.0], [-2.0]]), np.array([0.0])
    apart = [3, 3, 6]  # of each pair
    expected = (1 + 4 + 2) / 3 - 2 * sum(apart) / (2 * 3 * 2)
    plain = Quantity("x", "", lambda states: states).distance
    assert fair_energy_score(samples, truth, plain, np.array(9.0)) == pytest.approx(expected)
    alike = np.full((5, 1), 3.0)
    assert fair_energy_score(alike, truth, plain, np.array(9.0)) == 3
    assert [part.item() for part in spread_and_error(alike, truth, mean_of(alike), plain)] == [0, 9]
    with pytest.raises(ValueError, match="an energy score needs at least two samples, not 1"):
        fair_energy_score(samples[:1], truth, plain, np.array(9.0))


def test_to_lose_the_object_never_pays() -> None:
    truth, lost = process("points", 12, 1, seed=0)[0], np.array(80.0)
    for spread, bias in ((12, 0), (0, 0), (0, 30), (3, 30)):
        samples = process("points", spread, 4, 1) + bias
        score = fair_energy_score(samples, truth, euclidean, lost)
        for count in (1, 2, 4):
            gone = samples.copy()
            gone[:count] = np.nan
            worse = fair_energy_score(gone, truth, euclidean, lost)
            assert worse.mean() > score.mean() + 5
            score = worse
        assert np.allclose(score, lost)
        assert all(np.isnan(part).all() for part in spread_and_error(gone, truth, mean_of(gone), euclidean))


def painted(positions: np.ndarray) -> np.ndarray:
    """uint8 [..., 64, 64, 3]: a violet square round each position [..., 2], px of the frame."""
    corner = np.rint(positions).astype(int).clip(1, 61)
    rows, columns = np.arange(64)[:, None], np.arange(64)
    inside = (np.abs(rows - corner[..., 1, None, None]) < 2) & (np.abs(columns - corner[..., 0, None, None]) < 2)
    return np.where(inside[..., None], np.array([128, 102, 230], np.uint8), np.uint8(0)).astype(np.uint8)


def judged(spread: float, gone: bool = False, simulator: bool = True) -> Curves:
    """A lander stands still and is then blown away, by 4 px; the model thinks it is by `spread`."""
    K, S, seen, ahead = 80, 4, 3, 4
    rng = np.random.default_rng(5)
    before = rng.uniform(25, 35, (K, 1, 2)).repeat(seen, 1)

    def blown(samples: int, by: float) -> np.ndarray:
        there = before[:, None, -1:] + by * rng.normal(size=(K, samples, 1, 2))
        return painted(np.concatenate([np.repeat(before[:, None], samples, 1), np.repeat(there, ahead, 2)], axis=2))

    truth, redrawn, samples = blown(1, 4)[:, 0], blown(S, 4), blown(S, spread)
    if gone:
        samples[:, :, seen:] = 0
    rollouts = Rollouts(
        truth, truth, samples, np.arange(K), samples[:, 0], np.zeros(truth.shape[:2], int), np.arange(K), seen,
        np.ones(truth.shape[:2], bool), np.ones(K, bool),
    )  # fmt: skip
    return measure(rollouts, redrawn if simulator else None, LANDER, [], Bootstrap(K, 200, 0))


def test_a_model_that_always_gives_the_mean_loses() -> None:
    right, mean, wide, gone = judged(4), judged(0), judged(12), judged(4, gone=True)
    found = {name: flat_metrics(c) for name, c in {"right": right, "mean": mean, "wide": wide, "gone": gone}.items()}
    skill = {name: metrics["rollout/skill@4"] for name, metrics in found.items()}
    assert found["right"]["rollout/skill@4_low"] <= 1 <= found["right"]["rollout/skill@4_high"]
    assert skill["mean"] == pytest.approx(0, abs=0.1)  # at rest, constant velocity is the mean of what may happen
    assert found["mean"]["rollout/skill@4_high"] < found["right"]["rollout/skill@4_low"]
    assert found["wide"]["rollout/skill@4_high"] < skill["right"]
    assert found["mean"]["rollout/position_px@4"] < found["right"]["rollout/position_px@4"]  # so its one sample says
    assert skill["gone"] < min(skill["mean"], skill["wide"])
    assert found["gone"]["rollout/energy_px@4"] >= found["gone"]["other_episode/position_px@4"]
    assert found["right"]["rollout/spread_over_error@4"] == pytest.approx(1, abs=0.25)
    assert found["right"]["floor/spread_over_error@4"] == pytest.approx(1, abs=0.25)
    assert found["mean"]["rollout/spread_over_error@4"] == 0
    assert found["wide"]["rollout/spread_over_error@4"] > 1.4
    assert found["mean"]["rollout/energy_px@4"] == pytest.approx(found["mean"]["rollout/position_px@4"])  # all alike
    assert "two of them" in gone.left_out["rollout/spread_over_error@4"]
    assert not any(np.isnan(value) for metrics in found.values() for value in metrics.values())


def test_without_a_simulator_there_are_scores_but_no_skill() -> None:
    curves = judged(4, simulator=False)
    assert curves.left_out == {"rollout/skill": "there is no simulator to compare with"}
    metrics = flat_metrics(curves)
    assert metrics["rollout/energy_px@4"] > 0
    assert not any("skill" in name for name in metrics)


def test_a_reader_that_finds_nothing_says_so() -> None:
    assert LANDER is not None
    frames = np.zeros((3, 2, 12, 16, 16, 3), np.uint8)
    rollouts = Rollouts(
        frames[:, 0], frames[:, 0], frames, np.arange(3), frames[:, 0], np.zeros((3, 12), int), np.arange(3), 4,
        np.ones((3, 12), bool), np.ones(3, bool),
    )  # fmt: skip
    curves = measure(rollouts, frames, replace(LANDER, still=None), [], Bootstrap(3, 20, 0))
    assert curves.left_out["rollout/energy_px"] == "the state reader finds nothing in any true frame after the context"
    assert {"rollout/skill@4", "rollout/skill@8", "rollout/spread_over_error@8"} <= set(curves.left_out)
    metrics = flat_metrics(curves)
    assert not any(word in name for name in metrics for word in ("px", "skill", "found", "spread"))


def test_a_score_that_cannot_be_given_says_so() -> None:
    """One episode, whose lander comes into view after the context: nothing says what it costs to lose it."""
    true = painted(np.full((1, 12, 2), 30.0))
    true[:, :4] = 0
    gone = np.zeros((1, 2, *true.shape[1:]), np.uint8)
    rollouts = Rollouts(
        true, true, gone, np.array([0]), gone[0], np.zeros((1, 12), int), np.arange(1), 4, np.ones((1, 12), bool),
        np.ones(1, bool),
    )  # fmt: skip
    curves = measure(rollouts, None, LANDER, [], Bootstrap(1, 20, 0))
    metrics = flat_metrics(curves)
    for name in ("rollout/energy_px@4", "rollout/energy_px@8", "rollout/spread_over_error@8"):
        assert name not in metrics
        assert curves.left_out[name]
    assert metrics["rollout/found@8"] == 0


def test_frames_that_cannot_be_read_are_scored_by_a_fixed_feature() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 4, 12, 32, 32, 3), np.uint8)
    rollouts = Rollouts(
        frames[:, 0], frames[:, 0], frames[:, 1:3], np.arange(3), frames[:, 0], np.zeros((3, 12), int), np.arange(3), 4,
        np.ones((3, 12), bool), np.ones(3, bool),
    )  # fmt: skip
    curves = measure(rollouts, frames[:, 2:], None, [], Bootstrap(3, 20, 0))
    blocks = frames.reshape(3, 4, 12, 16, 2, 16, 2, 3).mean((4, 6)).round()

    def apart(a: int, b: int) -> np.ndarray:
        return np.sqrt(np.square(blocks[:, a, 11] - blocks[:, b, 11]).mean((1, 2, 3)))

    expected = (apart(1, 0) + apart(2, 0)) / 2 - apart(1, 2) / 2
    assert flat_metrics(curves)["rollout/energy_grey@8"] == pytest.approx(expected.mean(), abs=0.01)
    assert "no state reader" in curves.left_out["rollout/skill"]


def test_one_sample_is_too_few(pipeline: Path, run: Run) -> None:
    result = run(pipeline, "render", "--samples", "1")
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert "render.samples = 1 should be greater than or equal to 2" in result.output
