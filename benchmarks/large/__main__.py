"""What do a thousand, ten thousand, a hundred thousand episodes cost? Seconds, memory and files of each part of the pipeline.

    python -m benchmarks.large --episodes 1000,10000,100000

The stages run as anybody runs them, each in a process of its own, on made episodes of tiny frames that cost nothing to play
(`made.py`), so that what is left is the pipeline's own work. What stands between a store and the first batch, and between a
store and the first step of an environment, is timed apart (`parts.py`), also as it is when the store is too large for memory.
Trainings have few steps. Only Linux tells the memory of a process that has ended.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).parents[2]
OPTIONS: dict[str, tuple[str, ...]] = {
    "train_vae": ("--space-compression", "2,2", "--steps", "20", "--checkpoint-every", "20", "--crop", "0"),
    "train": ("--steps", "20", "--checkpoint-every", "20"),
}
PARTS = ("open_episodes", "frame_clips", "open_latents", "latent_clips", "environment", "from_disk")
"""Functions of `parts.py`."""


@dataclass(frozen=True)
class Cost:
    """Of one part: what ran, its seconds by the clock and of all its processes' CPU time, the largest resident size, MiB."""

    part: str
    seconds: float
    cpu: float
    peak: float


class Made:
    """A folder with the parameters of the preset `tiny`, in which the stages run."""

    def __init__(self, folder: Path, size: int, frames: int):
        from oniris_core.config.presets import apply_preset

        self.folder, self.frames, self.pixels = folder, frames, size
        shutil.copy(ROOT / "params.yaml", folder)
        apply_preset("tiny", ROOT / "presets", folder / "params.yaml")
        self.shape = ("--size", f"{size},{size}", "--max-frames", str(2 * frames), "--frame-skip", "1")
        self.env_kwargs = json.dumps({"size": size, "frames": frames})

    def stage(self, name: str, *options: str) -> Cost:
        """Run a stage."""
        return self.run(name, "-m", f"stages.{name}", "--threads", "1", *OPTIONS.get(name, ()), *options)

    def collect(self, episodes: int, workers: int) -> Cost:
        """Play that many episodes."""
        return self.stage(
            "collect", "--env-id", "benchmarks.large.made:Made-v0", "--import-code", "--env-kwargs", self.env_kwargs,
            "--heuristic-share", "0", "--episodes", str(episodes), "--workers", str(workers), *self.shape,
        )  # fmt: skip

    def read(self) -> Cost:
        """Take the same episodes from a folder of recordings, a file each."""
        self.run("export", "-m", "benchmarks.large.parts", "export")
        found = self.stage(
            "collect", "--source", "npz", "--recordings", "recordings", "--out", "read.zarr", *self.shape
        )
        shutil.rmtree(self.folder / "recordings")
        shutil.rmtree(self.folder / "read.zarr")
        return replace(found, part="collect from npz")

    def part(self, name: str) -> Cost:
        """Run a function of `parts.py`; it counts its own seconds, those of its imports left out."""
        found = self.run(name, "-m", "benchmarks.large.parts", name)
        seconds, cpu = json.loads((self.folder / "said.txt").read_text())
        return Cost(name.replace("_", " "), seconds, cpu, found.peak)

    def run(self, name: str, *arguments: str) -> Cost:
        """Run Python, and remember what it says."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        started = time.perf_counter()
        with (self.folder / "said.txt").open("w") as said, (self.folder / "log.txt").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments], cwd=self.folder, env=environment, stdout=said, stderr=log
            )
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{name} failed:\n{(self.folder / 'log.txt').read_text()[-2000:]}")
        return Cost(name, time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**10)

    def files(self, store: str) -> tuple[int, float]:
        """How many files a store has, and MiB."""
        found = [path for path in (self.folder / store).rglob("*") if path.is_file()]
        return len(found), sum(path.stat().st_size for path in found) / 2**20


def measure(made: Made, episodes: int, workers: int, recordings: bool, written: bool) -> list[Cost]:
    """All parts, in order."""
    found = list[Cost]()

    def note(cost: Cost) -> None:
        print(
            f"{episodes} episodes: {cost.part} {cost.seconds:.2f} s, CPU {cost.cpu:.2f} s, {cost.peak:.0f} MiB",
            flush=True,
        )
        found.append(cost)

    if written:
        about = {"episodes": episodes, "frames": made.frames, "size": made.pixels}
        (made.folder / "made.json").write_text(json.dumps(about))
        for name in ("write", *(part for part in PARTS if part != "environment")):
            note(made.part(name))
        return found
    note(made.collect(episodes, workers))
    if recordings:
        note(made.read())
    for stage in ("train_vae", "encode", "train"):
        note(made.stage(stage))
    for name in PARTS:
        note(made.part(name))
    return found


def main(
    episodes: Annotated[str, typer.Option(help="how many, separated by commas")] = "1000,10000,100000",
    frames: Annotated[int, typer.Option(help="of an episode, on average")] = 50,
    size: Annotated[int, typer.Option(help="pixels along each side of a frame")] = 8,
    workers: Annotated[int, typer.Option(help="processes that play; 0: as many as there are cores")] = 2,
    recordings: Annotated[bool, typer.Option(help="read them from a folder of .npz files too")] = True,
    written: Annotated[
        bool, typer.Option(help="write the stores without playing, reading, training and encoding; for large numbers")
    ] = False,
    folder: Annotated[Path | None, typer.Option(help="where to work, on the disk to be measured")] = None,
) -> None:
    """Print seconds, memory and files of each part of the pipeline, by the number of episodes."""
    costs, stores = dict[int, list[Cost]](), list[list[str]]()
    for count in map(int, episodes.split(",")):
        with tempfile.TemporaryDirectory(prefix="large_", dir=folder) as place:
            made = Made(Path(place), size, frames)
            costs[count] = measure(made, count, workers, recordings, written)
            for store in ("data/episodes.zarr", "data/latents.zarr"):
                files, mib = made.files(store)
                stores.append([store, f"{count:,}", str(files), f"{mib:.1f}"])
    from benchmarks.harness import print_table  # torch with it: a process begins as large as the one that starts it

    first, base = next(iter(costs.items()))
    rows = []
    for number, start in enumerate(base):
        for count, found in costs.items():
            cost = found[number]
            growth = cost.cpu / start.cpu / (count / first)
            rows.append([start.part, f"{count:,}", f"{cost.seconds:.2f}", f"{cost.cpu:.2f}",
                         f"{1e3 * cost.cpu / count:.3f}", f"{growth:.2f}", f"{cost.peak:.0f}"])  # fmt: skip
    print()
    print_table(("part", "episodes", "seconds", "CPU s", "CPU ms an episode", "x first", "peak memory, MiB"), rows)
    print()
    print_table(("store", "episodes", "files", "MiB"), stores)


if __name__ == "__main__":
    typer.run(main)
