"""Does anything grow in hours? Memory, file handles, threads and the time of a step at ten points of a long run.

    python -m benchmarks.long dream --frames 100000
    python -m benchmarks.long training --steps 50000 --stops 50
    python -m benchmarks.long environment --steps 1000000
    python -m benchmarks.long page --minutes 120

Models are tiny and have learned nothing: what is kept and let go of is the same in all. Linux only.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def dream(
    frames: Annotated[int, typer.Option(help="to generate")] = 100_000,
    weights: Annotated[
        Path | None, typer.Option(help="folder with world, vae and starts.npz, such as demo; nothing: a tiny world")
    ] = None,
) -> None:
    """One rollout, as a notebook asks for it."""
    import numpy as np
    import torch

    import oniris_core
    from benchmarks.long.watch import Watch
    from oniris_core.sampling.autoregressive import Sampler
    from oniris_core.sampling.stepper import Stepper
    from tests import toys

    torch.set_num_threads(1)
    if weights is None:
        stepper, start = Stepper(toys.world(), toys.codec(), Sampler(steps=1)), toys.starts().starts[0]
    else:
        stepper = oniris_core.load(weights / "world", weights / "vae")
        start = oniris_core.open_starts(weights / "starts.npz", 1, 9).starts[0]
    rows, rng = 1 + 2 * stepper.group, np.random.default_rng(0)

    def actions() -> Iterator[np.ndarray]:
        for action in start.actions[:rows]:
            yield action[None]
        while True:
            yield start.actions[None, rng.integers(1, len(start.actions))]

    watch, total = Watch(frames, unit="frame"), 0
    for video in oniris_core.rollout(stepper, start.frames[None, :rows], actions()):
        assert video.dtype == np.uint8
        total += video.shape[1]
        watch.see(total)
        if total >= frames:
            break
    watch.table()


@app.command()
def training(
    steps: Annotated[int, typer.Option(help="of the training")] = 50_000,
    stops: Annotated[int, typer.Option(help="how often it is stopped by SIGTERM, and goes on")] = 50,
) -> None:
    """A training with stops, then the same without; fails if they make different bytes."""
    import torch

    torch.set_num_threads(1)
    from benchmarks.long.training import main

    if not main(steps, stops):
        raise typer.Exit(1)


@app.command()
def environment(
    steps: Annotated[int, typer.Option(help="of all environments together, a latent frame each")] = 1_000_000,
    envs: Annotated[int, typer.Option(help="side by side")] = 512,
    horizon: Annotated[int, typer.Option(help="frames of an episode")] = 128,
) -> None:
    """Environments that are dreamt, stepped at random, with their resets."""
    import torch

    from benchmarks.long.watch import Watch
    from oniris_core.environment.dreams import WorldVectorEnv
    from oniris_core.sampling.autoregressive import Sampler
    from tests import toys

    torch.set_num_threads(1)
    dreams = WorldVectorEnv(
        envs, world=toys.world(window=4), vae=toys.codec(), starts=toys.starts(), observations="latents", rewards="none",
        context_latents=2, begin="anywhere", horizon=horizon, sampler=Sampler(steps=1),
    )  # fmt: skip
    dreams.action_space.seed(0)
    dreams.reset(seed=0)
    watch, done, resets = Watch(steps, unit="step"), 0, 0
    while done < steps:
        *_, truncated, _ = dreams.step(dreams.action_space.sample())
        done, resets = done + envs, resets + int(truncated.sum())
        watch.see(done)
    watch.table()
    print(f"\n{done:,} steps of {envs} environments, {resets:,} episodes ended")


@app.command()
def page(
    minutes: Annotated[float, typer.Option(help="to play, by the clock")] = 120.0,
    times: Annotated[float, typer.Option(help="faster than the environment's own time, at most 4")] = 1.0,
) -> None:
    """The stage `play`, played by a robot; memory, handles and threads are the server's."""
    from benchmarks.long.page import main

    if not main(minutes, times):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
