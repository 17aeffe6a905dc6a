"""Told apart: what looks alike cannot be, what is blurred can; and what cannot be measured says why."""

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import ndimage

from oniris_core.common.process import StopRequest
from oniris_core.evaluation.measures.told_apart import (
    NO_PAIRS,
    NO_SIMULATOR,
    Verdict,
    find_pairs,
    going_on,
    measure_told_apart,
)
from oniris_core.evaluation.probes.states.reader import StateReader
from oniris_core.evaluation.probes.states.registry import reader_for
from oniris_core.evaluation.rollouts.rollouts import Rollouts
from oniris_core.evaluation.scores.intervals import Bootstrap
from tests.conftest import one_thread
from tests.test_scores import painted

LANDER = reader_for("LunarLander-v3")
K, CONTEXT, T = 40, 4, 12
STEPS = 80


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


class Silent:
    """A meter that shows nothing but counts."""

    def __init__(self) -> None:
        self.count = 0

    def advance(self, count: int = 1) -> None:
        self.count += count


def flights(seed: int, episodes: int = K) -> np.ndarray:
    """uint8 [K, T, 64, 64, 3]: a lander somewhere on each frame, unlike that of any other."""
    rng = np.random.default_rng(seed)
    frames = painted(rng.uniform(12, 52, (episodes, T, 2))).astype(int)
    return np.clip(frames + rng.integers(0, 30, frames.shape) * (frames > 0), 0, 255).astype(np.uint8)


def blurred(frames: np.ndarray) -> np.ndarray:
    return ndimage.uniform_filter(frames, size=(0, 0, 3, 3, 0))


def measured(
    generated: np.ndarray, simulated: tuple[np.ndarray, np.ndarray] | None, reader: StateReader | None = LANDER
) -> tuple[dict[str, float | int], dict[str, str], Verdict | None, int]:
    true = flights(0, len(generated))
    meter = Silent()
    rollouts = Rollouts(
        true, true, generated[:, None], np.array([0]), generated[:1], np.zeros(true.shape[:2], int), np.arange(len(true)),
        CONTEXT, np.ones(true.shape[:2], bool), np.ones(len(true), bool),
    )  # fmt: skip
    found = measure_told_apart(
        rollouts, simulated, reader, 4, Bootstrap(len(true), 200, 0), probes=1, steps=STEPS, seed=0, device=torch.device("cpu"),
        progress=lambda name, total: contextlib.nullcontext(meter), stop=StopRequest(),
    )  # fmt: skip
    return *found, meter.count


@pytest.mark.parametrize("reader", [LANDER, None], ids=["reader", "no reader"])
def test_a_blurred_thing_is_told_from_a_sharp_one_and_its_like_is_not(reader: StateReader | None) -> None:
    sim = flights(2), flights(3)
    metrics, left_out, verdict, steps = measured(blurred(flights(1)), sim, reader)
    assert metrics["told_apart/accuracy_low"] > 0.9
    assert metrics["told_apart/simulator_low"] <= 0.5 <= metrics["told_apart/simulator_high"]
    assert not left_out
    assert steps == 2 * STEPS
    assert verdict is not None
    assert (verdict.surprise > 0).mean() > 0.9
    assert set(verdict.pairs.episodes) == set(range(1, K, 2))  # those that were not trained on
    assert set(verdict.pairs.horizons) == set(range(4, T - CONTEXT + 1))
    again = measured(blurred(flights(1)), sim, reader)
    assert again[0] == metrics


def test_crops_are_taken_round_each_frames_own_object_and_only_where_both_have_one() -> None:
    true, made = flights(0), flights(1)
    made[3, CONTEXT + 5] = 0
    where = np.ones((K, T), bool)
    where[5, CONTEXT + 4 :] = False
    pairs = find_pairs(true, made, where, CONTEXT, LANDER)
    assert [(pairs.episodes == k).sum() for k in (2, 3, 5)] == [5, 4, 1]
    for kind in (pairs.real, pairs.made):
        assert kind.shape[1:] == (20, 20, 3)
        assert (kind[:, 10, 10, 2] > 200).all()


def test_a_replay_that_has_ended_repeats_its_last_frame() -> None:
    frames = np.arange(12, dtype=np.uint8).reshape(1, 12, 1, 1, 1).repeat(2, 0).repeat(3, -1)
    frames[1, 6:] = 6
    assert going_on(frames, 4)[0].all()
    assert going_on(frames, 4)[1].tolist() == [True] * 4 + [False] * 8  # its second group is not whole


def test_what_cannot_be_told_apart_says_why() -> None:
    metrics, left_out, verdict, _ = measured(flights(1), None)
    assert left_out == {"told_apart/simulator": NO_SIMULATOR}
    assert "told_apart/accuracy" in metrics
    for generated in (np.zeros_like(flights(1)), flights(1, episodes=1)):  # nothing is seen; nothing to learn from
        for reader in (LANDER, None):
            metrics, left_out, verdict, _ = measured(generated, None, reader)
            assert metrics == {}
            assert verdict is None
            assert left_out["told_apart/accuracy"] == NO_PAIRS
