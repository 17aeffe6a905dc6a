"""Gymnasium environments, checked before use, and the policies that play them."""

import os
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from oniris_core.common.errors import UserError
from oniris_core.common.naming import nearest
from oniris_core.data.actions import action_spec

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame must not look for a screen
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

Policy = Callable[[np.ndarray], Any]
"""From the environment's observation to an action."""


def make_env(env_id: str, kwargs: dict[str, Any], import_module: bool) -> gym.Env:
    """An environment that renders RGB arrays and has a supported action space.

    Args:
        env_id: Gymnasium id with version; `module:Env-v0` needs `import_module`.
        kwargs: keyword arguments of gymnasium.make.
        import_module: allow ids that import a module's code.

    Raises:
        UserError: unknown or unversioned id, missing dependency, no rgb_array mode, unsupported action space.
    """
    if ":" in env_id and not import_module:
        raise UserError(f"env_id '{env_id}' would import the code of a module; allow it with import_env_module: true")
    if ":" not in env_id and env_id not in gym.registry:
        versions = [known for known in gym.registry if known.rpartition("-v")[0] == env_id]
        if versions:
            raise UserError(f"env_id '{env_id}' has no version; there are: {', '.join(sorted(versions))}")
        raise UserError(f"unknown environment id '{env_id}'{nearest(env_id, gym.registry)}")
    try:
        spec = gym.spec(env_id)
        if "render_mode" in kwargs:
            raise UserError("env_kwargs must not set render_mode: frames are recorded with rgb_array")
        env = gym.make(env_id, render_mode="rgb_array", **kwargs)
    except UserError:
        raise
    except Exception as error:  # whatever the environment's constructor or import does is the person's to mend
        raise UserError(f"environment '{env_id}' cannot be made: {' '.join(str(error).split())}") from None
    if "rgb_array" not in env.metadata.get("render_modes", []):
        raise UserError(f"environment '{spec.id}' cannot render to rgb_array, so there are no frames to learn from")
    try:
        action_spec(env.action_space)
    except UserError as error:
        raise UserError(f"environment '{spec.id}': {error}") from None
    return env


def heuristic_policy(env: gym.Env) -> Policy | None:
    """The policy Gymnasium ships for this environment, or None."""
    name = type(env.unwrapped).__name__
    if name == "LunarLander":
        from gymnasium.envs.box2d.lunar_lander import heuristic

        return lambda observation: heuristic(env.unwrapped, observation)
    if name == "BipedalWalker":
        from gymnasium.envs.box2d.bipedal_walker import BipedalWalkerHeuristics

        walker = BipedalWalkerHeuristics()
        walker.a = np.zeros(4)  # the class keeps its action in an array that all instances would share
        return lambda observation: walker.step_heuristic(observation).copy()
    return None


def frame_rate(env: gym.Env, frame_skip: int) -> float:
    """Recorded frames per second of the environment's own time."""
    return float(env.metadata.get("render_fps") or 30) / frame_skip
