"""Puts the beginnings of some held-out episodes into demo/starts.npz, for `make play`: `python -m demo.starts`.

They are those that `make demo` collects: other episodes than the weights were trained on.
"""

from pathlib import Path

from oniris_core.data.episodes.store import open_episodes
from oniris_core.environment.starts import Starts, of_store, write_starts

DEMO = Path(__file__).parent
COUNT = 8
ROWS = 33  # frames of each: up to 8 latent frames of context


def main() -> None:
    """Take the first held-out episodes that are long enough."""
    found = of_store(open_episodes(DEMO / "out/episodes.zarr"), ROWS)
    long_enough = [start for start in found.starts if len(start.frames) == ROWS]
    write_starts(DEMO / "starts.npz", Starts(tuple(long_enough[:COUNT]), found.record))


if __name__ == "__main__":
    main()
