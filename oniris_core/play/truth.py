"""The true simulator, played in step with a dream: the same start, the same actions.

Axes: c frames of a latent frame, T frames, H, W.
"""

import zlib
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from oniris_core.common.errors import UserError
from oniris_core.data.playing.environments import fit_screen, make_env, screen_of
from oniris_core.data.playing.rollouts import advance
from oniris_core.data.rows.actions import action_spec
from oniris_core.environment.starts import Start, Starts
from oniris_core.evaluation.probes.states.reader import StateReader
from oniris_core.evaluation.probes.states.registry import reader_for


@dataclass(frozen=True)
class TrueStep:
    """What the simulator did within a latent frame.

    Attributes:
        frames: deflated uint8 [c, H, W, 3]; once the episode has ended its last frame stays.
        rewards: float32 [c].
        alive: how many of the frames come before the end, or are it.
        terminated: whether the environment has ended by then.
    """

    frames: bytes
    rewards: np.ndarray
    alive: int
    terminated: bool


class Truth:
    """One player's true simulator.

    Attributes:
        steps: what it did since the context; where it has ended, the same step again and again.
        reward: the sum of the rewards since then.
        ended: whether the episode has ended, by itself or by its limit of time.
    """

    def __init__(self, starts: Starts, import_code: bool, group: int) -> None:
        """Make the environment of a recording.

        Raises:
            UserError: there was none, it cannot be made here, has other actions, or the record does not say how it was played.
        """
        self._starts, self._import_code, self._group = starts, import_code, group
        self.env_id = starts.record.get("env_id")
        if not self.env_id:
            raise UserError("the episodes were not recorded from a simulator")
        self.steps: list[TrueStep] = []
        self.reward, self.ended = 0.0, False
        self._env: gym.Env | None = self._make()
        try:
            self._skip = int(starts.record["params"]["frame_skip"])
            self._resize = str(starts.record["params"].get("resize", "stretch"))
            if action_spec(self._env.action_space) != starts.action_spec:
                raise UserError(f"{self.env_id} has other actions here than when it was recorded")
        except UserError:
            raise
        except (KeyError, TypeError, ValueError):
            raise UserError("the record does not say how its episodes were played") from None
        finally:
            self.close()

    def begin(self, start: Start, latents: int) -> None:
        """Play the context of a dream, from the reset on.

        Raises:
            UserError: other frames come out than were recorded.
        """
        self.close()  # some environments play differently once they have been played in
        self._env = self._make()
        self.steps, self.reward, self.ended = [], 0.0, False
        self._env.reset(seed=start.seed)
        self._frame = self._screen()
        frames = [self._frame]
        for action in start.actions[1 : 1 + latents * self._group]:
            frames.append(self._play(action)[0])
        if not np.array_equal(np.stack(frames), start.frames[: len(frames)]):
            raise UserError(
                f"playing episode {start.episode} again gives other frames than recorded: {self.env_id} is not "
                "deterministic, or another version of it"
            )

    def step(self, actions: np.ndarray) -> np.ndarray:
        """Play the actions [c, ...] of a latent frame; returns uint8 [c, H, W, 3]."""
        if self.steps and self.ended and not self.steps[-1].alive:  # a page may stay open for hours after the end
            self.steps.append(self.steps[-1])
            return self.frames(-1)
        frames, rewards, alive = [], [], 0
        for action in actions:
            alive += not self.ended
            frame, reward = self._play(action)
            frames.append(frame)
            rewards.append(reward)
        played = np.stack(frames)
        self.reward += float(np.array(rewards, np.float32).sum())
        self.steps.append(
            TrueStep(zlib.compress(played.tobytes(), 1), np.array(rewards, np.float32), alive, self._terminated)
        )
        return played

    def frames(self, number: int) -> np.ndarray:
        """The frames uint8 [c, H, W, 3] beside latent frame `number`, from 0."""
        return np.frombuffer(zlib.decompress(self.steps[number].frames), np.uint8).reshape(-1, *self._frame.shape)

    def meanings(self) -> tuple[str, ...]:
        """What the environment calls the choices of its actions; empty where it says nothing."""
        say = getattr(self._env.unwrapped, "get_action_meanings", None) if self._env is not None else None
        return tuple(map(str, say())) if say else ()

    def close(self) -> None:
        """Let the environment go."""
        if self._env is not None:
            self._env.close()
        self._env = None

    def _make(self) -> gym.Env:
        params = self._starts.record.get("params") or {}
        wrappers = [next(iter(w.items())) if isinstance(w, dict) else (w, {}) for w in params.get("wrappers", [])]
        kwargs: dict[str, Any] = self._starts.record.get("env_kwargs") or {}
        self._terminated = False
        return make_env(str(self.env_id), kwargs, self._import_code, wrappers, self._import_code)

    def _play(self, action: Any) -> tuple[np.ndarray, float]:
        if self.ended:
            return self._frame, 0.0
        assert self._env is not None
        _, reward, ends, cut = advance(self._env, action, self._skip)
        self.ended, self._terminated = ends or cut, ends
        self._frame = self._screen()
        return self._frame, reward

    def _screen(self) -> np.ndarray:
        assert self._env is not None
        return fit_screen(screen_of(self._env), *self._starts.frame_size, self._resize)


def position_error(reader: StateReader | None, dreamt: np.ndarray, true: np.ndarray) -> float | None:
    """How far the object of the last dreamt frame is from where it truly is, pixels of the simulator's screen.

    Args:
        reader: of the environment's pictures.
        dreamt, true: uint8 [c, H, W, 3].

    Returns:
        None where there is no reader, or either does not show exactly one object.
    """
    if reader is None:
        return None
    there = reader.locate(np.stack([dreamt[-1], true[-1]]))
    error = float(np.linalg.norm(there[0] - there[1]))
    return error if np.isfinite(error) else None


def reader_of(starts: Starts) -> StateReader | None:
    """Who reads the pictures of the environment that starts were recorded from."""
    return reader_for(starts.record.get("env_id"))
