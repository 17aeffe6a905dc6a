"""How playing feels: frames a second, key to picture, and the server's memory, as a page on this machine meets them.

Starts the stage `play` as a process of its own and plays it as a page does, over the websocket: keys are pressed at random
moments, and the clock stops when the first frame that was made with one has arrived. A browser draws it at its next
repaint, at most 17 ms later; the page itself measures up to there and shows it.
"""

import asyncio
import json
import os
import random
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import numpy as np
import typer

from benchmarks.harness import print_table

DEMO = Path("demo")


class Measured:
    """What one page has met: by frame message when it came, the model's milliseconds; by key how long it took."""

    def __init__(self) -> None:
        self.came = list[float]()
        self.model = list[float]()
        self.keys = list[float]()
        self.skipped = 0


async def play(
    address: str, seconds: float, presses: float, seed: int, quality: str
) -> tuple[Measured, dict[str, Any]]:
    """Play for so many seconds, pressing keys every `presses` seconds on average."""
    found, rng, pressed = Measured(), random.Random(seed), dict[int, float]()
    async with aiohttp.ClientSession() as client, client.ws_connect(address.replace("http", "ws") + "socket") as socket:

        async def say(t: str, **values: object) -> None:
            await socket.send_str(json.dumps({"t": t, **values}))

        hello = json.loads((await socket.receive()).data)
        if hello["t"] == "full":
            raise SystemExit("the server is full: lower --pages")
        values = [choice["value"] for choice in hello["controls"][0]["choices"]]
        await say("restart", start=seed % len(hello["starts"]), latents=hello["context"])
        if quality:
            await say("quality", name=quality)
        await say("run", on=True)
        end = time.perf_counter() + seconds

        async def press() -> None:
            number = 0
            while True:
                await asyncio.sleep(rng.uniform(0.5, 1.5) * presses)
                number += 1
                pressed[number] = time.perf_counter()
                await say("act", value=rng.choice(values), press=number)

        pressing = asyncio.create_task(press())
        while time.perf_counter() < end:
            message = await socket.receive()
            if message.type is not aiohttp.WSMsgType.BINARY:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    raise SystemExit(f"the server closed the connection: {message.extra}")
                continue
            header = json.loads(message.data[4 : 4 + struct.unpack("<I", message.data[:4])[0]])
            if header["t"] != "frames":
                continue
            now = time.perf_counter()
            found.came.append(now)
            found.model.append(header["ms"])
            found.skipped = header["skipped"]
            await say("got", number=len(found.came))
            for number in [number for number in pressed if number <= header["press"]]:
                found.keys.append(1e3 * (now - pressed.pop(number)))
        pressing.cancel()
    return found, hello


def memory(pid: int) -> float:
    """Resident MiB of a process; NaN where the system does not tell (not Linux)."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return float("nan")


def main(
    seconds: Annotated[float, typer.Option(help="how long to play")] = 60.0,
    pages: Annotated[int, typer.Option(help="pages that play at once")] = 1,
    presses: Annotated[float, typer.Option(help="seconds from one key to the next, on average")] = 0.5,
    quality: Annotated[str, typer.Option(help="fast, fine, or what the server has chosen")] = "",
    params: Annotated[Path, typer.Option(help="the parameter file")] = DEMO / "params.yaml",
    vae: Annotated[Path, typer.Option(help="the VAE")] = DEMO / "vae",
    world: Annotated[Path, typer.Option(help="the world model")] = DEMO / "world",
    starts: Annotated[Path, typer.Option(help="where dreams begin")] = DEMO / "starts.npz",
) -> None:
    """Frames a second, key to picture and memory of the stage `play`, on the loopback."""
    command = [
        sys.executable, "-m", "stages.play", "--params", params, "--vae", vae, "--world", world, "--starts", starts,
        "--port", "0", "--players", str(pages),
    ]  # fmt: skip
    began = time.perf_counter()
    with subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        said = ""
        while "Play at" not in said:
            said = server.stderr.readline()
            if not said:
                raise SystemExit("the server did not start")
            print(said.strip())
        ready = time.perf_counter() - began
        address = said.split("Play at ")[1].split()[0]

        async def all_pages() -> tuple[list[tuple[Measured, dict[str, Any]]], list[float]]:
            held = [memory(server.pid)]

            async def watch() -> None:
                while True:
                    await asyncio.sleep(seconds / 6)
                    held.append(memory(server.pid))

            watching = asyncio.create_task(watch())
            played = await asyncio.gather(*(play(address, seconds, presses, i, quality) for i in range(pages)))
            watching.cancel()
            return played, [*held, memory(server.pid)]

        played, held = asyncio.run(all_pages())
        server.terminate()
    rate, group = played[0][1]["rate"], played[0][1]["group"]
    print(
        f"\n{seconds:g} s, {pages} at once; a latent frame lasts {1e3 * group / rate:.0f} ms, ready after {ready:.1f} s\n"
    )
    rows = []
    for number, (found, _) in enumerate(played):
        waits, keys = 1e3 * np.diff(found.came), np.array(found.keys)
        rows.append([
            str(number + 1), f"{group * (len(found.came) - 1) / (found.came[-1] - found.came[0]):.1f} of {rate:g}",
            *(f"{np.quantile(values, share):.0f}" for values in (waits, np.array(found.model), keys) for share in (0.5, 0.95)),
            f"{keys.max():.0f}", str(len(keys)), str(found.skipped),
        ])  # fmt: skip
    print_table(
        ["page", "frames/s", "latent to latent, ms", "95 %", "model, ms", "95 %", "key to picture, ms", "95 %", "most", "keys",
         "skipped"], rows,
    )  # fmt: skip
    print()
    print_table(
        ["played, s", "memory, MiB"], [[f"{i * seconds / 6:.0f}", f"{value:.0f}"] for i, value in enumerate(held[:7])]
    )


if __name__ == "__main__":
    typer.run(main)
