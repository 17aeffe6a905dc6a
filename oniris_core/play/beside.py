"""The truth beside one player's dream: it follows whatever the dream does, and measures how far that is off."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from oniris_core.common.errors import UserError
from oniris_core.play.house import House
from oniris_core.play.recording import Played
from oniris_core.play.session import Session, inflated
from oniris_core.play.truth import Truth, position_error
from oniris_core.play.web import protocol

T = TypeVar("T")
_SAID_AGAIN = 32  # errors of that many latent frames are told with every new one


class Beside:
    """Plays the true simulator under the actions of a dream, in a thread that players take turns in."""

    def __init__(self, house: House, tell: Callable[[str, str | bytes], None]) -> None:
        self._house, self._tell = house, tell
        self._why = house.no_truth
        self._shown = self._why is None
        self._truth: Truth | None = None
        self._dream: Session | None = None
        self._of: Session | None = None  # the dream that the truth has begun beside
        self._played: list[np.ndarray] = []  # the very arrays of the dream: another array is another branch
        self._errors: list[float | None] = []
        self._due = asyncio.Event()

    def show(self, on: bool) -> None:
        """Play it, or not."""
        self._shown = on and self._why is None
        self.wake()

    def go_with(self, dream: Session) -> None:
        """Another dream has begun."""
        self._dream = dream
        self.wake()

    def wake(self) -> None:
        """The dream has gone on, or back."""
        self._due.set()

    def state(self) -> dict[str, Any]:
        """What the page is told of it, as JSON values."""
        truth = self._truth if self._is_beside(self._dream) else None
        return {
            "truth": self._shown, "truth_why": self._why or "", "truth_ended": bool(truth and truth.ended),
            "truth_terminated": bool(truth and truth.steps and truth.steps[-1].terminated),
            "truth_reward": round(truth.reward, 2) if truth else None,
        }  # fmt: skip

    def frames(self, dream: Session, at: int) -> np.ndarray | None:
        """The true frames uint8 [c, H, W, 3] of the moment `at` of a dream, where they are known."""
        if not self._shown or self._truth is None or not self._is_beside(dream) or at > len(self._played):
            return None
        if at:
            return self._truth.frames(at - 1)
        last = 1 + dream.latents * dream.group
        return dream.start.frames[last - dream.group : last]

    def played(self, dream: Session) -> Callable[[], Played | None]:
        """What truly happened beside a dream, from the reset up to the end; None where that was not played.

        What has been played by now is noted; what is returned makes the episode of it, in any thread.
        """
        truth = self._truth
        if truth is None or not self._shown or not self._is_beside(dream) or dream.first:
            return lambda: None
        start, rows = dream.start, 1 + dream.latents * dream.group
        played = list(self._played)
        steps = truth.steps[: len(played)]  # one more may just be under way

        def inflate() -> Played:
            frames = [inflated(step.frames, start.frames.shape[1:])[: step.alive] for step in steps]
            actions = [taken[: step.alive] for taken, step in zip(played, steps, strict=True)]
            return Played(
                np.concatenate([start.frames[:rows], *frames]),
                np.concatenate([start.actions[:rows], *actions]).astype(start.actions.dtype),
                np.concatenate([np.zeros(rows, np.float32), *(step.rewards[: step.alive] for step in steps)]),
                bool(steps and steps[-1].terminated),
            )

        return inflate

    async def follow(self) -> None:
        """Follow the dream, until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                while self._shown and self._dream is not None and await self._once(self._dream):
                    pass
            except Exception as error:  # an environment may fail in any way; the dream goes on without it
                said = str(error) if isinstance(error, UserError) else f"the simulator failed: {error!r}"[:300]
                self._why, self._shown, self._of = said, False, None
                self._tell("truth", json.dumps({"t": "no_truth", "why": self._why}))

    def close(self) -> None:
        """Let the environment go."""
        if self._truth is not None:
            self._house.simulator.submit(self._truth.close)

    def _is_beside(self, dream: Session | None) -> bool:
        """Whether what was played is what the dream, or its beginning, was dreamt under."""
        n = len(self._played)
        return dream is not None and self._of is dream and n <= dream.at and (
            not n or self._played[-1] is dream.dreamt[n - 1].actions
        )  # fmt: skip

    def _cut_back(self, dream: Session, truth: Truth) -> bool:
        """After a way back: go on from where the dream parts from what was played, if the truth had ended before that.

        Else it must be played again from the start, which takes the longer the older the dream is.
        """
        if self._of is not dream:
            return False
        known = min(len(self._played), dream.at)
        while known and self._played[known - 1] is not dream.dreamt[known - 1].actions:
            known -= 1
        known = min(known, dream.at - 1)  # the last one is played again, so that the page hears of it
        if known < 1 or truth.steps[known - 1].alive:
            return False
        for kept in (truth.steps, self._played, self._errors):
            del kept[known:]
        return True

    async def _once(self, dream: Session) -> bool:
        """Play the next latent frame; False where there is none."""
        if self._truth is None:
            self._truth = await self._in(lambda: Truth(self._house.starts, self._house.import_code, dream.group))
        truth = self._truth
        if not self._is_beside(dream) and not self._cut_back(dream, truth):
            self._of = None
            await self._in(lambda: truth.begin(dream.start, dream.latents))
            self._of, self._played, self._errors = dream, [], []
            return True
        number = len(self._played)
        if number == dream.at:
            return False
        is_behind, actions, dreamt = number < dream.at - 1, dream.dreamt[number].actions, dream.dreamt[number]

        def play() -> tuple[np.ndarray, float | None]:
            frames = truth.step(actions)
            known = dreamt.frames is not None and (len(dreamt.seeds) == 1 or not dreamt.run)
            shown = inflated(dreamt.frames, frames.shape) if known and dreamt.frames else None
            return frames, None if shown is None else position_error(self._house.reader, shown[0], frames)

        frames, error = await self._in(play)
        self._played.append(actions)
        self._errors.append(error)
        if dream is self._dream and self._is_beside(dream) and len(self._played) == dream.at:
            # After a way back all of the errors, else the last few: a page that is late skips what was said before.
            begin = 0 if is_behind else max(0, len(self._errors) - _SAID_AGAIN)
            header = {
                "t": "truth", "at": dream.at, "count": dream.group, "ended": truth.ended,
                "terminated": truth.steps[-1].terminated, "reward": round(truth.reward, 2), "from": begin,
                "errors": [None if e is None else round(e, 2) for e in self._errors[begin:]],
            }  # fmt: skip
            self._tell("truth", protocol.packed(header, frames))
        return True

    async def _in(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._house.simulator, work)
