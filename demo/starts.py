"""Puts the beginnings of some held-out episodes into a small file, for `make play`: `python -m demo.starts --help`.

Those in demo/ are of what `make demo` collects: other episodes than the weights were trained on.
"""

from pathlib import Path
from typing import Annotated

import typer

from oniris_core.data.episodes.store import open_episodes
from oniris_core.environment.starts import Starts, of_store, write_starts

DEMO = Path(__file__).parent
COUNT = 8
ROWS = 33  # frames of each: up to 8 latent frames of context


def main(
    episodes: Annotated[Path, typer.Option(help="the store")] = DEMO / "out/episodes.zarr",
    out: Annotated[Path, typer.Option(help="the file to make")] = DEMO / "starts.npz",
) -> None:
    """Take the first held-out episodes that are long enough."""
    found = of_store(open_episodes(episodes), ROWS, COUNT, ROWS)
    write_starts(out, Starts(tuple(start for start in found.starts if len(start.frames) == ROWS), found.record))


if __name__ == "__main__":
    typer.run(main)
