"""A page that a robot plays for hours: keys, ways back, futures, recordings, the true simulator beside it all."""

import asyncio
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.long.watch import Watch

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300.0
PRESS_S, WHIM_S, SAVE_S = 0.5, 20.0, 900.0
"""Seconds from one key, one whim and one recording to the next, on average, of the environment's own time."""


def model(folder: Path) -> None:
    """A world that has learned nothing, by the preset `tiny`: what counts is that it plays."""
    import shutil

    from oniris_core.config.presets import apply_preset

    shutil.copy(ROOT / "params.yaml", folder)
    apply_preset("tiny", ROOT / "presets", folder / "params.yaml")
    for stage in ("collect", "train_vae", "encode", "train"):
        subprocess.run([sys.executable, "-m", f"stages.{stage}", "--threads", "1"], cwd=folder, check=True,
                       env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)  # fmt: skip


class Robot:
    """Somebody who plays: `done` counts latent frames, `whims` what else was asked for."""

    def __init__(self, address: str, seed: int, times: float, watch: Watch):
        self._address, self._rng, self._times, self._watch = address, random.Random(seed), times, watch
        self.done, self.at, self.first, self.rows = 0, 0, 0, 1
        self.whims = {"keys": 0, "ways back": 0, "futures": 0, "looks": 0, "recordings": 0}
        self.saved = self.stops = 0

    async def play(self, seconds: float) -> None:
        """Play for so long, by the clock."""
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(self._address.replace("http", "ws") + "socket", max_msg_size=2**26) as socket,
        ):
            self._socket = socket
            hello = json.loads((await socket.receive()).data)
            self._values = [choice["value"] for choice in hello["controls"][0]["choices"]]
            await self._say("restart", start=0, latents=hello["context"])
            await self._say("speed", times=self._times)
            await self._say("run", on=True)
            tasks = [asyncio.create_task(self._now_and_then(every, act))
                     for every, act in ((PRESS_S, self._press), (WHIM_S, self._whim), (SAVE_S, self._save))]  # fmt: skip
            self._begun, self._seconds = time.monotonic(), seconds
            try:
                while time.monotonic() < self._begun + seconds:
                    await self._hear(socket)
                    for task in tasks:
                        if task.done():
                            task.result()  # it has failed
            finally:
                for task in tasks:
                    task.cancel()

    async def _hear(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        message = await socket.receive(timeout=PATIENCE_S)
        if message.type is aiohttp.WSMsgType.TEXT:
            said = json.loads(message.data)
            if said["t"] == "saved":
                self.saved += "files" in said
            elif said["t"] == "state" and not said["running"] and not said["busy"]:
                self.stops += bool(said["note"])
                await self._say("run", on=True)
            return
        if message.type is not aiohttp.WSMsgType.BINARY:
            raise SystemExit(f"the server closed the connection: {message.extra}")
        header = json.loads(message.data[4 : 4 + struct.unpack("<I", message.data[:4])[0]])
        if header["t"] == "frames":
            self.done, self.at, self.first, self.rows = self.done + 1, header["at"], header["first"], header["rows"]
            self._watch.see(self.done, (time.monotonic() - self._begun) / self._seconds)
            await self._say("got", number=self.done)

    async def _now_and_then(self, every: float, act: Any) -> None:
        while True:
            await asyncio.sleep(self._rng.uniform(0.5, 1.5) * every / self._times)
            await act()

    async def _press(self) -> None:
        self.whims["keys"] += 1
        await self._say("act", value=self._rng.choice(self._values), press=self.whims["keys"])

    async def _whim(self) -> None:
        whim = self._rng.choice(("ways back", "futures", "looks"))
        self.whims[whim] += 1
        if whim == "futures":
            await self._say("futures")
            await asyncio.sleep(2 / self._times)
            await self._say("choose", row=self._rng.randrange(max(self.rows, 1)))
        elif whim == "looks":
            await self._say("look", at=self._rng.randint(self.first, self.at))
        else:
            await self._say("rewind", at=max(self.at - self._rng.randint(1, 40), self.first))

    async def _save(self) -> None:
        self.whims["recordings"] += 1
        await self._say("save")

    async def _say(self, t: str, **values: object) -> None:
        await self._socket.send_str(json.dumps({"t": t, **values}))


def main(minutes: float, times: float) -> bool:
    """Print what the server held while a robot played, and what it played; whether every recording was saved."""
    with tempfile.TemporaryDirectory(prefix="long_") as made:
        folder = Path(made)
        model(folder)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "stages.play", "--port", "0"]
        with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as server:
            assert server.stderr is not None
            try:
                said = ""
                while "Play at" not in said:
                    said = server.stderr.readline()
                    if not said:
                        raise SystemExit("the server did not start")
                address = said.split("Play at ")[1].split()[0]
                latent_s = float(said.split(" ms a latent frame")[0].rpartition(" of ")[2]) / 1e3
                watch = Watch(0, server.pid, "latent frame")
                robot = Robot(address, 0, times, watch)
                asyncio.run(robot.play(60 * minutes))
            finally:
                server.terminate()
        watch.table()
        whims = ", ".join(f"{count} {name}" for name, count in robot.whims.items())
        hours = robot.done * latent_s / 3600
        print(
            f"\n{robot.done} latent frames, {hours:.2f} h of the environment's own time: {whims}, {robot.saved} saved"
        )
    return bool(watch.rows)
