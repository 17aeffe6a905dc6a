"""What the tests of `play` play with: a model that is quick and exact, and a house that holds it."""

import asyncio
import contextlib
import hashlib
import json
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from oniris_core.config.reader import build
from oniris_core.data.rows.actions import ActionSpec
from oniris_core.environment.starts import Starts, open_starts
from oniris_core.play.controls import controls, resting
from oniris_core.play.house import House, Quality
from oniris_core.play.params import PlayParams
from oniris_core.play.web.server import Server, listen
from tests.project import ROOT, defaults

STARTS = ROOT / "demo/starts.npz"
C = 4


@dataclass(frozen=True)
class ToyMoment:
    """A number a row, which everything before has a part in."""

    states: tuple[bytes, ...]

    def select(self, rows: Sequence[int]) -> "ToyMoment":
        return ToyMoment(tuple(self.states[row] for row in rows))

    def repeat(self, k: int) -> "ToyMoment":
        return self.select([row for row in range(len(self.states)) for _ in range(k)])


class ToyStepper:
    """Frames that tell the whole past, the actions, the noise, the quality and how many were dreamt side by side."""

    group = C
    has_outcomes = False

    def __init__(self, quality: str = "fine", seconds: float = 0.0) -> None:
        self.quality, self.seconds = quality, seconds

    def begin(self, context: np.ndarray, actions: np.ndarray) -> tuple[ToyMoment, np.ndarray]:
        states = tuple(_digest(frames.tobytes(), told.tobytes()) for frames, told in zip(context, actions, strict=True))
        rows = np.maximum(np.arange(context.shape[1] + C - 1) - (C - 1), 0)
        return ToyMoment(states), context[:, rows]

    def step(self, moment: ToyMoment, actions: np.ndarray, seeds: Sequence[int]) -> tuple[ToyMoment, np.ndarray]:
        assert len(moment.states) == len(actions) == len(seeds)
        if self.seconds:
            import time

            time.sleep(self.seconds)
        states = tuple(
            _digest(state, told.tobytes(), str((seed, self.quality, len(seeds))).encode())
            for state, told, seed in zip(moment.states, actions, seeds, strict=True)
        )
        frames = np.stack(
            [np.random.default_rng(list(state)).integers(0, 256, (C, 64, 64, 3), np.uint8) for state in states]
        )
        return ToyMoment(states), frames


def _digest(*parts: bytes) -> bytes:
    return hashlib.sha256(b"|".join(parts)).digest()


def play_params(**values: object) -> PlayParams:
    """The default parameters of `play` with some values in place of theirs."""
    return build(PlayParams, "play", {**defaults()["play"], **values}, "test")


def demo_starts() -> Starts:
    return open_starts(STARTS, 16, 2)


def house(
    folder: Path,
    seconds: float = 0.0,
    no_truth: str | None = "not in this test",
    spec: ActionSpec | None = None,
    **values: object,
) -> House:
    """A house with a toy for a model, which needs `seconds` for a latent frame; `spec`: the actions of another environment."""
    starts = demo_starts()
    if spec is not None:
        rest = np.array(resting(spec, controls(None, spec)))
        changed = tuple(replace(start, actions=np.array([rest] * len(start.actions))) for start in starts.starts)
        starts = Starts(changed, {**starts.record, "env_id": None, "action_spec": spec.to_json()})
    # A quick world: its latent frames last 40 ms.
    starts = replace(starts, record={**starts.record, "frame_rate": 100.0})
    spec = starts.action_spec
    found = controls(starts.record["env_id"], spec)
    steppers: Any = {name: ToyStepper(name, seconds) for name in ("fast", "fine")}
    qualities = {"fast": Quality(1, 1.0), "fine": Quality(6, 2.0)}
    return House(steppers, qualities, "fine", starts, spec, found, resting(spec, found), None, no_truth,
                 play_params(**values), folder, 4, False)  # fmt: skip


@contextlib.asynccontextmanager
async def served(of: House, host: str = "127.0.0.1") -> AsyncIterator[Server]:
    """A server of a house, in this process."""
    stop = asyncio.Event()
    with listen(host, 0) as listening:
        server = Server(of, host, listening)
        running = asyncio.create_task(server.run(stop))
        await asyncio.sleep(0)
        try:
            yield server
        finally:
            stop.set()
            await running
            of.close()


class Page:
    """A page without a browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self.received = socket, 0
        self.acknowledges = True
        self.hello: dict[str, Any] = {}

    async def say(self, t: str, **values: object) -> None:
        await self.socket.send_str(json.dumps({"t": t, **values}))

    async def hear(self, *kinds: str, seconds: float = 20.0) -> tuple[dict[str, Any], bytes]:
        """The next message of one of these kinds; others before it are taken in."""
        async with asyncio.timeout(seconds):
            while True:
                message = await self.socket.receive()
                if message.type is aiohttp.WSMsgType.TEXT:
                    header, frames = json.loads(message.data), b""
                elif message.type is aiohttp.WSMsgType.BINARY:
                    length = struct.unpack("<I", message.data[:4])[0]
                    header, frames = json.loads(message.data[4 : 4 + length]), message.data[4 + length :]
                else:
                    header, frames = {"t": "closed", "code": self.socket.close_code, "why": message.extra}, b""
                if header["t"] == "frames":
                    self.received += 1
                    if self.acknowledges:
                        await self.say("got", number=self.received)
                if header["t"] in kinds:
                    return header, frames
                assert header["t"] != "closed", header

    async def begin(self, start: int = 0, latents: int = 4, seed: int | None = None) -> None:
        await self.say("restart", start=start, latents=latents, **({} if seed is None else {"seed": seed}))
        await self.hear("look")

    async def steps(self, count: int, value: int = 0) -> list[bytes]:
        """The frames of so many steps under an action, one at a time."""
        await self.say("act", value=value, press=1)
        made = []
        for _ in range(count):
            await self.say("step")
            made.append((await self.hear("frames"))[1])
        return made


@contextlib.asynccontextmanager
async def page(server: Server, session: str = "", headers: dict[str, str] | None = None) -> AsyncIterator[Page]:
    """A page that has come to a server."""
    address = server.address.replace("http", "ws") + "socket" + (f"?session={session}" if session else "")
    async with aiohttp.ClientSession() as client, client.ws_connect(address, headers=headers or {}) as socket:
        found = Page(socket)
        found.hello, _ = await found.hear("hello", "full")
        yield found
