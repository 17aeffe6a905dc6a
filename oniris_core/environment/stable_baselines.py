"""Vector environments as Stable-Baselines3 takes them. Import this module only where the extra `policies` is installed."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecEnv

from oniris_core.common.errors import UserError
from oniris_core.environment.decisions import DecisionVectorEnv


class BaselinesVecEnv(VecEnv):
    """The same environments with the interface of Stable-Baselines3, which resets in the step in which an episode ends."""

    def __init__(self, envs: DecisionVectorEnv):
        """Wrap environments. Raises UserError unless they reset in the same step and count choices from 0."""
        if envs.autoreset_mode != AutoresetMode.SAME_STEP:
            raise UserError("Stable-Baselines3 needs environments with autoreset_mode='SameStep'")
        if np.any(getattr(envs.single_action_space, "start", 0)):
            raise UserError(f"Stable-Baselines3 counts choices from 0, but the actions are {envs.single_action_space}")
        self.envs = envs
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> np.ndarray:
        """Begin all episodes, with the seeds given to `seed` before."""
        seeds = None if None in self._seeds else [int(seed) for seed in self._seeds if seed is not None]
        self._reset_seeds()
        return self.envs.reset(seed=seeds)[0]

    def step_async(self, actions: np.ndarray) -> None:
        """Take in what to do."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Do it."""
        observations, rewards, terminated, truncated, infos = self.envs.step(self._actions)
        told: list[dict[str, Any]] = [{"TimeLimit.truncated": bool(cut)} for cut in truncated]
        for row in np.flatnonzero(terminated | truncated):
            told[row]["terminal_observation"] = infos["final_obs"][row]
        return observations, rewards.astype(np.float32), terminated | truncated, told

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """The newest frame of each."""
        return self.envs.render() or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute, which all environments share."""
        return [getattr(self.envs, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refused: environments share their attributes."""
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Refused: there is no single environment to call."""
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Any = None) -> list[bool]:  # noqa: ARG002
        """None is."""
        return [False for _ in self._get_indices(indices)]
