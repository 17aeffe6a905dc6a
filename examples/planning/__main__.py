"""Plays the true simulator with no policy: before every decision the model looks ahead. `python -m examples.planning --help`.

Any environment whose world model has learned rewards, such as LunarLander or CartPole.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from oniris_core import TrueVectorEnv
    from oniris_core.sampling.stepper import Stepper


def main(
    world: Annotated[Path, typer.Option(help="the world model, which must have learned rewards")] = Path(
        "models/world"
    ),
    vae: Annotated[Path, typer.Option(help="its VAE")] = Path("models/vae"),
    starts: Annotated[Path, typer.Option(help="the episodes it was trained on, or a file of starts")] = Path(
        "data/episodes.zarr"
    ),
    episodes: Annotated[int, typer.Option(help="episodes to play")] = 3,
    seed: Annotated[int, typer.Option(help="of the first; choose one that was not collected")] = 10**9,
    decisions: Annotated[int, typer.Option(help="decisions an episode may take")] = 250,
    horizon: Annotated[int, typer.Option(help="frames to look ahead")] = 32,
    candidates: Annotated[int, typer.Option(help="sequences of actions tried side by side")] = 64,
    rounds: Annotated[int, typer.Option(help="how often new ones are drawn around the best")] = 3,
    solver_steps: Annotated[int, typer.Option(help="noise levels of a dream: few will do")] = 2,
) -> None:
    """Print the return of each episode."""
    from oniris_core import Sampler, TrueVectorEnv, load
    from oniris_core.common.errors import UserError

    try:
        model = load(world, vae, Sampler(steps=solver_steps))
        truth = TrueVectorEnv(
            world=model.world, vae=model.codec, starts=str(starts), observations="latents", autoreset_mode="Disabled"
        )
        returns = [play(model, truth, seed + n, decisions, horizon, candidates, rounds) for n in range(episodes)]
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"mean of {episodes}: {sum(returns) / episodes:.1f}")


def play(
    model: "Stepper", truth: "TrueVectorEnv", seed: int, decisions: int, horizon: int, candidates: int, rounds: int
) -> float:
    """The return of an episode of the simulator."""
    import numpy as np
    import torch

    from oniris_core import plan

    seen, _ = truth.reset(seed=seed)
    features = model.world.action_spec.features * model.group
    moment = model.recall(torch.from_numpy(seen)[:, None], torch.zeros(1, 1, features))
    total, over, number = 0.0, False, 0
    while not over and number < decisions:
        action = plan(model, moment, horizon, candidates, rounds, seed=number)
        seen, rewards, terminated, truncated, _ = truth.step(action[None])
        # What the model remembers is what truly happened.
        moment = model.observe(moment, torch.from_numpy(seen), np.repeat(action[None, None], model.group, axis=1))
        total, over, number = total + float(rewards[0]), bool(terminated[0] or truncated[0]), number + 1
    typer.echo(f"seed {seed}: return {total:.1f} after {number} decisions")
    return total


if __name__ == "__main__":
    typer.run(main)
