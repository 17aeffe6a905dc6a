"""Records a simulated robot arm as a LeRobot data set, to be collected as anybody's recordings are (docs/robot.md).

python -m examples.robot_arm data/robot_arm
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer


def main(
    folder: Annotated[Path, typer.Argument(help="the data set to make")],
    episodes: Annotated[int, typer.Option(min=1, help="how many")] = 600,
    frames: Annotated[tuple[int, int], typer.Option(min=2, help="of an episode: at least, at most")] = (60, 100),
    seed: Annotated[int, typer.Option(min=0, help="decides everything")] = 0,
) -> None:
    """Record the arm pushing its block about: two cameras, the angles of the joints, and the angles asked of them."""
    import os

    import numpy as np

    from examples.robot_arm.arm import FPS, play
    from examples.robot_arm.lerobot import Episode, write

    if folder.exists():
        raise typer.BadParameter(f"{folder} is there already: name another folder, or remove it")
    if frames[0] > frames[1]:
        raise typer.BadParameter(f"--frames {frames[0]} {frames[1]}: the first must not be larger than the second")

    os.environ.setdefault("SVT_LOG", "1")  # of the encoder: only what is wrong

    def played() -> Iterator[Episode]:
        with typer.progressbar(range(episodes), label="episodes") as bar:
            for index in bar:
                rng = np.random.default_rng((seed, index))
                rows = list(play(rng, int(rng.integers(frames[0], frames[1] + 1))))
                numbers = {
                    "action": np.stack([row.action for row in rows]),
                    "observation.state": np.stack([row.state for row in rows]),
                    "observation.environment_state": np.stack([row.block for row in rows]),
                }
                yield (
                    numbers,
                    {
                        f"observation.images.{camera}": np.stack([row.pictures[camera] for row in rows])
                        for camera in rows[0].pictures
                    },
                )

    joints = ["shoulder.pos", "elbow.pos"]
    names = {
        "action": joints,
        "observation.state": joints,
        "observation.environment_state": ["block.x", "block.y", "block.angle"],
    }
    total = write(folder, played(), names, FPS, "planar_arm", "Push the block about.")
    typer.echo(f"{folder}: {episodes} episodes, {total} frames at {FPS} a second, two cameras")


if __name__ == "__main__":
    typer.run(main)
