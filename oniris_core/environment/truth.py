"""The environment that a store was recorded from, at the cadence of the world model: what is learned in one plays in the other.

Axes: n environments side by side, c frames of a latent frame, T frames, H, W.
"""

from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from oniris_core.common.artefacts.remote import Location
from oniris_core.common.errors import UserError
from oniris_core.data.playing.environments import fit_screen, make_env, screen_of
from oniris_core.data.playing.rollouts import advance
from oniris_core.data.rows.actions import action_spec
from oniris_core.environment.decisions import Beginning, DecisionVectorEnv, Observations
from oniris_core.environment.parts import Parts, assemble
from oniris_core.environment.starts import Starts
from oniris_core.vae.codec import Codec
from oniris_core.vae.model import to_unit
from oniris_core.vae.stepping import EncoderForm, StreamState
from oniris_core.world.store import World


class TrueVectorEnv(DecisionVectorEnv):
    """The true simulator n times, one after another in this process, with the spaces and the cadence of `WorldVectorEnv`.

    Frames are resized as they were recorded, and `latents` come from the model's VAE. An episode begins with the reset of the
    simulator by the environment's seed; with the option `start` it is a recorded one, played again up to `frame` (0 unless it
    is said). It ends where the simulator ends it, or at `horizon`.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        world: World | Path | str,
        vae: Codec | Path | str,
        starts: Starts | Location | str,
        observations: Observations = "pixels",
        actions_per_step: Literal["one", "all"] = "one",
        horizon: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        import_code: bool = False,
        ema_width: float | None = None,
        device: torch.device | str = "cpu",
    ):
        """Make the simulators. Arguments as those of `WorldVectorEnv`, and:

        Args:
            num_envs, world, vae, starts, observations, actions_per_step, horizon, autoreset_mode, render_mode: see there.
            import_code: allow an id, and wrappers, that import code besides Gymnasium's.
            ema_width, device: see there.

        Raises:
            UserError: what `assemble` refuses; or the simulator cannot be made here, has other actions, or is not recorded.
        """
        parts = assemble(world, vae, starts, ema_width, device)
        super().__init__(num_envs, parts, observations, actions_per_step, horizon, autoreset_mode, render_mode)
        self._simulator = Simulator(parts, import_code)
        self.games = [self._simulator.make() for _ in range(num_envs)]
        self._form = None if self._pixels else EncoderForm(parts.codec.vae.encoder)
        self._mean, self._std = (
            torch.from_numpy(part).to(parts.codec.device)[:, None, None] for part in (parts.world.mean, parts.world.std)
        )
        self._seen = None if self._form is None else self._form.begin(num_envs, *parts.latent_shape[1:])

    def _begin(self, rows: list[int], beginnings: list[Beginning]) -> list[dict[str, Any]]:
        infos = []
        for row, beginning in zip(rows, beginnings, strict=True):
            self.games[row].close()
            self.games[row] = game = self._simulator.make()  # some environments play differently once played in
            number, frame, seed = beginning.start, 0, beginning.seed
            if number is None and beginning.frame:
                raise UserError("option frame needs the option start: a new episode has no frames to begin from")
            played = [game.reset(seed if number is None else self.parts.start(number).seed)]
            if number is not None:
                start = self.parts.start(number)
                frame, seed = self.parts.checked_frame(number, beginning.frame or 0), start.seed
                played += [game.play(action)[0] for action in start.actions[1 : frame + 1]]
                if not np.array_equal(np.stack(played), start.frames[: frame + 1]):
                    raise UserError(f"playing start {number} again gives other frames than recorded: {self._simulator.env_id} "
                                    "is not deterministic, or another version of it")  # fmt: skip
            groups = np.stack([played[0]] * self.group + played[1:]).reshape(-1, self.group, *played[0].shape)
            self.frames[row] = groups[-1]
            self._look_from_the_start(row, groups)
            infos.append({"start": -1 if number is None else number, "frame": frame, "seed": seed})
        return infos

    def _go_on(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rewards, self.frames = np.zeros(self.num_envs), np.empty_like(self.frames)
        for row, game in enumerate(self.games):
            for number, action in enumerate(actions[row]):
                # One that has ended stands still until it is reset.
                self.frames[row, number], reward = game.play(action)
                rewards[row] += reward
        if self._form is not None and self._seen is not None:
            self._seen, self._latents = self._look(self._seen, self.frames)
        flags = [[getattr(game, flag) for game in self.games] for flag in ("terminated", "truncated")]
        return rewards, np.array(flags[0]), np.array(flags[1])

    def _look_from_the_start(self, row: int, groups: np.ndarray) -> None:
        if self._form is None or self._seen is None:
            return
        seen = self._form.begin(1, *self.parts.latent_shape[1:])
        for frames in groups:
            seen, latents = self._look(seen, frames[None])
        self._seen = self._seen.replace_rows([row], seen)
        self._latents = self._latents.copy()
        self._latents[row] = latents[0]

    @torch.inference_mode()
    def _look(self, seen: StreamState, frames: np.ndarray) -> tuple[StreamState, np.ndarray]:
        """The next groups of frames uint8 [n, c, H, W, 3] as standardised latents float32 [n, C, h, w]."""
        assert self._form is not None
        seen, z = self._form(seen, to_unit(torch.from_numpy(frames).to(self.parts.codec.device)))
        return seen, ((z - self._mean) / self._std).cpu().numpy()

    def close_extras(self, **_: Any) -> None:
        """Close the simulators."""
        for game in self.games:
            game.close()


class Simulator:
    """How the simulator of a recording is made and played.

    Attributes:
        env_id: its Gymnasium id.
    """

    def __init__(self, parts: Parts, import_code: bool):
        """Look into the record of the starts.

        Raises:
            UserError: there was no simulator, it cannot be made here, has other actions, or the record does not say how it was
                played.
        """
        record = parts.starts.record
        if not record.get("env_id"):
            raise UserError(f"{parts.named}: these episodes were not recorded from a simulator")
        try:
            params = record["params"]
            self.env_id, self._kwargs = str(record["env_id"]), dict(record.get("env_kwargs") or {})
            self._wrappers = [
                next(iter(w.items())) if isinstance(w, dict) else (w, {}) for w in params.get("wrappers", [])
            ]
            self._skip, self._resize = int(params["frame_skip"]), str(params.get("resize", "stretch"))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(f"{parts.named}: the record does not say how its episodes were played") from None
        self._import_code, self._size = import_code, parts.frame_size
        game = self.make()
        game.close()
        if action_spec(game.env.action_space) != parts.world.action_spec:
            raise UserError(f"{self.env_id} has other actions here than when it was recorded")

    def make(self) -> "Game":
        """A new simulator."""
        env = make_env(self.env_id, self._kwargs, self._import_code, self._wrappers, self._import_code)
        return Game(env, self._skip, self._size, self._resize)


class Game:
    """One simulator, played frame by frame.

    Attributes:
        env: the simulator.
        observation: what it observed last itself, for players who are to see that.
        terminated: whether the episode has ended by itself.
        truncated: whether it has by its limit of time.
    """

    def __init__(self, env: gym.Env, skip: int, size: tuple[int, int], resize: str):
        self.env, self._skip, self._size, self._resize = env, skip, size, resize
        self.observation: Any = None
        self.terminated = self.truncated = False

    def reset(self, seed: int) -> np.ndarray:
        """The first frame uint8 [H, W, 3] of a new episode."""
        self.observation, _ = self.env.reset(seed=seed)
        self.terminated = self.truncated = False
        self._frame = self._screen()
        return self._frame

    def play(self, action: Any) -> tuple[np.ndarray, float]:
        """The next frame uint8 [H, W, 3] and its reward; after the end the last frame again, and 0."""
        if self.terminated or self.truncated:
            return self._frame, 0.0
        space = self.env.action_space
        fitting = np.asarray(action, space.dtype)[()]
        self.observation, reward, self.terminated, self.truncated = advance(self.env, fitting, self._skip)
        self._frame = self._screen()
        return self._frame, reward

    def close(self) -> None:
        """Let it go; twice is as good as once."""
        self.env.close()

    def _screen(self) -> np.ndarray:
        return fit_screen(screen_of(self.env), *self._size, self._resize)
