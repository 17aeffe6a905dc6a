"""An environment that costs nothing, so that what is measured is the pipeline: a dot is pushed over a field of a few pixels.

`benchmarks.large.made:Made-v0`. Episodes end by themselves after a number of frames drawn around the mean that is asked for.
"""

from typing import Any

import gymnasium as gym
import numpy as np

PUSHES = np.array([(0, 1), (0, -1), (1, 0), (-1, 0)])


class Made(gym.Env[np.ndarray, int]):
    """A dot on a field of `size` x `size` pixels; `frames`: recorded of an episode on average, the reset among them."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(self, size: int = 8, frames: int = 50, render_mode: str | None = None):
        self.render_mode, self._size, self._frames = render_mode, size, frames
        self.action_space = gym.spaces.Discrete(4)
        self.observation_space = gym.spaces.Box(0, size, (2,), np.float32)
        shade = np.linspace(20, 120, size).astype(np.uint8)
        self._field = np.stack(
            [shade[:, None].repeat(size, 1), shade[None].repeat(size, 0), np.full((size, size), 60)], 2
        )
        self._field = self._field.astype(np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self._at = self.np_random.integers(0, self._size - 1, size=2)
        self._left = int(self.np_random.integers(self._frames // 2, self._frames + self._frames // 2))
        return self._at.astype(np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._at = (self._at + PUSHES[action]).clip(0, self._size - 2)
        self._left -= 1
        return self._at.astype(np.float32), float(self._at[0] == 0), self._left <= 1, False, {}

    def render(self) -> np.ndarray:  # type: ignore[override]
        frame = self._field.copy()
        y, x = self._at
        frame[y : y + 2, x : x + 2] = 255
        return frame


gym.register("Made-v0", entry_point=Made)
