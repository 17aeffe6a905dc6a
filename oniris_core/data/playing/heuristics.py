"""Simple players for environments in which random play shows little: it falls at once, or never gets anywhere."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

Policy = Callable[[Any], Any]
"""From the environment's observation to an action."""


@dataclass(frozen=True)
class Heuristic:
    """How an environment is played.

    Attributes:
        make: a new player of one episode.
        most_steps: steps of the environment for which its actions may be held without it failing; 0: any number. Where they
            are to be held for longer, it chooses anew at every recorded frame.
        most_noise: share of random actions it may be mixed with without it failing.
    """

    make: Callable[[gym.Env], Policy]
    most_steps: int = 0
    most_noise: float = 1.0

    def holds(self, frames: int, frame_skip: int) -> int:
        """Recorded frames for which its actions are held where `frames` are asked for: so many, or one if it would fail."""
        return frames if not self.most_steps or frames * frame_skip <= self.most_steps else 1


def heuristic_for(env: gym.Env) -> Heuristic | None:
    """The heuristic of an environment, or None where there is none or wrappers changed what it sees or does."""
    found = HEURISTICS.get(type(env.unwrapped).__name__)
    plain = env.unwrapped
    if found and env.observation_space == plain.observation_space and env.action_space == plain.action_space:
        return found
    return None


def _lunar_lander(env: gym.Env) -> Policy:
    from gymnasium.envs.box2d.lunar_lander import heuristic

    return lambda observation: heuristic(env.unwrapped, observation)


def _bipedal_walker(_: gym.Env) -> Policy:
    from gymnasium.envs.box2d.bipedal_walker import BipedalWalkerHeuristics

    walker = BipedalWalkerHeuristics()
    walker.a = np.zeros(4)  # the class keeps its action in an array that all instances would share
    return lambda observation: walker.step_heuristic(observation).copy()


def _cart_pole(_: gym.Env) -> Policy:
    """Balances while the cart follows a slow swing of 1 m: kept still, a pole shows nothing of what actions do.

    A linear controller of position, velocity, angle and angular velocity; the gains were found by trying.
    """
    steps, phase = 0, 0.0

    def play(observation: np.ndarray) -> int:
        nonlocal steps, phase
        if not steps:
            phase = 60 * float(observation[0])  # resets are within 0.05 m of the middle: any phase
        steps += 1
        position, velocity, angle, turning = observation
        aim = np.sin(phase + 0.05 * steps)
        return int(0.3 * (position - aim) + 0.5 * velocity + 5 * angle + turning > 0)

    return play


def _mountain_car(env: gym.Env) -> Policy:
    """Pushes the way the car moves, which gains height with every swing."""
    if isinstance(env.action_space, gym.spaces.Discrete):
        return lambda observation: 2 if observation[1] >= 0 else 0
    return lambda observation: np.array([1.0 if observation[1] >= 0 else -1.0], np.float32)


def _car_racing(env: gym.Env) -> Policy:
    """Steers towards the middle of the road some way ahead, which is what is not green; slower in bends.

    Actions: steering, gas, brake; for the environment's five discrete actions the nearest of them.
    """
    car: Any = env.unwrapped

    def play(observation: np.ndarray) -> Any:
        ahead = observation[58:64].astype(np.int16)  # rows in front of the car, of 96
        road = np.nonzero(ahead[..., 1] - ahead[..., 0] < 20)[1]
        off = road.mean() - 47.5 if len(road) > 5 else 0.0  # pixels to the right
        speed, steering = np.hypot(*car.car.hull.linearVelocity), np.clip(0.03 * off, -1, 1)
        gas, brake = 0.4 * (speed < 40 - 20 * abs(steering)), 0.2 * (speed > 40)
        if isinstance(env.action_space, gym.spaces.Discrete):  # nothing, right, left, gas, brake
            return 1 if steering > 0.2 else 2 if steering < -0.2 else 3 if gas else 0
        return np.array([steering, gas, brake], np.float32)

    return play


HEURISTICS = {
    "LunarLander": Heuristic(_lunar_lander),
    "BipedalWalker": Heuristic(_bipedal_walker, most_steps=1),
    "CartPoleEnv": Heuristic(_cart_pole, most_steps=4, most_noise=0.2),
    "MountainCarEnv": Heuristic(_mountain_car),
    "Continuous_MountainCarEnv": Heuristic(_mountain_car),
    "CarRacing": Heuristic(_car_racing),
}
"""By the name of the environment's class. The first two are Gymnasium's own."""
