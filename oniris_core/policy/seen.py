"""What a policy is given of latent frames: each with the action that led to it.

How fast things move is seen poorly in a few blurred frames, and an action of a moment ago has changed it since: in CartPole
a reader of three latent frames is off by 0.25 rad/s, one that knows the actions too by 0.16 (docs/recipe.md). Axes: N
environments, C channels of latents, A features of an action, h, w.
"""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from oniris_core.data.rows.actions import action_spec


def told(space: gym.Space, actions: np.ndarray) -> np.ndarray:
    """float32 [N, A]: features of the actions of N environments, those that the world model is told."""
    return action_spec(space).encode(np.asarray(actions))


def with_actions(seen_NChw: np.ndarray, told_NA: np.ndarray) -> np.ndarray:
    """float32 [N, C + A, h, w]: latent frames, and behind their channels a plane of each feature."""
    planes = np.broadcast_to(told_NA[:, :, None, None], (*told_NA.shape, *seen_NChw.shape[2:]))
    return np.concatenate([seen_NChw, planes], axis=1)


class WithActions(VecEnvWrapper):
    """Environments of latent frames that show the last action too: nought where an episode begins."""

    def __init__(self, envs: VecEnv):
        """Wrap environments whose observations are [C, h, w]."""
        assert isinstance(envs.observation_space, spaces.Box)
        channels, *size = envs.observation_space.shape
        features = action_spec(envs.action_space).features
        super().__init__(envs, spaces.Box(-np.inf, np.inf, (channels + features, *size), np.float32))
        self._told = np.zeros((envs.num_envs, features), np.float32)

    def reset(self) -> np.ndarray:
        """Begin all episodes."""
        self._told = np.zeros_like(self._told)
        return with_actions(np.asarray(self.venv.reset()), self._told)

    def step_async(self, actions: np.ndarray) -> None:
        """Take in what to do."""
        self._told = told(self.action_space, actions)
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Do it."""
        seen, rewards, over, infos = self.venv.step_wait()
        for row in np.flatnonzero(over):
            last = np.asarray(infos[row]["terminal_observation"])[None]
            infos[row]["terminal_observation"] = with_actions(last, self._told[row : row + 1])[0]
            self._told[row] = 0
        return with_actions(np.asarray(seen), self._told), rewards, over, infos
