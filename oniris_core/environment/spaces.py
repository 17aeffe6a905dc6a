"""Spaces of actions and observations when a decision is taken once a latent frame.

Axes: n environments, c frames of a latent frame, H, W.
"""

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from oniris_core.data.rows.actions import ActionSpec


def space_of(spec: ActionSpec) -> gym.Space:
    """The Gymnasium space of which `spec` is the spec; infinite bounds are -1 and 1, as the model takes them."""
    if spec.kind == "discrete":
        return Discrete(spec.sizes[0], start=spec.start[0])
    if spec.kind == "multi_discrete":
        return MultiDiscrete(np.array(spec.sizes), start=np.array(spec.start))
    if spec.kind == "multi_binary":
        return MultiBinary(len(spec.sizes))
    return Box(np.array(spec.low, np.float32), np.array(spec.high, np.float32), dtype=np.float32)


def each_frame(space: gym.Space, c: int) -> gym.Space:
    """The space of c actions of a space from `space_of`, one after another."""
    if isinstance(space, Discrete):
        return MultiDiscrete(np.full(c, space.n), start=np.full(c, space.start))
    if isinstance(space, MultiDiscrete):
        return MultiDiscrete(np.tile(space.nvec, (c, 1)), start=np.tile(space.start, (c, 1)))
    if isinstance(space, MultiBinary):
        return MultiBinary((c, *space.shape))
    assert isinstance(space, Box)
    return Box(np.tile(space.low, (c, 1)), np.tile(space.high, (c, 1)), dtype=np.float32)


def checked(space: gym.Space, actions: object, n: int) -> np.ndarray:
    """Actions [n, ...] of the space, one per environment, as an array of its type.

    Raises:
        ValueError: another number or shape, values that are not finite, not whole where they must be, or outside the space.
    """
    given = np.asarray(actions)
    shape = (n, *(space.shape or ()))
    if given.dtype.kind not in "biuf" or given.shape != shape:
        raise ValueError(f"actions of shape {list(given.shape)} and type {given.dtype} do not fit {list(shape)}")
    if not np.isfinite(given).all():
        raise ValueError("actions must be finite")
    fitting = given.astype(space.dtype)
    if np.issubdtype(space.dtype, np.integer) and (fitting != given).any():
        raise ValueError(f"actions of {space} must be whole numbers")
    for row, action in enumerate(fitting):
        if not space.contains(action):
            raise ValueError(f"action {action} of environment {row} is outside of {space}")
    return fitting


def stacked(frames: np.ndarray) -> np.ndarray:
    """uint8 [n, c, H, W, 3] as pictures [n, H, W, 3 c], the oldest frame first: what moves can be seen in one of them."""
    n, c, H, W, _ = frames.shape
    return np.ascontiguousarray(frames.transpose(0, 2, 3, 1, 4)).reshape(n, H, W, 3 * c)
