"""Actions of any supported Gymnasium space as arrays in a store and as features for a network.

Axes: ... any leading axes, A features.
"""

from dataclasses import asdict, dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from oniris_core.common.errors import UserError
from oniris_core.common.plain import with_tuples

SUPPORTED = "Discrete, Box, MultiDiscrete, MultiBinary, and Dict and Tuple of them"


@dataclass(frozen=True)
class ActionSpec:
    """An action space, reduced to what a model needs.

    Attributes:
        kind: "discrete", "box", "multi_discrete" or "multi_binary".
        sizes: choices per component (discrete kinds), or one entry per component (box, multi_binary).
        low, high: bounds per component (box only, else empty); infinite bounds are replaced by -1 and 1.
        start: value of the first choice per component (discrete kinds, else empty).
    """

    kind: str
    sizes: tuple[int, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    start: tuple[int, ...] = ()

    @property
    def features(self) -> int:
        """Number of features that `encode` makes of one action."""
        return sum(self.sizes) if self.kind in ("discrete", "multi_discrete") else len(self.sizes)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a store's attributes."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @staticmethod
    def from_json(value: dict[str, Any]) -> "ActionSpec":
        """The inverse of `to_json`."""
        return ActionSpec(**with_tuples(value))

    def encode(self, actions: np.ndarray) -> np.ndarray:
        """Features of actions, each of about unit magnitude.

        Args:
            actions: [...] for a discrete space, [..., components] otherwise.

        Returns:
            float32 [..., A]: one-hot times sqrt(choices) for discrete kinds, values scaled to -1..1 otherwise.

        Raises:
            ValueError: the last axis does not fit the space, or a value is not one of its actions.
        """
        if self.kind == "discrete":
            actions = actions[..., None]
        if actions.shape[-1] != len(self.sizes):
            raise ValueError(f"actions of shape {actions.shape} do not fit {len(self.sizes)} components per action")
        if self.kind == "box":
            if not np.isfinite(actions).all():
                raise ValueError(f"actions of shape {actions.shape} are not all finite")
            low, high = np.array(self.low, np.float32), np.array(self.high, np.float32)
            return ((2 * actions - low - high) / (high - low)).astype(np.float32)
        if self.kind == "multi_binary":
            if not np.isin(actions, (0, 1)).all():
                raise ValueError(f"binary actions of shape {actions.shape} are not all 0 or 1")
            return (2 * actions - 1).astype(np.float32)
        if not np.issubdtype(actions.dtype, np.integer):
            raise ValueError(f"discrete actions of shape {actions.shape} must be whole numbers, not {actions.dtype}")
        choices = actions.astype(np.int64) - np.asarray(self.start)
        if (choices < 0).any() or (choices >= np.asarray(self.sizes)).any():
            raise ValueError(f"actions outside 0..{[size - 1 for size in self.sizes]} (from {list(self.start)})")
        parts = [np.eye(n, dtype=np.float32)[choices[..., i]] * n**0.5 for i, n in enumerate(self.sizes)]
        return np.concatenate(parts, axis=-1)


def action_spec(space: gym.Space) -> ActionSpec:
    """The spec of a Gymnasium action space.

    Raises:
        UserError: the space is not Discrete, nor a one-dimensional Box, MultiDiscrete or MultiBinary (see `flat_actions`).
    """
    if isinstance(space, gym.spaces.Discrete):
        return ActionSpec("discrete", (int(space.n),), start=(int(space.start),))
    if isinstance(space, gym.spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return ActionSpec("multi_discrete", tuple(map(int, space.nvec)), start=tuple(map(int, space.start)))
    if isinstance(space, gym.spaces.MultiBinary) and len(space.shape) == 1:
        return ActionSpec("multi_binary", (1,) * space.shape[0])
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1:
        bounded = np.isfinite(space.low) & np.isfinite(space.high)
        low, high = np.where(bounded, space.low, -1.0), np.where(bounded, space.high, 1.0)
        return ActionSpec("box", (1,) * space.shape[0], tuple(map(float, low)), tuple(map(float, high)))
    raise UserError(f"unsupported action space {space}; supported are {SUPPORTED}")
