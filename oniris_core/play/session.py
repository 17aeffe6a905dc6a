"""What one player has dreamt: every step of it, so that it can be looked at, taken back and gone on from otherwise.

Nothing here reads, writes or waits. Axes: R rows (1, or the futures that are dreamt side by side), c frames of a latent
frame, T frames, H, W.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from oniris_core.environment.dreams import told
from oniris_core.environment.starts import Start
from oniris_core.sampling.stepper import Moment, Stepper

NOISE = 2**32
"""Row b of noise s has the seed s * NOISE + b, as in `oniris_core.rollout`."""
MOMENTS = 24
"""States of the model kept for each player; between them a rewind computes again."""
HISTORY = 4000
"""Latent frames that one can rewind through; older ones are forgotten."""
_RECENT = 4  # the last moments are all kept: most rewinds are short


@dataclass(frozen=True, slots=True)
class Dreamt:
    """One latent frame that was dreamt.

    Attributes:
        actions: [c, ...], those that led to its frames.
        seeds: of the noise, one a row.
        quality: the stepper that dreamt it.
        run: futures that go on from each other have the same number; 0: a single dream.
        row: the one that was chosen.
        rewards: one a row, summed since the context, up to the end of the episode; empty: the model has learned none.
        ended: whether the model thinks by then that the episode has ended, one a row.
        frames: deflated uint8 [rows, c, H, W, 3], of all rows while none has been chosen; None: forgotten.
    """

    actions: np.ndarray
    seeds: tuple[int, ...]
    quality: str
    run: int
    row: int
    frames: bytes | None
    rewards: tuple[float, ...] = ()
    ended: tuple[bool, ...] = ()


def inflated(frames: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Deflated frames as uint8 [rows, *shape], which may not be written to."""
    return np.frombuffer(zlib.decompress(frames), np.uint8).reshape(-1, *shape)


