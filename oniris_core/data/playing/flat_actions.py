"""Action spaces of other shapes as the flat ones a store knows: one row of numbers an action.

Box, MultiDiscrete and MultiBinary of other ranks are laid out in C order. Dict and Tuple become a Box by Gymnasium's own
flattening (`gymnasium.spaces.flatten`): choices as one-hot, everything one after another. `describe` keeps the space as JSON
values, from which `described` makes it again, so that `gymnasium.spaces.unflatten` can undo it.
"""

from collections import OrderedDict
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    MultiBinary,
    MultiDiscrete,
    Tuple,
    flatdim,
    flatten,
    flatten_space,
    unflatten,
)

from oniris_core.common.errors import UserError
from oniris_core.data.rows.actions import SUPPORTED


class FlatBox(Box):
    """The flat Box of a Dict or Tuple, which samples actions of that space only.

    Attributes:
        original: the space.
        start: its first choices and zeros, flat: the filler.
    """

    def __init__(self, original: gym.Space):
        flat = flatten_space(original)
        if not isinstance(flat, Box) or len(flat.shape) != 1 or not flat.shape[0]:
            raise UserError(f"unsupported action space {original}; supported are {SUPPORTED}")
        super().__init__(flat.low.astype(np.float32), flat.high.astype(np.float32), dtype=np.float32)
        self.original = original
        self.start = self.nearest(np.zeros(flat.shape, np.float32))

    def seed(self, seed: Any = None) -> Any:
        """Seed the space that is sampled."""
        return self.original.seed(seed) if hasattr(self, "original") else super().seed(seed)

    def sample(self, *_: Any, **__: Any) -> np.ndarray:
        """An action of the original space, flat."""
        return np.asarray(flatten(self.original, self.original.sample()), np.float32)

    def flat(self, action: Any) -> np.ndarray:
        """An action of the original space, flat."""
        if not self.original.contains(action):
            raise UserError(f"the action {action!r} is outside of the action space {self.original}")
        return np.asarray(flatten(self.original, action), np.float32)

    def nearest(self, flat: np.ndarray) -> np.ndarray:
        """The flat action next to a row of numbers that may be none, as with noise on it."""
        return _nearest(self.original, np.asarray(flat, np.float32))

    def unflat(self, flat: np.ndarray) -> Any:
        """The action of the original space."""
        return unflatten(self.original, self.nearest(flat))


class FlatActions(gym.ActionWrapper):
    """An environment that takes flat actions."""

    def __init__(self, env: gym.Env, flat: gym.Space):
        super().__init__(env)
        self.action_space = flat

    def action(self, action: Any) -> Any:
        """The action as the environment wants it."""
        if isinstance(self.action_space, FlatBox):
            return self.action_space.unflat(action)
        space = self.env.action_space
        return np.asarray(action, space.dtype).reshape(space.shape)


def with_flat_actions(env: gym.Env) -> gym.Env:
    """The environment, wrapped if its actions are not flat already.

    Raises:
        UserError: a space that cannot be flattened to numbers.
    """
    flat = flat_space(env.action_space)
    return env if flat is env.action_space else FlatActions(env, flat)


def flat_space(space: gym.Space) -> gym.Space:
    """The space of flat actions; the very same one where they are flat already.

    Raises:
        UserError: a space that cannot be flattened to numbers.
    """
    if isinstance(space, Dict | Tuple):
        refuse_others(space)
        return FlatBox(space)
    if isinstance(space, Box) and len(space.shape) != 1:
        return Box(space.low.reshape(-1), space.high.reshape(-1), dtype=space.dtype.type)
    if isinstance(space, MultiDiscrete) and space.nvec.ndim != 1:
        return MultiDiscrete(space.nvec.reshape(-1), start=np.asarray(space.start).reshape(-1))
    if isinstance(space, MultiBinary) and len(space.shape) != 1:
        return MultiBinary(int(np.prod(space.shape)))
    return space


def refuse_others(space: gym.Space) -> None:
    """Raise UserError for a space that holds what does not become numbers, such as text."""
    parts = space.spaces.values() if isinstance(space, Dict) else space.spaces if isinstance(space, Tuple) else ()
    for part in parts:
        refuse_others(part)
    if not isinstance(space, Dict | Tuple | Discrete | Box | MultiDiscrete | MultiBinary):
        raise UserError(f"unsupported action space {space}; supported are {SUPPORTED}")


def _nearest(space: gym.Space, flat: np.ndarray) -> np.ndarray:
    if isinstance(space, Dict | Tuple):
        parts = list(space.spaces.values()) if isinstance(space, Dict) else list(space.spaces)
        cuts = np.split(flat, np.cumsum([flatdim(part) for part in parts])[:-1])
        return np.concatenate([_nearest(part, cut) for part, cut in zip(parts, cuts, strict=True)])
    if isinstance(space, Discrete | MultiDiscrete):
        sizes = [int(space.n)] if isinstance(space, Discrete) else space.nvec.reshape(-1).tolist()
        cuts = np.split(flat, np.cumsum(sizes)[:-1])
        return np.concatenate([np.eye(n, dtype=np.float32)[cut.argmax()] for n, cut in zip(sizes, cuts, strict=True)])
    if isinstance(space, MultiBinary):
        return (flat > 0.5).astype(np.float32)
    assert isinstance(space, Box)
    return np.clip(flat, space.low.reshape(-1), space.high.reshape(-1)).astype(np.float32)


def describe(env: gym.Env) -> dict[str, Any] | None:
    """The action space that `with_flat_actions` has flattened, as JSON values; None where it had nothing to do."""
    return describe_space(env.env.action_space) if isinstance(env, FlatActions) else None


def describe_space(space: gym.Space) -> dict[str, Any]:
    """A space that `flat_space` takes, as JSON values."""
    kind = type(space).__name__
    if isinstance(space, Dict):
        return {"kind": kind, "spaces": [[name, describe_space(part)] for name, part in space.spaces.items()]}
    if isinstance(space, Tuple):
        return {"kind": kind, "spaces": [describe_space(part) for part in space.spaces]}
    if isinstance(space, Discrete):
        return {"kind": kind, "n": int(space.n), "start": int(space.start)}
    if isinstance(space, MultiDiscrete):
        return {"kind": kind, "nvec": space.nvec.tolist(), "start": np.asarray(space.start).tolist()}
    if isinstance(space, MultiBinary):
        return {"kind": kind, "n": space.n if isinstance(space.n, int) else list(space.shape)}
    assert isinstance(space, Box)
    bounds = {name: [str(bound) for bound in getattr(space, name).reshape(-1)] for name in ("low", "high")}
    return {"kind": kind, "shape": list(space.shape), "dtype": str(space.dtype), **bounds}


def described(value: dict[str, Any]) -> gym.Space:
    """The space that `describe` has kept."""
    kind = value["kind"]
    if kind == "Dict":
        return Dict(
            OrderedDict((name, described(part)) for name, part in value["spaces"])
        )  # their order is that of the row
    if kind == "Tuple":
        return Tuple([described(part) for part in value["spaces"]])
    if kind == "Discrete":
        return Discrete(value["n"], start=value["start"])
    if kind == "MultiDiscrete":
        return MultiDiscrete(np.array(value["nvec"]), start=np.array(value["start"]))
    if kind == "MultiBinary":
        return MultiBinary(value["n"])
    dtype = np.dtype(value["dtype"])
    low, high = (np.array(list(map(float, value[name])), dtype).reshape(value["shape"]) for name in ("low", "high"))
    return Box(low, high, dtype=dtype.type)
