"""Environments that tests play: their frames show the action that led to them, or they fail in one set way.

Worker processes import this module by an id such as `tests.worlds:Show-v0`.
"""

import os
import signal
import time

import gymnasium as gym
import numpy as np

SPACES = {
    "discrete": gym.spaces.Discrete(5, start=2),
    "box": gym.spaces.Box(-1, 1, (3,), np.float32),
    "multi_discrete": gym.spaces.MultiDiscrete([2, 4, 3]),
    "multi_binary": gym.spaces.MultiBinary(3),
}
NESTED = {
    "scalar": gym.spaces.Box(-1, 1, (), np.float32),
    "matrix": gym.spaces.Box(-1, 1, (2, 2), np.float32),
    "choices": gym.spaces.MultiDiscrete([[2, 4], [3, 2]]),
    "dict": gym.spaces.Dict(turn=gym.spaces.Discrete(3, start=1), push=gym.spaces.Box(-1, 1, (2, 1), np.float32)),
    "tuple": gym.spaces.Tuple((gym.spaces.MultiBinary(2), gym.spaces.Dict(a=gym.spaces.MultiDiscrete([2, 3])))),
}


def shown(action: np.ndarray) -> np.ndarray:
    """The pixel that an action paints."""
    if isinstance(action, dict | tuple):
        parts = action.values() if isinstance(action, dict) else action
        return np.resize(sum(int(shown(part).sum()) * (i + 1) for i, part in enumerate(parts)) % 199 + 20, 3).astype(
            np.uint8
        )
    return np.resize(np.round(40 * (np.asarray(action, np.float64) + 2)), 3).astype(np.uint8)


class Show(gym.Env):
    """Every frame has the colour of the action that led to it; `fault` and `when` (a reset seed) say what goes wrong.

    `marks` is a folder in which each episode that is begun leaves a file, so that a fault may happen only once.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)

    resets = 0

    def __init__(self, render_mode=None, space="discrete", fault="", when=-1, shape=(6, 9, 3), marks="", seconds=1000):
        self.render_mode, self.action_space, self.fault, self.when, self.shape = (
            render_mode,
            {**SPACES, **NESTED}[space],
            fault,
            when,
            shape,
        )
        self.marks, self.first, self.seconds = marks, False, seconds

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.steps, self.pixel = seed, 0, np.zeros(3, np.uint8)
        Show.resets += 1
        if self.marks:
            mark = os.path.join(self.marks, str(seed))  # noqa: PTH118
            self.first = not os.path.exists(mark)  # noqa: PTH110
            open(mark, "a").close()  # noqa: PTH123
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        self.pixel = shown(action)
        wrong = self.fault if self.steps == 3 and self.seed in (self.when, None) else ""
        if wrong == "crash" or (wrong == "crash once" and self.first):
            os.kill(os.getpid(), signal.SIGSEGV)
        if wrong == "hang":
            time.sleep(self.seconds)
        if wrong == "raise":
            raise ZeroDivisionError("a wheel came off")
        state = np.full(1, np.nan if wrong == "not finite" else self.steps, np.float32)
        return state, 1.0, self.steps == 20, False, {}

    def render(self):
        shape = self.shape
        if self.fault == "size" and self.steps > 3 and self.seed == self.when:
            shape = (shape[0] + 1, *shape[1:])
        if self.fault == "sizes" and self.seed == self.when:
            shape = (shape[0] + 1, *shape[1:])
        if self.fault == "nothing":
            return None
        frame = np.zeros(shape, np.uint8)
        frame[...] = self.pixel if len(shape) == 3 and shape[2] == 3 else self.pixel[0]
        if self.fault == "real":
            return (frame / 255).astype(np.float32)
        if self.fault == "too bright":
            return frame.astype(np.float32)
        if self.fault == "forgets its seed":
            frame += np.uint8(Show.resets)
        return frame


gym.register("Show-v0", Show, disable_env_checker=True)


class Halved(gym.ActionWrapper):
    """Not one of Gymnasium's wrappers."""

    def action(self, action):
        return action


def last(observation):
    """A policy: the last choice of the discrete space."""
    return 6


class Counts:
    """A policy with a state of its own: each of its episodes starts with the first choice."""

    def __init__(self, env):
        self.space, self.steps = env.action_space, 0

    def __call__(self, observation):
        self.steps += 1
        return self.space.start + (self.steps - 1) % self.space.n


def outside(observation):
    return 7


def not_finite(observation):
    return np.full(3, np.nan)


def misshapen(observation):
    return np.zeros((2, 2))


def split_up(observation):
    return 2.5
