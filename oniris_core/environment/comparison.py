"""Whether a policy can move from the dreamt environment to the true one: what of the two agrees, and by how much not.

Axes: n environments side by side.
"""

from typing import Any

import numpy as np

from oniris_core.common.errors import UserError
from oniris_core.environment.decisions import DecisionVectorEnv
from oniris_core.environment.dreams import WorldVectorEnv
from oniris_core.environment.truth import TrueVectorEnv


def compare(dreams: WorldVectorEnv, truth: TrueVectorEnv, decisions: int, seed: int = 0) -> dict[str, float]:
    """Begin both from the same recorded frames and play the same random actions in both, an episode in each environment.

    Args:
        dreams, truth: as many environments of either.
        decisions: how many to take at most.
        seed: of the actions and dreams.

    Returns:
        `first/difference`: mean absolute difference of the first observations, in their own units; `first/scale`: their
        standard deviation; for `dream` and `truth` the mean and standard deviation of a decision's reward, the mean length
        of an episode (decisions, up to the limit) and the share of episodes that was terminated.

    Raises:
        UserError: another number of environments, or other spaces.
        ResetNeeded: an episode ended, and environments do not reset themselves.
    """
    n, c = dreams.num_envs, dreams.group
    for name in ("num_envs", "group", "single_observation_space", "single_action_space"):
        if getattr(dreams, name) != getattr(truth, name):
            raise UserError(f"{name}: {getattr(dreams, name)} of the dreams is not {getattr(truth, name)} of the truth")
    starts = np.arange(n) % len(dreams.parts.starts.starts)
    most = min(dreams.parts.start(int(number)).latents(c) for number in starts)
    frame = c * min(most, 4)
    options: dict[str, Any] = {"start": starts, "frame": frame}
    dreamt, true = (envs.reset(seed=seed, options=options)[0].astype(np.float64) for envs in (dreams, truth))
    dreams.action_space.seed(seed)
    actions = [dreams.action_space.sample() for _ in range(decisions)]
    return {
        "first/difference": float(np.abs(dreamt - true).mean()),
        "first/scale": float(true.std()),
        **_played("dream", dreams, actions),
        **_played("truth", truth, actions),
    }


def _played(name: str, envs: DecisionVectorEnv, actions: list[np.ndarray]) -> dict[str, float]:
    going, rewards, lengths, terminated = np.ones(envs.num_envs, bool), list[float](), np.zeros(envs.num_envs), 0
    for taken in actions:
        if not going.any():
            break
        _, got, ended, cut, _ = envs.step(taken)
        rewards += got[going].tolist()
        lengths += going
        terminated += int((ended & going).sum())
        going &= ~(ended | cut)
    return {
        f"{name}/reward": float(np.mean(rewards)),
        f"{name}/reward_std": float(np.std(rewards)),
        f"{name}/length": float(lengths.mean()),
        f"{name}/terminated": terminated / envs.num_envs,
    }
