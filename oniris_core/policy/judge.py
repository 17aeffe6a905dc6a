"""How well somebody plays: returns of episodes, dreamt and true.

Axes: n environments side by side.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from oniris_core.common.artefacts.remote import Location, location
from oniris_core.data.playing.heuristics import heuristic_for
from oniris_core.data.rows.zarrs import open_store, read
from oniris_core.environment.decisions import DecisionVectorEnv
from oniris_core.environment.starts import Start
from oniris_core.environment.truth import TrueVectorEnv

Act = Callable[[np.ndarray], np.ndarray]
"""From observations [n, ...] to actions [n, ...]."""

Player = Callable[[TrueVectorEnv, int], Act]
"""Makes who plays an episode of the only one of these environments, which has been reset with this seed."""

Tick = Callable[[], None]
EARLY_TO_LATE = 8
"""Moments of episodes by turns: after none of it, an eighth of it, and so on."""


def moments(starts: Sequence[Start], c: int, context_latents: int) -> list[dict[str, int]]:
    """A moment (`start` and `frame`) of each start that is long enough, early in some and late in others.

    Args:
        starts: beginnings of episodes.
        c: frames of a latent frame.
        context_latents: latent frames that there must be before the moment.
    """
    found = []
    for number, start in enumerate(starts):
        if (spare := start.latents(c) - context_latents) >= 0:
            found.append(
                {"start": number, "frame": c * (context_latents + spare * (number % EARLY_TO_LATE) // EARLY_TO_LATE)}
            )
    return found


def first_returns(envs: DecisionVectorEnv, act: Act, seed: int, options: dict[str, Any], tick: Tick) -> np.ndarray:
    """float64 [n]: the return of the first episode in each of the environments, which begin anew by themselves.

    Args:
        envs: the environments; every episode must come to an end, as by their horizon.
        act: who plays.
        seed, options: of the reset.
        tick: called after each step; may raise to stop.
    """
    seen, _ = envs.reset(seed=seed, options=options)
    total, going = np.zeros(envs.num_envs), np.ones(envs.num_envs, bool)
    while going.any():
        seen, rewards, terminated, truncated, _ = envs.step(act(seen))
        total += rewards * going
        going &= ~(terminated | truncated)
        tick()
    return total


def true_return(
    truth: TrueVectorEnv, player: Player, seed: int, tick: Tick, options: dict[str, Any] | None = None
) -> float:
    """The return of one episode of the simulator.

    Args:
        truth: one environment; it is left at the end of the episode.
        player: who plays.
        seed, options: of the reset.
        tick: called after each step; may raise to stop.
    """
    seen, _ = truth.reset(seed=[seed], options=options)
    act, total, over = player(truth, seed), 0.0, False
    while not over:
        seen, rewards, terminated, truncated, _ = truth.step(act(seen))
        total, over = total + float(rewards[0]), bool(terminated[0] or truncated[0])
        tick()
    return total


def true_returns(truth: TrueVectorEnv, player: Player, seeds: Iterable[int], tick: Tick) -> np.ndarray:
    """float64 [E]: the return of an episode of each seed; arguments as those of `true_return`."""
    return np.array([true_return(truth, player, seed, tick) for seed in seeds])


def always(make: Callable[[], Act]) -> Player:
    """One who begins all episodes alike."""
    return lambda _, __: make()


def at_random(truth: TrueVectorEnv, seed: int) -> Act:
    """Plays at random, the same in equal episodes."""
    space = copy.deepcopy(truth.single_action_space)
    space.seed(seed)
    return lambda _: np.asarray(space.sample())[None]


def heuristic_player(truth: TrueVectorEnv) -> Player | None:
    """The environment's heuristic, asked once a decision, which sees what the simulator says; None where there is none."""
    if heuristic_for(truth.games[0].env) is None:
        return None

    def make(playing: TrueVectorEnv, _: int) -> Act:
        (game,) = playing.games
        found = heuristic_for(game.env)
        assert found is not None
        policy = found.make(game.env)
        return lambda _: np.asarray(policy(game.observation))[None]

    return make


def recorded_returns(place: Location | str) -> np.ndarray:
    """float64 [E]: the returns of the episodes of a store, as far as they were recorded.

    Raises:
        UserError: missing, damaged, or without rewards.
    """
    group, _ = open_store(location(place), "episodes", made_by="collect")
    rewards, ends = read(group, "data/rewards").astype(np.float64), read(group, "meta/episode_ends")
    return np.add.reduceat(rewards, np.concatenate([[0], ends[:-1]]))
