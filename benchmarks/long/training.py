"""A long training of a tiny world model that is stopped and resumed again and again, against one that is not."""

import os
import signal
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.long.watch import Watch
from oniris_core.common.errors import Interrupted
from oniris_core.common.seeds import numpy_rng
from oniris_core.config.reader import build, read_yaml
from oniris_core.data.latents.clips import LatentClips
from oniris_core.data.latents.store import LatentStore
from oniris_core.data.rows.actions import ActionSpec
from oniris_core.training.fit.loop import fit
from oniris_core.training.fit.session import onlookers, session
from oniris_core.training.fit.state import TrainState
from oniris_core.training.fit.trainer import Observer, Run
from oniris_core.training.world.loss_profile import loss_figure
from oniris_core.training.world.params import TrainParams
from oniris_core.training.world.trainer import WorldTrainer, denoiser_config
from oniris_core.world.store import save_world

ROOT = Path(__file__).parents[2]
TINY = {
    "channels": [4], "blocks": 1, "video_attention": [True], "frame_attention": [False], "head_channels": 4, "window": 8,
    "forecast_channels": 8, "forecast_ages": [1, 2], "batch": 2, "clip_latents": 3, "lr": 0.01, "outcome_weight": 0.0,
    "ema_widths": [0.1], "warmup_steps": 2, "compile": False,
}  # fmt: skip


def store(episodes: int = 20, frames: int = 12) -> LatentStore:
    """Latents that drift, of random actions."""
    rng, rows = np.random.default_rng(0), episodes * frames
    actions = rng.integers(0, 2, (rows, 4))
    latents = rng.normal(size=(rows, 2, 2, 2)) + np.cumsum(actions.mean(1) - 0.5)[:, None, None, None]
    return LatentStore(
        latents.astype(np.float16), actions, np.arange(frames, rows + 1, frames), np.arange(episodes),
        np.zeros(episodes, np.uint8), np.zeros(2, np.float32), np.ones(2, np.float32), 0.5, "made",
        ActionSpec("discrete", (2,), start=(0,)), {}, "made", np.zeros((rows, 4), np.float32), np.zeros((rows, 4), bool),
    )  # fmt: skip


class Stopper:
    """An onlooker that sends this process SIGTERM after some of the steps, each once."""

    def __init__(self, steps: set[int]):
        self.steps = steps

    def see(self, state: TrainState) -> None:
        if state.step in self.steps:
            self.steps.remove(state.step)
            os.kill(os.getpid(), signal.SIGTERM)


class Onlooker:
    """Hands the steps to a `Watch`."""

    def __init__(self, watch: Watch):
        self._watch = watch

    def see(self, state: TrainState) -> None:
        self._watch.see(state.step)


def world(out: Path, steps: int, others: list[Observer]) -> None:
    """Train to the end, or until a signal comes, as the stage `train` does."""
    sections, found = read_yaml(ROOT / "params.yaml"), store()
    params = build(TrainParams, "train", {**sections["fit"], **sections["train"], **TINY, "steps": steps}, "benchmark")
    config, device = denoiser_config(params, found), torch.device("cpu")
    clips = LatentClips(found, 0, params.clip_latents, "benchmark", params.forecast_ages[-1])
    with session("train", out, device, record=params.model_dump(mode="json")) as around:
        assert around.folder is not None
        kept = around.folder / "snapshots"
        trainer = WorldTrainer(params, config, clips, 0, device, kept, around.ranks)

        def draw(_: TrainState) -> object:
            return loss_figure(trainer.expected)

        seen = [*onlookers("train", params, around.folder, draw, print), *others]  # type: ignore[arg-type]
        fit(trainer, params, Run("train", around.folder, around.ranks, around.stop, lambda _: None, observers=seen))
        averages = {ema.width: ema.model for ema in trainer.state.emas}
        save_world(out, averages, config, found.mean, found.std, found.action_spec, found.vae_identity, {},  # type: ignore[arg-type]
                   steps=steps, snapshots=trainer.snapshots, kept=kept)  # fmt: skip


def held(folder: Path) -> list[Path]:
    """The files of unfinished work."""
    return [path for path in folder.rglob("*") if path.is_file()]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in held(folder)}


def main(steps: int, stops: int) -> bool:
    """Print what the stopped training held on the way; whether it made the same bytes as an undisturbed one."""
    drawn = {int(step) for step in 1 + numpy_rng(0, "stops").permutation(steps - 1)[:stops]}
    with tempfile.TemporaryDirectory(prefix="long_") as made:
        folder = Path(made)
        os.environ["ONIRIS_RUNS"] = str(folder / "runs")
        watch = Watch(steps, more={
            "files in runs/": lambda: len(held(folder / "runs")),
            "MiB in runs/": lambda: sum(path.stat().st_size for path in held(folder / "runs")) / 2**20,
        })  # fmt: skip
        resumed = 0
        while True:
            try:
                world(folder / "stopped", steps, [Onlooker(watch), Stopper(drawn)])
                break
            except Interrupted:
                resumed += 1
        watch.table()
        left = [path for path in held(folder / "runs") if path.name != "lock"]
        print(f"\nstopped and resumed {resumed} times; files left in runs/: {len(left)}", flush=True)
        world(folder / "undisturbed", steps, [])
        same = content(folder / "stopped") == content(folder / "undisturbed")
        print(f"the same bytes as undisturbed: {'yes' if same else 'NO'}")
    return same and not left and resumed == stops
