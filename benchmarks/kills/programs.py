"""The programs outside of the pipeline, as subjects: each works with what an undisturbed tiny pipeline has made."""

import asyncio
import contextlib
import json
import random
import re
import shutil
import socket
import sys
import threading
import zipfile
from io import BytesIO
from pathlib import Path

import psutil

from benchmarks.kills.subject import Subject
from tests.project import ROOT

SECONDS_OF_PLAY = 1.5


class Program(Subject):
    """A program of the project, in a folder with the parameters of the pipeline at `like`."""

    name = ""

    def __init__(self, folder: Path, like: Path):
        super().__init__(folder)
        self.like, self.victims = like, (self.name,)
        self.command = [sys.executable, *self.arguments()]

    def arguments(self) -> list[str]:
        """Of Python."""
        raise NotImplementedError

    def models(self) -> list[str]:
        """The options that name what the pipeline has made."""
        data = {"vae": "models/vae", "world": "models/world", "starts": "data/episodes.zarr"}
        return [f"--{name}={self.like / path}" for name, path in data.items()]

    def prepare(self) -> None:
        super().prepare()
        shutil.copy(self.like / "params.yaml", self.folder)

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PYTHONPATH": str(ROOT)}


class Policy(Program):
    """`stages.policy`, with few decisions: it keeps work after each tenth."""

    name = "policy"

    def arguments(self) -> list[str]:
        few = ["--observations=latents", "--steps=160", "--horizon=12", "--judge-episodes=2"]
        return ["-m", "benchmarks.kills.few", *self.models(), *few]

    def results(self) -> dict[str, bytes]:
        """Of the policy its weights: the file that they are in has times."""
        import torch

        found, policy = super().results(), "models/policy/policy.zip"
        del found["models/policy/manifest.json"], found["reports/policy/manifest.json"]
        with zipfile.ZipFile(BytesIO(found.pop(policy))) as archive:
            weights = torch.load(BytesIO(archive.read("policy.pth")), weights_only=True)
        return found | {f"{policy}: {name}": weight.numpy().tobytes() for name, weight in weights.items()}


class Export(Program):
    """`stages.export`, with a page where there is onnxruntime-web."""

    name = "export"

    def __init__(self, folder: Path, like: Path, runtime: Path | None):
        self.runtime = runtime
        super().__init__(folder, like)

    def arguments(self) -> list[str]:
        page = ["--html=play.html", f"--runtime={self.runtime}"] if self.runtime else []
        return ["-m", "stages.export", *self.models(), *page]


class Play(Program):
    """`stages.play`, killed while a page is open or while none is; then it must be served again at the same port."""

    name = "play"

    def __init__(self, folder: Path, like: Path):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.draw, self.page = random.Random(folder.name), threading.Thread()
        super().__init__(folder, like)

    def arguments(self) -> list[str]:
        return ["-m", "stages.play", *self.models(), f"--port={self.port}", "--quality=fast"]

    def start(self) -> psutil.Popen:
        self.opens, self.opened, self.ended = bool(self.draw.randrange(2)), False, False
        self.page = threading.Thread(target=self._visit, daemon=True)
        return super().start()

    def attend(self, root: psutil.Popen, last: bool) -> None:
        """Open a page, or do not; in the last run always, and end the server after it."""
        if not self.opened:
            if (self.opens or last) and "Play at" in self.log.read_text():
                self.opened = True
                self.page.start()
        elif last and not self.ended and not self.page.is_alive():
            self.ended = True
            with contextlib.suppress(psutil.Error):
                root.terminate()

    def _visit(self) -> None:
        from benchmarks.play_latency import play

        address = re.findall(r"http://\S+/", self.log.read_text())[0]
        with contextlib.suppress(Exception, SystemExit):  # the server is gone
            asyncio.run(play(address, SECONDS_OF_PLAY, 0.2, 0, ""))

    def broken(self) -> list[str]:
        if self.opened:
            self.page.join()
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return []
        return [f"port {self.port} still answers"]


class Environment(Program):
    """A dreamt environment that is stepped in a process of its own."""

    name = "environment"

    def arguments(self) -> list[str]:
        parts = [str(self.like / path) for path in ("models/world", "models/vae", "data/episodes.zarr")]
        return ["-m", "benchmarks.kills.stepping", *parts, "150"]

    def results(self) -> dict[str, bytes]:
        """What it has printed; and there must be no files."""
        return {**super().results(), "said": self.log.read_bytes()}


class Gpu(Program):
    """The program for GPUs, rehearsed on the CPU. It never goes on: it wants a new folder each time, and keeps the old one."""

    name, again = "gpu", False

    def arguments(self) -> list[str]:
        episodes, params = self.like / "data/episodes.zarr", self.like / "params.yaml"
        rehearsal = ["--device=cpu", "--size=tiny", "--minutes=30", f"--episodes={episodes}", f"--params={params}"]
        return ["-m", "benchmarks.gpu", *rehearsal, "--out=out"]

    def start(self) -> psutil.Popen:
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        return super().start()

    def broken(self) -> list[str]:
        """What it had found must be readable, each step's and all of it."""
        trouble = []
        for file in (self.folder / "out").glob("*.json"):
            try:
                json.loads(file.read_bytes())
            except ValueError:
                trouble.append(f"{file.name} cannot be read")
        return trouble

    def results(self) -> dict[str, bytes]:
        return {}

    def strays(self) -> list[str]:
        return []
