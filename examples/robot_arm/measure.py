"""How far from the truth are gripper and block in generated videos? Both are found by their colours (docs/robot.md).

    python -m examples.robot_arm.measure

`render` knows nothing of arms and blocks, only of pixels. Here held-out episodes are continued from their first 17 frames
on, under their own actions and under those of another episode.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

CONTEXT, FRAMES = 17, 32
PUSHED = 0.10
"""A block counts as pushed if it is so many metres from where it was when the context ended."""


def places(frames: np.ndarray) -> dict[str, np.ndarray]:
    """float64 [..., 2]: where gripper and block are, metres; NaN where less than a quarter of them is to be seen.

    Args:
        frames: uint8 [..., H, W, 3] of the camera that stands still.
    """
    from examples.robot_arm.arm import BLOCK, CAMERAS

    r, g, b = np.moveaxis(frames.astype(np.float32), -1, 0)
    half, side = CAMERAS["overhead"], frames.shape[-2]
    at = ((np.arange(side) + 0.5) / side * 2 - 1) * half
    pixel = (2 * half / side) ** 2
    # Weight of a pixel that is all gripper or all block, and how much area there is of them.
    kinds = {"gripper": (g - np.maximum(r, b) - 20, 46, 0.025), "block": (r - b - 60, 102, 4 * BLOCK**2)}
    found = {}
    for name, (excess, whole, area) in kinds.items():
        weight = excess.clip(0)
        total = weight.sum((-1, -2))
        place = (
            np.stack([(weight.sum(-2) * at).sum(-1), -(weight.sum(-1) * at).sum(-1)], -1)
            / np.maximum(total, 1e-9)[..., None]
        )
        found[name] = np.where((total > whole * area / pixel / 4)[..., None], place, np.nan)
    return found


def main(
    episodes: Annotated[Path, typer.Option(help="the episode store")] = Path("data/episodes.zarr"),
    vae: Annotated[Path, typer.Option(help="the VAE")] = Path("models/vae"),
    world: Annotated[Path, typer.Option(help="the world model")] = Path("models/world"),
    params: Annotated[
        Path, typer.Option(help="the parameter file; its section `render` says how frames are sampled")
    ] = Path("params.yaml"),
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice")] = 0,
) -> None:
    """Print medians of the distance to the truth, in centimetres (a pixel of 64 is 3.9), by frames ahead."""
    import torch

    from oniris_core import sampling
    from oniris_core.data.episodes.store import open_episodes
    from oniris_core.data.rows.clips import HELD_OUT

    if threads:
        torch.set_num_threads(threads)
    store, model = open_episodes(episodes), sampling.load(world, vae, sampling.sampler(params))
    total = CONTEXT + FRAMES
    long = [slice(*store.bounds(e)) for e in store.episodes(HELD_OUT) if np.diff(store.bounds(e))[0] >= total]
    true = np.stack([store.frames[rows][:total] for rows in long])
    actions = np.stack([store.actions[rows][:total] for rows in long])
    other = np.concatenate([actions[:, :CONTEXT], np.roll(actions, 1, 0)[:, CONTEXT:]], 1)

    def continued(under: np.ndarray) -> np.ndarray:
        taken = list(np.moveaxis(under, 1, 0))
        return np.concatenate(list(sampling.rollout(model, true[:, :CONTEXT], taken)), axis=1)

    shown = {
        "generated": continued(actions),
        "under another episode's actions": continued(other),
        "last frame repeated": np.repeat(true[:, CONTEXT - 1 : CONTEXT], FRAMES, 1),
        "true frames through the VAE": np.stack(
            [model.codec.decode(model.codec.encode(clip[1:total])) for clip in true]
        )[:, CONTEXT - 1 :],
    }
    truth = {name: place[:, CONTEXT - 1 :] for name, place in places(true).items()}
    moved = np.linalg.norm(truth["block"][:, 1:] - truth["block"][:, :1], axis=-1) > PUSHED
    ahead = [4, 8, 16, 24, 32]
    typer.echo(
        f"{len(long)} held-out episodes; the block has been pushed in {[int(moved[:, k - 1].sum()) for k in ahead]}"
    )
    for kind, name, asked in (
        ("gripper", "gripper", np.ones_like(moved)),
        ("block", "block", np.ones_like(moved)),
        ("block", "block that was pushed", moved),
    ):
        typer.echo(f"\n| {name}, cm | " + " | ".join(map(str, ahead)) + " |\n|---|" + "---|" * len(ahead))
        for what, frames in shown.items():
            error = 100 * np.linalg.norm(places(frames)[kind] - truth[kind][:, 1:], axis=-1)
            cells = []
            for k in ahead:
                of = error[asked[:, k - 1] & np.isfinite(truth[kind][:, k]).all(-1), k - 1]
                lost = int(np.isnan(of).sum())
                cells.append(
                    (f"{np.nanmedian(of):.1f}" if lost < len(of) else "-")
                    + (f" ({lost} of {len(of)} lost)" if lost else "")
                )
            typer.echo(f"| {what} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    typer.run(main)
