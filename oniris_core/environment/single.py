"""One environment for programs that take no vector of them: `gymnasium.make("Oniris/World-v0", ...)`."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from oniris_core.environment.decisions import DecisionVectorEnv
from oniris_core.environment.dreams import WorldVectorEnv
from oniris_core.environment.truth import TrueVectorEnv


class OneEnv(gym.Env[np.ndarray, Any]):
    """The only one of a vector of environments; arguments as those of the vector, but for num_envs and autoreset_mode."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012  (as Gymnasium has it)
    vector: type[DecisionVectorEnv]

    def __init__(self, *, render_mode: str | None = None, **arguments: Any):
        self.inside = self.vector(1, render_mode=render_mode, autoreset_mode=AutoresetMode.DISABLED, **arguments)
        self.render_mode = render_mode
        self.metadata = {key: value for key, value in self.inside.metadata.items() if key != "autoreset_mode"}
        self.observation_space = self.inside.single_observation_space
        self.action_space = self.inside.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; options as those of the vector."""
        super().reset(seed=seed)
        chosen = int(self.np_random.integers(2**31)) if seed is None else seed
        observation, infos = self.inside.reset(seed=[chosen], options=options)
        return observation[0], {name: int(value[0]) for name, value in infos.items() if not name.startswith("_")}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Go on by one latent frame."""
        observation, rewards, terminated, truncated, _ = self.inside.step(np.asarray(action)[None])
        return observation[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> np.ndarray | None:
        """The newest frame, uint8 [H, W, 3]."""
        frames = self.inside.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        """Let the environment go."""
        self.inside.close()


class WorldEnv(OneEnv):
    """One `WorldVectorEnv`."""

    vector = WorldVectorEnv


class TrueEnv(OneEnv):
    """One `TrueVectorEnv`."""

    vector = TrueVectorEnv
