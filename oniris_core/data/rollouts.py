"""Plays one episode and records it. A function of (parameters, seed, index) alone, whoever calls it."""

import gymnasium as gym
import numpy as np
from PIL import Image

from oniris_core.common.errors import UserError
from oniris_core.common.seeds import numpy_rng
from oniris_core.config.collect import CollectParams
from oniris_core.data.environments import heuristic_policy
from oniris_core.data.episode import Episode


def episode_seed(seed: int, index: int) -> int:
    """The reset seed of episode `index`: distinct for distinct indices below 2^20 of one collection."""
    return seed * 2**20 + index


def random_action_share(index: int, params: CollectParams, seed: int) -> float:
    """The share of random actions in episode `index`: 1 for the random policy, else heuristic with some noise."""
    rng = numpy_rng(seed, "policy", index)
    is_random, noise = rng.random() < params.random_share, rng.random() * params.heuristic_noise
    return 1.0 if is_random else noise


def held_out(params: CollectParams, seed: int) -> np.ndarray:
    """uint8 [E], 1 for the episodes kept from training: a random choice of the set share.

    At least one is held out if the share is above zero, and at least one is left for training.
    """
    count = round(params.held_out_share * params.episodes)
    count = min(max(count, int(params.held_out_share > 0)), params.episodes - 1)
    split = np.zeros(params.episodes, np.uint8)
    split[numpy_rng(seed, "split").permutation(params.episodes)[:count]] = 1
    return split


def record_frame(env: gym.Env, height: int, width: int) -> np.ndarray:
    """The rendered screen, area-averaged to uint8 [height, width, 3]."""
    screen = env.render()
    if not isinstance(screen, np.ndarray) or screen.ndim != 3 or screen.shape[2] != 3:
        raise UserError(f"the environment renders {type(screen).__name__}, but an RGB array [H, W, 3] is needed")
    if screen.shape[:2] == (height, width):
        return np.array(screen, np.uint8)
    return np.asarray(Image.fromarray(screen).resize((width, height), Image.Resampling.BOX))


def play_episode(env: gym.Env, params: CollectParams, seed: int, index: int) -> Episode:
    """Play and record episode `index`.

    Args:
        env: from `make_env`; its state before the call does not matter.
        params: how to play and record.
        seed: `common.seed`.
        index: number of the episode.
    """
    rng = numpy_rng(seed, "actions", index)
    reset_seed = episode_seed(seed, index)
    random_share = random_action_share(index, params, seed)
    heuristic = heuristic_policy(env) if random_share < 1 else None
    env.action_space.seed(int(rng.integers(2**31)))
    observation, _ = env.reset(seed=reset_seed)

    sample = np.asarray(env.action_space.sample())
    # The first choice, so that the filler is an action of the space: a Discrete space need not start at 0.
    filler = np.zeros_like(sample) + np.asarray(getattr(env.action_space, "start", 0), sample.dtype)
    frames, states = [record_frame(env, params.height, params.width)], [_state(observation)]
    actions, rewards, terminated, truncated = [filler], [0.0], [False], [False]
    ended = False
    while not ended and len(frames) < params.max_frames:
        if heuristic is None or rng.random() < random_share:
            action = env.action_space.sample()
        else:
            action = np.asarray(heuristic(observation), filler.dtype)[()]  # played exactly as it is recorded
        for _ in range(params.frames_per_action):
            observation, reward, ends, cut = _advance(env, action, params.frame_skip)
            frames.append(record_frame(env, params.height, params.width))
            states.append(_state(observation))
            actions.append(np.asarray(action))
            rewards.append(reward)
            terminated.append(ends)
            ended = ends or cut
            truncated.append(cut or (not ended and len(frames) == params.max_frames))
            if ended or len(frames) == params.max_frames:
                break
    return Episode(
        np.stack(frames), np.stack(actions), np.array(rewards, np.float32), np.array(terminated),
        np.array(truncated), np.stack(states), reset_seed,
    )  # fmt: skip


def replay(
    env: gym.Env,
    reset_seed: int,
    actions: np.ndarray,
    frame_skip: int,
    size: tuple[int, int],
    redraw: tuple[int, int] | None = None,
) -> np.ndarray:
    """Play given actions from a reset, at the cadence of a recording (rendering ages LunarLander's exhaust).

    Args:
        env: from `make_env`; its state before the call does not matter.
        reset_seed: what the recorded episode was reset with.
        actions: [T] or [T, components], one per row; row 0's is the filler and is not played.
        frame_skip: environment steps from one row to the next.
        size: height and width of a frame, pixels.
        redraw: (row, seed): from this row on the environment draws its own noise from that seed; None: as recorded.

    Returns:
        uint8 [T, H, W, 3]. Where the episode ends before, its last frame stays.
    """
    env.reset(seed=reset_seed)
    frames = [record_frame(env, *size)]
    ended = False
    for row, action in enumerate(actions[1:]):
        if redraw is not None and row == redraw[0]:
            env.unwrapped.np_random = np.random.default_rng(redraw[1])
        if not ended:
            _, _, ends, cut = _advance(env, action, frame_skip)
            ended = ends or cut
            frames.append(record_frame(env, *size))
    return np.stack(frames + frames[-1:] * (len(actions) - len(frames)))


def _advance(env: gym.Env, action: object, frame_skip: int) -> tuple[object, float, bool, bool]:
    """Hold an action until the next row: observation, summed reward, terminated, truncated."""
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
