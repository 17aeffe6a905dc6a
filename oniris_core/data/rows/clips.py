"""Which clips there are, and which of them a training step sees."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from oniris_core.common.errors import UserError
from oniris_core.common.seeds import numpy_rng

TRAIN, HELD_OUT = 0, 1
"""Values of a store's `meta/split`."""


@dataclass(frozen=True)
class ClipIndex:
    """All clips of a fixed number of units (groups or latent frames) within single episodes.

    Attributes:
        episode: int64 [K], which episode a clip lies in.
        offset: int64 [K], its first unit within that episode.
        too_short: how many episodes are shorter than a clip.
    """

    episode: np.ndarray
    offset: np.ndarray
    too_short: int

    def __len__(self) -> int:
        return len(self.episode)

    def draw(
        self, count: int, seed: int, purpose: str, step: int, start_share: float = 0.0, end_share: float = 0.0
    ) -> np.ndarray:
        """int64 [count]: clips for one step; the same for the same arguments.

        Args:
            count: how many.
            seed, purpose, step: what the draw depends on.
            start_share: chance of a clip to be one of those that begin with their episode.
            end_share: chance to be one of those that end with it; else all have equal chance.
        """
        rng = numpy_rng(seed, purpose, step)
        drawn = rng.integers(len(self), size=count)
        if not start_share + end_share:
            return drawn
        begins, ends = (rng.choice(clips, size=count) for clips in (self._first, self._last))
        chance = rng.random(count)
        return np.where(chance < start_share, begins, np.where(chance < start_share + end_share, ends, drawn))

    @cached_property
    def _first(self) -> np.ndarray:
        return np.flatnonzero(self.offset == 0)

    @cached_property
    def _last(self) -> np.ndarray:
        return np.flatnonzero(np.append(self.episode[1:] != self.episode[:-1], True))

    def spread(self, count: int) -> np.ndarray:
        """int64 [min(count, K)]: clips evenly spread over all of them."""
        return np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(np.int64)


def index_clips(episodes: np.ndarray, lengths: np.ndarray, units: int, what: str) -> ClipIndex:
    """All clips of `units` units in the given episodes.

    Args:
        episodes: their indices.
        lengths: units in each of them.
        units: length of a clip.
        what: the parameter that asks for this length, for the message.

    Raises:
        UserError: there are no episodes, or every one is shorter.
    """
    if not len(episodes):
        raise UserError(f"there are no episodes to take clips from for {what}: is collect.held_out_share 0 or 1?")
    starts = lengths - units + 1
    usable = starts > 0
    if not usable.any():
        raise UserError(
            f"{what} asks for clips of {units}, but the longest of {len(lengths)} episodes has {lengths.max()}: "
            "ask for shorter clips or collect longer episodes"
        )
    episode = np.repeat(episodes[usable], starts[usable])
    offset = np.concatenate([np.arange(n) for n in starts[usable]])
    return ClipIndex(episode.astype(np.int64), offset.astype(np.int64), int((~usable).sum()))
