"""Plays one episode and records it. A function of (parameters, seed, index) alone, whoever calls it."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from oniris_core.common.errors import UserError
from oniris_core.common.seeds import numpy_rng
from oniris_core.data.episodes.episode import Episode
from oniris_core.data.playing.environments import fit_screen, screen_of
from oniris_core.data.playing.flat_actions import FlatBox
from oniris_core.data.playing.heuristics import Heuristic, Policy, heuristic_for
from oniris_core.data.playing.params import CollectParams
from oniris_core.data.playing.policies import PolicyMaker, played_action
from oniris_core.data.playing.watchers import Watcher

REPEATED_ROWS = 8
"""Rows that are played twice to see whether an environment is deterministic."""


def episode_seed(seed: int, index: int) -> int:
    """The reset seed of episode `index`: distinct for distinct indices below 2^20 of one collection."""
    if seed >= 2**43:
        raise UserError(f"common.seed = {seed} is too large to collect with: at most 2^43 - 1")
    return seed * 2**20 + index


def longest(env: gym.Env, params: CollectParams) -> int:
    """Frames that an episode can have at most."""
    steps = env.spec.max_episode_steps if env.spec else None
    return min(params.max_frames, 1 + -(-steps // params.frame_skip)) if steps else params.max_frames


def who_plays(index: int, params: CollectParams, seed: int) -> tuple[str, float]:
    """Who plays episode `index`, "random", "heuristic" or "policy", and how many of the set random actions, 0 to 1."""
    rng = numpy_rng(seed, "policy", index)
    lot, noise = rng.random(), rng.random()
    if lot < params.random_share:
        return "random", noise
    is_heuristic = not params.policy or lot < params.random_share + params.heuristic_share
    return "heuristic" if is_heuristic else "policy", noise


def held_out(params: CollectParams, seed: int) -> np.ndarray:
    """uint8 [E], 1 for the episodes kept from training: a random choice of the set share.

    At least one is held out if the share is above zero, and at least one is left for training.
    """
    count = round(params.held_out_share * params.episodes)
    count = min(max(count, int(params.held_out_share > 0)), params.episodes - 1)
    split = np.zeros(params.episodes, np.uint8)
    split[numpy_rng(seed, "split").permutation(params.episodes)[:count]] = 1
    return split


@dataclass(frozen=True)
class _Player:
    """Who plays an episode. `policy` is None for random play; `heuristic` is there if it is one."""

    policy: Policy | None
    name: str
    random_share: float
    heuristic: Heuristic | None = None


def _player(env: gym.Env, params: CollectParams, seed: int, index: int, make_policy: PolicyMaker | None) -> _Player:
    who, noise = who_plays(index, params, seed)
    if who == "policy":
        assert make_policy is not None
        return _Player(make_policy(env), f"policy '{params.policy}'", noise * params.random_actions)
    heuristic = heuristic_for(env) if who == "heuristic" else None
    if heuristic is None:
        return _Player(None, "random play", 1.0)
    random_share = noise * min(params.random_actions, heuristic.most_noise)
    return _Player(heuristic.make(env), f"the heuristic of {params.env_id}", random_share, heuristic)


def play_episode(
    env: gym.Env, params: CollectParams, seed: int, index: int, make_policy: PolicyMaker | None = None
) -> Episode:
    """Play and record episode `index`.

    Args:
        env: from `make_env`, not played in before: a few of them play differently then.
        params: how to play and record.
        seed: `common.seed`.
        index: number of the episode.
        make_policy: makes the player of `params.policy`, where there is one.

    Raises:
        UserError: the environment's frames are unfit or change size, an observation or reward is not finite, or a policy
            gives what is no action.
    """
    rng = numpy_rng(seed, "actions", index)
    reset_seed = episode_seed(seed, index)
    player = _player(env, params, seed, index, make_policy)
    env.action_space.seed(int(rng.integers(2**31)))
    observation, _ = env.reset(seed=reset_seed)

    sample = np.asarray(env.action_space.sample())
    # The first choice, so that the filler is an action of the space: a Discrete space need not start at 0.
    filler = np.zeros_like(sample) + np.asarray(getattr(env.action_space, "start", 0), sample.dtype)
    screen = screen_of(env)
    shape = screen.shape
    frames, states = [fit_screen(screen, params.height, params.width, params.resize)], [_state(observation)]
    actions, rewards, terminated, truncated = [filler], [0.0], [False], [False]
    watcher, ended = player.policy if isinstance(player.policy, Watcher) else None, False
    if watcher:
        watcher.watch(frames[0], None)
    while not ended and len(frames) < params.max_frames:
        decisions = 1
        if player.policy is None or rng.random() < player.random_share:
            action = env.action_space.sample()
            if params.random_held > 1:
                decisions = int(rng.integers(1, params.random_held + 1))
        else:
            action = _chosen(env.action_space, player, observation)
        for _ in range(decisions * _hold(params, player.heuristic, rng)):
            observation, reward, ends, cut = advance(env, action, params.frame_skip)
            if (screen := screen_of(env)).shape != shape:
                raise UserError(f"the frames of {params.env_id} change size, from {shape[0]} x {shape[1]} to "
                                f"{screen.shape[0]} x {screen.shape[1]} pixels; they must stay the same")  # fmt: skip
            frames.append(fit_screen(screen, params.height, params.width, params.resize))
            if watcher:
                watcher.watch(frames[-1], action)
            states.append(_state(observation))
            actions.append(np.asarray(action))
            rewards.append(reward)
            terminated.append(ends)
            ended = ends or cut
            truncated.append(cut or (not ended and len(frames) == params.max_frames))
            if ended or len(frames) == params.max_frames:
                break
    if not np.isfinite(states).all() or not np.isfinite(rewards).all():
        raise UserError(f"{params.env_id} gives an observation or a reward that is not finite, in the episode reset with "
                        f"{reset_seed}")  # fmt: skip
    return Episode(
        np.stack(frames), np.stack(actions), np.array(rewards, np.float32), np.array(terminated),
        np.array(truncated), np.stack(states), reset_seed,
    )  # fmt: skip


def repeats_itself(
    env: gym.Env, params: CollectParams, seed: int, index: int, make_policy: PolicyMaker | None, played: Episode
) -> bool:
    """Whether the first rows of the episode `played` come out the same when they are played again in a new `env`."""
    rows = min(REPEATED_ROWS, len(played.frames))
    again = play_episode(env, params.model_copy(update={"max_frames": rows}), seed, index, make_policy)
    names = ("frames", "actions", "rewards", "terminated", "states")
    return all(np.array_equal(getattr(again, name), getattr(played, name)[:rows]) for name in names)


def _chosen(space: gym.Space, player: _Player, observation: Any) -> Any:
    """The action of a heuristic or policy."""
    assert player.policy is not None
    given = player.policy(observation)
    if isinstance(space, FlatBox) and not isinstance(given, np.ndarray):
        return space.flat(given)
    return played_action(space, given, player.name)


def _hold(params: CollectParams, heuristic: Heuristic | None, rng: np.random.Generator) -> int:
    """Recorded frames for which the next action is held."""
    held, longest_held = params.frames_per_action
    if held < longest_held:
        held = int(rng.integers(held, longest_held + 1))
    return heuristic.holds(held, params.frame_skip) if heuristic else held


class Replay(NamedTuple):
    """What an episode that was played again gave, a row for each of its actions.

    Attributes:
        frames: uint8 [T, H, W, 3]; where the episode ends before, its last frame stays.
        rewards: float32 [T], 0 for the reset and after the end.
        ended: bool [T], whether the environment has ended it by then.
    """

    frames: np.ndarray
    rewards: np.ndarray
    ended: np.ndarray


def replay(
    env: gym.Env,
    reset_seed: int,
    actions: np.ndarray,
    frame_skip: int,
    size: tuple[int, int],
    resize: str,
    redraw: tuple[int, int] | None = None,
) -> Replay:
    """Play given actions from a reset, at the cadence of a recording (rendering ages LunarLander's exhaust).

    Args:
        env: from `make_env`, not played in before.
        reset_seed: what the recorded episode was reset with.
        actions: [T] or [T, components], one per row; row 0's is the filler and is not played.
        frame_skip: environment steps from one row to the next.
        size, resize: height and width of a frame, pixels, and how a screen becomes one (see `fit_screen`).
        redraw: (row, seed): from this row on the environment draws its own noise from that seed; None: as recorded.
    """
    env.reset(seed=reset_seed)
    frames = [fit_screen(screen_of(env), *size, resize)]
    rewards, terminated, ended = np.zeros(len(actions), np.float32), np.zeros(len(actions), bool), False
    for row, action in enumerate(actions[1:]):
        if redraw is not None and row == redraw[0]:
            env.unwrapped.np_random = np.random.default_rng(redraw[1])
        if not ended:
            _, rewards[row + 1], ends, cut = advance(env, action, frame_skip)
            ended, terminated[row + 1 :] = ends or cut, ends
            frames.append(fit_screen(screen_of(env), *size, resize))
    return Replay(np.stack(frames + frames[-1:] * (len(actions) - len(frames))), rewards, terminated)


def advance(env: gym.Env, action: object, frame_skip: int) -> tuple[object, float, bool, bool]:
    """Hold an action for `frame_skip` steps or up to the end: observation, summed reward, terminated, truncated."""
    total = 0.0
    for _ in range(frame_skip):
        observation, reward, ends, cut, _ = env.step(action)
        total += float(reward)
        if ends or cut:
            break
    return observation, total, bool(ends), bool(cut)


def _state(observation: object) -> np.ndarray:
    if isinstance(observation, np.ndarray) and observation.ndim == 1:
        return observation.astype(np.float32)
    return np.zeros(0, np.float32)