class Session:
    """One player's dream.

    `at` latent frames have been dreamt after the context; the first that is remembered is number `first` (from 0).
    """

    def __init__(
        self, steppers: Mapping[str, Stepper], start: Start, latents: int, seed: int, *, moments: int, history: int
    ) -> None:
        """Begin a dream.

        Args:
            steppers: by the name of their quality; the same world and codec in all of them.
            start: the episode it goes on from.
            latents: latent frames of its context after the reset.
            seed: of the noise.
            moments: states of the model that are kept.
            history: latent frames that are kept.

        Raises:
            ValueError: the episode is shorter than the context.
        """
        self._steppers, self.start, self.latents, self.seed = steppers, start, latents, seed
        self._most_moments, self._history = moments, history
        stepper = next(iter(steppers.values()))
        self.group = stepper.group
        rows = 1 + latents * self.group
        if not 1 <= latents <= start.latents(self.group):
            raise ValueError(f"{latents} latent frames of context from an episode that has {start.latents(self.group)}")
        self._moment, shown = stepper.begin(start.frames[None, :rows], start.actions[None, :rows])
        self.context = shown[0]  # uint8 [(latents + 1) c, H, W, 3], as the VAE shows it
        self._done = 0  # steps that the moment has behind it
        self._moments: dict[int, Moment] = {0: self._moment}
        self._stride = 1
        self.dreamt: list[Dreamt] = []
        self.first = 0
        self._run = 0  # above 0 while several futures are dreamt
        self._runs = 0
        self._futures = 1

    @property
    def at(self) -> int:
        """How many latent frames have been dreamt."""
        return len(self.dreamt)

    @property
    def rows(self) -> int:
        """How many futures are dreamt side by side."""
        return self._futures if self._run else 1

    @property
    def is_behind(self) -> bool:
        """Whether the model has to come back to the present after a rewind; see `catch_up`."""
        return self._done < len(self.dreamt)

    def step(self, actions: np.ndarray, quality: str) -> np.ndarray:
        """Dream the next latent frame under actions [c, ...]; returns uint8 [R, c, H, W, 3].

        Raises:
            ValueError: actions of another space, or the model is still behind.
        """
        if self.is_behind:
            raise ValueError("a dream is gone on from its present: catch up first")
        seeds = tuple(self.seed * NOISE + row for row in range(self.rows))
        next_ = Dreamt(np.array(actions), seeds, quality, self._run, 0, None)
        frames = self._advance(next_)
        next_ = replace(next_, frames=zlib.compress(frames.tobytes(), 1))
        if self._steppers[quality].has_outcomes:
            next_ = self._told(next_)
        self.dreamt.append(next_)
        self._shape = frames.shape[1:]
        self._keep()
        self._forget()
        return frames

    def frames(self, number: int) -> np.ndarray:
        """The frames uint8 [rows, c, H, W, 3] of latent frame `number`, from 0; -1 is the last one of the context.

        Raises:
            ValueError: it has not been dreamt, or is forgotten.
        """
        if number == -1:
            return self.context[None, -self.group :]
        step = self.dreamt[number] if self.first <= number < len(self.dreamt) else None
        if step is None or step.frames is None:
            raise ValueError(f"latent frame {number} is not among those from {self.first} to {self.at - 1}")
        return inflated(step.frames, self._shape)

    def outcome(self, at: int) -> dict[str, Any]:
        """What the model says of the first `at` latent frames that were dreamt; of futures what it says of the first.

        Returns:
            `reward`, summed up to the end of the episode, and whether it has `ended`; nothing if it has learned neither.
        """
        step = self.dreamt[at - 1] if at else None
        if step is None or not step.rewards:
            return {}
        return {"reward": round(step.rewards[step.row], 2), "ended": step.ended[step.row]}

    def rewind(self, at: int) -> list[np.ndarray]:
        """Go back to when `at` latent frames had been dreamt; `catch_up` then brings the model there.

        Futures that are still side by side become the first of them.

        Returns:
            the actions [c, ...] of what is taken back, in order.

        Raises:
            ValueError: that moment is to come, or is forgotten.
        """
        if not self.first <= at <= self.at:
            raise ValueError(f"moment {at} is not among those from {self.first} to {self.at}")
        if self._run:
            self.choose(0)
        undone = [step.actions for step in self.dreamt[at:]]
        del self.dreamt[at:]
        for number in [number for number in self._moments if number > at]:
            del self._moments[number]
        self._stride = 1
        if self._done > at:
            self._done = max(self._moments)
            self._moment = self._moments[self._done]
        return undone

    def catch_up(self) -> None:
        """Bring the model one step nearer to the present, as it was: the same actions, noise, quality and neighbours."""
        step = self.dreamt[self._done]
        self._advance(step)
        if not self.is_behind:
            self._keep()

    def renew_noise(self, seed: int) -> None:
        """Dream on with other noise."""
        self.seed = seed

    def branch(self, futures: int) -> None:
        """From here on dream several futures side by side, each with noise of its own, until one is chosen."""
        if self._run:
            self.choose(0)
        self._runs += 1
        self._run, self._futures = self._runs, futures

    def choose(self, row: int) -> None:
        """Go on with one of the futures alone.

        Raises:
            ValueError: there is no such future.
        """
        if not 0 <= row < self.rows:
            raise ValueError(f"there are {self.rows} futures, not a number {row}")
        for number in range(len(self.dreamt) - 1, -1, -1):
            step = self.dreamt[number]
            if not self._run or step.run != self._run:
                break
            kept = self.frames(number)[row : row + 1] if step.frames is not None else None
            self.dreamt[number] = replace(
                step, row=row, frames=kept if kept is None else zlib.compress(kept.tobytes(), 1)
            )
        self._run = 0

    def moments(self) -> Sequence[int]:
        """The moments of which the model's state is kept."""
        return sorted(self._moments)

    def _advance(self, step: Dreamt) -> np.ndarray:
        before = self.dreamt[self._done - 1] if self._done else None
        moment = self._moment
        if before is not None and len(before.seeds) > 1 and before.run != step.run:
            moment = moment.select([before.row])
        if len(step.seeds) > 1 and (before is None or before.run != step.run):
            moment = moment.repeat(len(step.seeds))
        actions = np.repeat(step.actions[None], len(step.seeds), axis=0)
        self._moment, frames = self._steppers[step.quality].step(moment, actions, step.seeds)
        self._done += 1
        return frames

    def _told(self, step: Dreamt) -> Dreamt:
        """The newest step with what the model says of it."""
        before = [(0.0, False)]
        if self.dreamt:
            last = self.dreamt[-1]
            before = list(zip(last.rewards, last.ended, strict=True))
            before = before if last.run and last.run == step.run else [before[last.row]]
        if len(before) < len(step.seeds):
            before *= len(step.seeds)
        found = told(self._steppers[step.quality], self._moment)
        ends = found.ended >= 0.5  # more likely than not
        after = [(total if over else total + float(reward), over or bool(ended))
                 for (total, over), reward, ended in zip(before, found.given(ends), ends, strict=True)]  # fmt: skip
        return replace(step, rewards=tuple(total for total, _ in after), ended=tuple(over for _, over in after))

    def _keep(self) -> None:
        self._moments[self._done] = self._moment
        while len(self._moments) > self._most_moments:
            recent = self._done - _RECENT
            self._moments = {
                number: moment for number, moment in self._moments.items()
                if number % self._stride == 0 or number > recent or number == self.first
            }  # fmt: skip
            if len(self._moments) > self._most_moments:
                self._stride *= 2

    def _forget(self) -> None:
        """Drop what lies further back than the history, up to a moment that can be gone on from."""
        if self.at - self.first <= self._history:
            return
        reachable = [number for number in self.moments() if number > self.first]
        target = next((number for number in reachable if number >= self.at - self._history), None)
        if target is None:
            return
        for number in range(self.first, target):
            self.dreamt[number] = replace(self.dreamt[number], frames=None)
        self.first = target
        self._moments = {number: moment for number, moment in self._moments.items() if number >= target}
