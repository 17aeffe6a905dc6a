"""What the dreamt and the true environment have in common: one decision a latent frame, spaces, seeds, resets, horizons.

Axes: n environments side by side, c frames of a latent frame, C channels of a latent frame, h, w; H, W pixels.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from oniris_core.common.errors import UserError
from oniris_core.common.naming import nearest
from oniris_core.common.seeds import numpy_rng
from oniris_core.environment.parts import Parts
from oniris_core.environment.spaces import checked, each_frame, space_of, stacked

Observations = Literal["pixels", "latents"]
LATENT_BOUND = 100.0
"""Of standardised latents as observations: ten times further out than any that was seen, so that a space has bounds."""
OPTIONS = ("start", "frame", "horizon", "reset_mask")


@dataclass(frozen=True)
class Beginning:
    """How an episode of an environment begins.

    Attributes:
        seed: of all chance in it.
        start: which of the starts, or None: drawn.
        frame: its frame, counted from the reset, after which the first decision is taken; or None: drawn.
    """

    seed: int
    start: int | None
    frame: int | None


class DecisionVectorEnv(gym.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """n environments in which a decision is taken once a latent frame.

    Observations are of the latent frame last seen: `pixels`, uint8 [H, W, 3 c], its c frames stacked as channels, oldest
    first; or `latents`, float32 [C, h, w], standardised. A reward is the sum of those of the c frames. `reset(seed=)` takes a
    number (environment i gets seed + i) or one per environment; without one each goes on to its next episode. Options:
    `start` (which of the starts), `frame` (of it, counted from the reset, a multiple of c) and `horizon`, each a number or one
    per environment, and `reset_mask` (bool [n]: only these). Later episodes of the same environment draw their own start.

    Attributes:
        frames: uint8 [n, c, H, W, 3], of the latent frame last seen.
    """

    def __init__(
        self,
        num_envs: int,
        parts: Parts,
        observations: Observations,
        actions_per_step: Literal["one", "all"],
        horizon: int | None,
        autoreset_mode: AutoresetMode | str,
        render_mode: str | None,
    ):
        """Arguments as those of `WorldVectorEnv`.

        Raises:
            UserError: a value that is none of those allowed.
        """
        allowed = {
            "observations": ("pixels", "latents"),
            "actions_per_step": ("one", "all"),
            "render_mode": (None, "rgb_array"),
        }
        given = {"observations": observations, "actions_per_step": actions_per_step, "render_mode": render_mode}
        for name, value in given.items():
            if value not in allowed[name]:
                raise UserError(f"{name} = {value!r} must be one of {', '.join(map(repr, allowed[name]))}")
        if num_envs < 1:
            raise UserError(f"num_envs = {num_envs} must be at least 1")
        self.num_envs, self.parts, self.render_mode = num_envs, parts, render_mode
        c = self.group = parts.group
        self.horizon = self._whole(horizon)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {
            "render_modes": ["rgb_array"], "render_fps": max(1, round(parts.starts.frame_rate / c)),
            "autoreset_mode": self.autoreset_mode,
        }  # fmt: skip
        H, W = parts.frame_size
        self._pixels, self._all_actions = observations == "pixels", actions_per_step == "all"
        self.single_observation_space = (
            Box(0, 255, (H, W, 3 * c), np.uint8)
            if self._pixels
            else Box(-LATENT_BOUND, LATENT_BOUND, parts.latent_shape, np.float32)
        )
        one = space_of(parts.world.action_spec)
        self.single_action_space = each_frame(one, c) if self._all_actions else one
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._seeds: list[int] | None = None
        self._episode = np.zeros(num_envs, np.int64)
        self._steps, self._over = np.zeros(num_envs, np.int64), np.zeros(num_envs, bool)
        self._limit = np.zeros(num_envs)
        self.frames = np.zeros((num_envs, c, H, W, 3), np.uint8)
        self._latents = np.zeros((num_envs, *parts.latent_shape), np.float32)

    @abstractmethod
    def _begin(self, rows: list[int], beginnings: list[Beginning]) -> list[dict[str, Any]]:
        """Begin an episode in each of the environments `rows`, and show it in `frames` and `_latents`; the infos."""

    @abstractmethod
    def _go_on(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Take the actions [n, c, ...] and show what comes; rewards, terminated and truncated [n]."""

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin episodes; see the class.

        Raises:
            ClosedEnvironmentError: after `close`.
            UserError: another number of seeds, unknown options, or a start, frame or horizon that is not there.
        """
        self._refuse_closed()
        options = dict(options or {})
        for name in options:
            if name not in OPTIONS:
                raise UserError(f"unknown option '{name}'{nearest(name, OPTIONS)}; there are {', '.join(OPTIONS)}")
        mask = np.asarray(options.pop("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise UserError(f"reset_mask must be bool [{self.num_envs}] with a true value")
        if self._seeds is None and not mask.all():
            raise ResetNeeded("the first reset begins all environments: leave reset_mask out")
        rows = np.flatnonzero(mask).tolist()
        self._seed(seed, rows)
        starts, frames, horizons = (self._each(options.get(name), name) for name in ("start", "frame", "horizon"))
        for row in rows:
            horizon = horizons[row]
            self._limit[row] = self.horizon if horizon is None else self._whole(horizon)
        infos = self._begin_rows(rows, starts, frames)
        return self._observation(), infos

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Go on by one latent frame.

        Raises:
            ResetNeeded: before the first reset, or (mode DISABLED) after an end that was not reset.
            ClosedEnvironmentError: after `close`.
            ValueError: actions of another number or shape, outside the space or not finite.
        """
        self._refuse_closed()
        if self._seeds is None:
            raise ResetNeeded("step before reset: call reset() first")
        if self.autoreset_mode == AutoresetMode.DISABLED and self._over.any():
            ended = np.flatnonzero(self._over).tolist()
            raise ResetNeeded(f"environments {ended} have ended: reset them with options={{'reset_mask': ...}}")
        taken = checked(self.single_action_space, actions, self.num_envs)
        if not self._all_actions:
            taken = np.repeat(taken[:, None], self.group, axis=1)
        waiting = np.flatnonzero(self._over).tolist()
        rewards, terminated, truncated = self._go_on(taken)
        self._steps += 1
        truncated = (truncated | (self._steps * self.group >= self._limit)) & ~terminated
        rewards[waiting], terminated[waiting], truncated[waiting] = 0, False, False
        self._over = terminated | truncated
        infos: dict[str, Any] = {}
        if self.autoreset_mode == AutoresetMode.NEXT_STEP and waiting:
            infos = self._begin_rows(waiting)
        elif self.autoreset_mode == AutoresetMode.SAME_STEP and self._over.any():
            last, ended = self._observation(), np.flatnonzero(self._over).tolist()
            infos = self._begin_rows(ended)
            for row in ended:
                infos = self._add_info(infos, {"final_obs": last[row], "final_info": {}}, row)
        return self._observation(), rewards, terminated, truncated, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """uint8 [H, W, 3] of each environment, the newest frame; None without render_mode="rgb_array"."""
        self._refuse_closed()
        if self._seeds is None:
            raise ResetNeeded("render before reset: call reset() first")
        return None if self.render_mode is None else tuple(frame.copy() for frame in self.frames[:, -1])

    def _begin_rows(
        self, rows: list[int], starts: Sequence[int | None] = (), frames: Sequence[int | None] = ()
    ) -> dict[str, Any]:
        assert self._seeds is not None
        beginnings = []
        for row in rows:
            # An environment's first episode has its own seed, as those of Gymnasium have; later ones follow from it.
            seed, number = self._seeds[row], int(self._episode[row])
            seed = int(numpy_rng(seed, "episode", number).integers(2**31)) if number else seed
            beginnings.append(Beginning(seed, starts[row] if starts else None, frames[row] if frames else None))
        self._steps[rows], self._over[rows] = 0, False
        infos: dict[str, Any] = {}
        for row, info in zip(rows, self._begin(rows, beginnings), strict=True):
            infos = self._add_info(infos, info, row)
        self._episode[rows] += 1
        return infos

    def _seed(self, seed: int | Sequence[int] | None, rows: list[int]) -> None:
        if seed is None:
            if self._seeds is None:
                self._seeds = [int(one) for one in self.np_random.integers(2**31, size=self.num_envs)]
            return
        if not isinstance(seed, int | np.integer):
            given = [int(one) for one in seed]
        else:
            super().reset(seed=int(seed))
            given = [int(seed) + row for row in range(self.num_envs)]
        if len(given) != self.num_envs or min(given) < 0:
            raise UserError(f"seeds must be {self.num_envs} whole numbers of at least 0, not {seed}")
        before = self._seeds or given
        self._seeds = [given[row] if row in rows else before[row] for row in range(self.num_envs)]
        self._episode[rows] = 0

    def _each(self, value: Any, name: str) -> list[Any]:
        whole = np.asarray(value if value is not None else 0)
        if whole.dtype.kind not in "iu" or whole.shape not in ((), (self.num_envs,)):
            raise UserError(f"option {name} must be a whole number, or {self.num_envs} of them, not {value!r}")
        return [None if value is None else int(one) for one in np.broadcast_to(whole, self.num_envs)]

    def _whole(self, horizon: int | None) -> float:
        if horizon is not None and (horizon < self.group or horizon % self.group):
            raise UserError(f"horizon = {horizon} frames must be a multiple of {self.group}, those of a latent frame")
        return np.inf if horizon is None else horizon

    def _observation(self) -> np.ndarray:
        return stacked(self.frames) if self._pixels else self._latents.clip(-LATENT_BOUND, LATENT_BOUND)

    def _refuse_closed(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("the environments have been closed: make new ones")


def refuse_others(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise UserError for a value that is none of those allowed."""
    if value not in allowed:
        raise UserError(f"{name} = {value!r} must be one of {', '.join(map(repr, allowed))}")
