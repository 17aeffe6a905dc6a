"""One player: what is asked is done one after the other, between two latent frames; no two players share a state."""

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

import numpy as np

from oniris_core.common.errors import OnirisError
from oniris_core.play.beside import Beside
from oniris_core.play.house import House
from oniris_core.play.recording import Played, Saved, collect_command, save
from oniris_core.play.session import HISTORY, MOMENTS, Session, inflated
from oniris_core.play.web import protocol as say
from oniris_core.play.web.connection import Connection, plain

T = TypeVar("T")
_FUTURES = 4
_WAITING = 32  # requests that may wait
SAVES = 100  # recordings that may be saved before the server is started again


class Player:
    """A dream and the page it is shown to. `live` is its life; everything else only notes what is wanted.

    Attributes:
        connection: the page, None while it is away.
        left_at: since when it is away (time.monotonic).
    """

    def __init__(self, house: House, number: int) -> None:
        self._house = house
        self.connection: Connection | None = None
        self.left_at = time.monotonic()
        self._wanted: deque[say.Message] = deque()
        self._changed = asyncio.Event()
        self._has_begun = False
        self._session: Session | None = None
        self._start, self._seed = 0, number
        self._running, self._steps, self._times = False, 0, 1.0
        self._quality = house.chosen
        self._press, self._action = 0, say.action_of(house.rest, house.spec)
        self._again: deque[np.ndarray] = deque()
        self._serial = 0
        self._beside = Beside(house, self._say)
        self._saving: asyncio.Task[None] | None = None
        self._note = ""

    # What the page asks for.

    def take(self, message: say.Message) -> None:
        """Note what a page has asked for.

        Raises:
            ValueError: the page asks for what it was told does not exist, or for too much.
        """
        house = self._house
        if isinstance(message, say.Act):
            self._action, self._press = say.action_of(message.value, house.spec), message.press
            self._again.clear()  # who presses takes over
            return
        if isinstance(message, say.Got):
            if self.connection is not None:
                self.connection.got(message.number)
            return
        if isinstance(message, say.Restart):
            if message.start >= len(house.starts.starts):
                raise ValueError(f"there is no start number {message.start}")
            most = house.starts.starts[message.start].latents(house.group)
            if message.latents > most:
                raise ValueError(f"start number {message.start} has {most} latent frames")
            self._has_begun = True
        elif not self._has_begun and not isinstance(message, say.ShowTruth | say.Speed | say.Quality):
            raise ValueError("nothing has been started")
        if len(self._wanted) >= _WAITING:
            raise ValueError(f"more than {_WAITING} requests at once")
        self._wanted.append(message)
        self._changed.set()

    def attach(self, connection: Connection) -> None:
        """The page has come, or come back."""
        self.connection = connection
        # Whatever was pressed when it went may have been let go of since.
        self._press, self._action = 0, say.action_of(self._house.rest, self._house.spec)
        if self._session is not None:
            self._wanted.append(say.Look(t="look", at=self._session.at))
        self._changed.set()

    def detach(self, connection: Connection) -> None:
        """The page has gone: its dream waits for it."""
        if self.connection is connection:
            self.connection, self._running, self.left_at = None, False, time.monotonic()

    # Its life.

    async def live(self) -> None:
        """Do what is wanted and dream on, until cancelled."""
        following = asyncio.create_task(self._beside.follow())
        due = time.monotonic()
        try:
            while True:
                if self._wanted:
                    await self._obey(self._wanted.popleft())
                    self._tell()
                    due = max(due, time.monotonic()) if self._running else time.monotonic()
                    continue
                if self._running and self.connection is not None and self.connection.is_late:
                    self._running, self._note = False, "paused: this page did not take in what was sent to it"
                    self._tell()
                if not (self._running or self._steps):
                    self._changed.clear()
                    if not self._wanted:
                        await self._changed.wait()
                    due = time.monotonic()
                    continue
                wait = due - time.monotonic()
                if wait > 0 and not self._steps:
                    # As late as possible: what is pressed until then counts.
                    self._changed.clear()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._changed.wait(), wait)
                    continue
                await self._dream()
                period = self._house.latent_seconds / self._times
                due = max(due + period, time.monotonic() - period)  # late by more than one: that time is lost
        finally:
            following.cancel()
            if self._saving is not None:
                self._saving.cancel()
            self._beside.close()

    async def _obey(self, wanted: say.Message) -> None:
        session = self._session
        self._note = ""
        match wanted:
            case say.Run():
                self._running = wanted.on
            case say.StepOn():
                self._running, self._steps = False, self._steps + 1
            case say.Speed():
                self._times = float(wanted.times)
            case say.Quality():
                self._quality = wanted.name
            case say.ShowTruth():
                self._beside.show(wanted.on)
            case say.Restart():
                await self._restart(wanted)
            case say.Look() if session is not None:
                self._show(session, min(max(wanted.at, session.first), session.at))
            case say.Rewind() if session is not None:
                await self._rewind(session, wanted)
            case say.Futures() if session is not None:
                session.branch(_FUTURES)
                self._again.clear()
            case say.Choose() if session is not None and wanted.row < session.rows:
                session.choose(wanted.row)
                self._show(session, session.at)
            case say.Save() if session is not None:
                self._save(session)

    async def _restart(self, wanted: say.Restart) -> None:
        house = self._house
        self._running, self._steps = False, 0
        self._again.clear()
        self._seed = self._seed if wanted.seed is None else wanted.seed
        self._start = wanted.start

        def begin() -> Session:
            start = house.starts.starts[wanted.start]
            return Session(house.steppers, start, wanted.latents, self._seed, moments=MOMENTS, history=HISTORY)

        self._session = await self._in(house.model, begin)
        self._beside.go_with(self._session)
        self._show(self._session, 0)

    async def _rewind(self, session: Session, wanted: say.Rewind) -> None:
        undone = session.rewind(min(max(wanted.at, session.first), session.at))
        if wanted.noise:
            self._seed += 1
            session.renew_noise(self._seed)
        self._again = deque(undone if wanted.again else ())
        self._beside.wake()
        self._show(session, session.at)
        while session.is_behind:
            self._tell(busy="working its way back to this moment")
            await self._in(self._house.model, session.catch_up)  # a step at a time: others have their turn between

    async def _dream(self) -> None:
        session, quality = self._session, self._quality
        assert session is not None
        self._steps = max(0, self._steps - 1)
        if self._again:
            actions, press = self._again.popleft(), 0
        else:
            actions, press = np.repeat(self._action[None], session.group, axis=0), self._press

        def timed() -> tuple[np.ndarray, float]:
            before = time.perf_counter()
            return session.step(actions, quality), 1e3 * (time.perf_counter() - before)

        frames, milliseconds = await self._in(self._house.model, timed)
        self._serial += 1
        self._beside.wake()
        header = {
            "t": "frames", "at": session.at, "rows": len(frames), "count": session.group, "press": press,
            "action": plain(actions[-1]), "ms": round(milliseconds, 2), "seconds": self._house.latent_seconds / self._times,
            "seed": session.seed, "again": len(self._again), "skipped": self.connection.skipped if self.connection else 0,
            "first": session.first, **session.outcome(session.at),
        }  # fmt: skip
        self._say("frames", say.packed(header, frames))

    def _save(self, session: Session) -> None:
        """Record what has been played by now, while the dream goes on: the video of a long one takes minutes."""
        house = self._house
        if len(house.recordings) >= 3 * SAVES:
            self._not_saved(f"{SAVES} recordings are all that a server saves")
        elif self._saving is not None and not self._saving.done():
            self._not_saved("the recording before is still being written")
        else:
            dreamt, truth, rate = played(session), self._beside.played(session), house.starts.frame_rate
            self._saving = asyncio.create_task(self._write(lambda: save(house.folder, dreamt(), truth(), rate)))

    def _not_saved(self, why: str) -> None:
        self._say("saved", json.dumps({"t": "saved", "why": why}))

    async def _write(self, write: Callable[[], Saved]) -> None:
        house = self._house
        try:
            saved = await self._in(house.recorder, write)
        except OnirisError as error:
            self._not_saved(str(error))
            return
        names = {kind: f"{kind}-{path.name}" for kind, path in saved.files.items()}
        house.recordings.update({names[kind]: path for kind, path in saved.files.items()})
        commands = {
            kind: collect_command(house.folder, kind, house.spec, house.starts.frame_size, house.starts.frame_rate)
            for kind in saved.files if kind != "videos"
        }  # fmt: skip
        self._say("saved", json.dumps({"t": "saved", "number": saved.number, "files": names, "commands": commands}))

    # What the page is told.

    def _show(self, session: Session, at: int) -> None:
        """Show the moment at which `at` latent frames had been dreamt."""
        if self.connection is not None:  # what waits belongs to another moment
            self.connection.drop("frames")
            self.connection.drop("truth")
        known = at > session.first or at == 0
        frames = session.frames(at - 1 if known else session.first)
        true = self._beside.frames(session, at)
        action = session.dreamt[at - 1].actions[-1] if at else session.start.actions[session.latents * session.group]
        header = {
            "t": "look", "at": at, "rows": len(frames), "count": session.group, "action": plain(action),
            "true": true is not None, **session.outcome(at),
        }  # fmt: skip
        self._say("look", say.packed(header, frames, *([] if true is None else [true])))

    def _tell(self, busy: str = "") -> None:
        session = self._session
        state: dict[str, Any] = {
            "t": "state", "running": self._running, "times": self._times, "quality": self._quality, "note": self._note,
            "busy": busy, "start": self._start, "seed": self._seed, **self._beside.state(),
        }  # fmt: skip
        if session is not None:
            state |= {
                "at": session.at, "first": session.first, "latents": session.latents, "rows": session.rows,
                "again": len(self._again),
            }  # fmt: skip
        self._say("state", json.dumps(state))

    def _say(self, kind: str, message: str | bytes) -> None:
        if self.connection is not None:
            self.connection.put(kind, message)

    async def _in(self, pool: Executor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work)


def played(session: Session) -> Callable[[], Played]:
    """A dream as an episode: the true frames of its context, then what was dreamt (of futures the first) and is remembered.

    What has been dreamt by now is noted; what is returned makes the episode of it, in any thread.
    """
    start, context = session.start, 1 + session.latents * session.group
    steps, from_reset = session.dreamt[session.first :], session.first == 0
    shape = session.context[: session.group].shape

    def inflate() -> Played:
        frames = [inflated(step.frames, shape)[0] for step in steps if step.frames is not None]
        actions = [step.actions for step in steps if step.frames is not None]
        if from_reset:
            frames, actions = [start.frames[:context], *frames], [start.actions[:context], *actions]
        return Played(np.concatenate(frames), np.concatenate(actions).astype(start.actions.dtype))

    return inflate
