"""Steps a second of the dreamt environment, and what it costs above the bare rollout.

    python -m benchmarks.environment_speed --threads 1

A step of an environment is a latent frame. **bare**: `Stepper.step` of as many rollouts from the same moment; **steps**: `step`
of the environments, their episodes endless; **resets**: the same with episodes of `--horizon` frames, whose ends are spread
evenly, divided by the steps of all. They take turns.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.harness import Repetitions, Threads, medians, print_table
from oniris_core.common.devices import pick_device
from oniris_core.environment.dreams import WorldVectorEnv
from oniris_core.environment.parts import assemble
from oniris_core.sampling.autoregressive import Sampler

DEMO = Path(__file__).parent.parent / "demo"


def main(
    envs: Annotated[str, typer.Option(help="numbers of environments side by side, with commas")] = "1,16,64,256",
    solver_steps: Annotated[int, typer.Option(help="noise levels of the sampler")] = 2,
    horizon: Annotated[int, typer.Option(help="frames of an episode where there are resets")] = 128,
    world: Annotated[Path, typer.Option(help="the world model")] = DEMO / "world",
    vae: Annotated[Path, typer.Option(help="its VAE")] = DEMO / "vae",
    starts: Annotated[Path, typer.Option(help="where dreams begin")] = DEMO / "starts.npz",
    repetitions: Repetitions = 5,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    threads: Threads = 0,
) -> None:
    """Print a row for each number of environments."""
    where = pick_device("cuda" if device == "cuda" else "cpu", threads)
    parts, rows = assemble(world, vae, starts, None, where), []
    for n in map(int, envs.split(",")):
        endless, ending = (
            WorldVectorEnv(
                n, world=parts.world, vae=parts.codec, starts=parts.starts, observations="latents", rewards="none",
                sampler=Sampler(steps=solver_steps), horizon=frames,
            )
            for frames in (None, horizon)
        )  # fmt: skip
        c, rng = parts.group, np.random.default_rng(0)
        endless.reset(seed=0)
        ending.reset(seed=0)
        ending._steps = rng.integers(0, horizon // c, size=n)  # as after a long time
        moment, noise = endless.moment, list(range(n))
        assert moment is not None
        actions = endless.action_space.sample()
        led = np.repeat(actions[:, None], c, axis=1)
        cases = {
            "bare": lambda moment=moment, led=led, noise=noise, ahead=endless: ahead.stepper.imagine(moment, led, noise),
            "steps": lambda actions=actions, ahead=endless: ahead.step(actions),
            "resets": lambda actions=actions, ahead=ending: ahead.step(actions),
        }  # fmt: skip
        took = medians(cases, repetitions)
        rows.append([
            str(n), *(f"{n / took[name]:.1f}" for name in cases), f"{took['steps'] / took['bare'] - 1:+.1%}",
            f"{took['resets'] / took['bare'] - 1:+.1%}",
        ])  # fmt: skip
    print_table(("environments", "bare steps/s", "steps/s", "steps/s with resets", "above bare", "with resets"), rows)


if __name__ == "__main__":
    typer.run(main)
