"""Clips of standardised latent frames with the features of their actions."""

from dataclasses import dataclass

import numpy as np

from oniris_core.common.errors import UserError
from oniris_core.data.latents.store import LatentStore
from oniris_core.data.rows.clips import ClipIndex, index_clips


@dataclass(frozen=True)
class LatentBatch:
    """Clips of T latent frames, and in front of each the F frames before it.

    Attributes:
        latents: float32 [B, F + T, C, h, w], standardised. Before its first frame an episode stood still.
        actions: float32 [B, F + T, A], features of the c actions that led to each frame, in order.
        has_action: bool [B, F + T], false for the first frame of an episode and whatever stands before it.
    """

    latents: np.ndarray
    actions: np.ndarray
    has_action: np.ndarray


def action_features(store: LatentStore, first: int, end: int) -> np.ndarray:
    """float32 [end-first, c * features]: the features of rows of the store."""
    return store.action_spec.encode(store.actions[first:end]).reshape(end - first, -1)


FAR = 10
"""How many times as long ago as the longest episode a clip may reach: such frames are copies, and cost memory."""


class LatentClips:
    """Clips of `length` latent frames from the episodes of one split, and the `before` frames before each."""

    def __init__(self, store: LatentStore, split: int, length: int, what: str, before: int = 0):
        episodes = np.flatnonzero(store.split == split)
        self._starts = np.concatenate([[0], store.episode_ends[:-1]])
        lengths = (store.episode_ends - self._starts)[episodes]
        self.store, self._length, self.before, self._longest = store, length, before, int(lengths.max(initial=0))
        self.index: ClipIndex = index_clips(episodes, lengths, length, what)

    def refuse_older(self, age: int) -> None:
        """Raise UserError if a forecast is to see frames from much longer ago than any episode has.

        A little longer does no harm: an episode stood still before it began, so short ones need no other ages.
        """
        if age > FAR * self._longest:
            raise UserError(
                f"train.forecast_ages reaches {age} latent frames back, but the longest episode has {self._longest}: "
                f"choose ages up to {self._longest}, or collect longer episodes"
            )

    @property
    def in_memory(self) -> bool:
        """Whether reading a clip touches no file."""
        return isinstance(self.store.latents, np.ndarray)

    def places(self, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which rows of the store the frames of clips are, int64 [B, F + T], and which of them have an action, bool."""
        place = self.index.offset[clips, None] + np.arange(-self.before, self._length)
        return self._starts[self.index.episode[clips], None] + np.maximum(place, 0), place > 0

    def __getitem__(self, clips: np.ndarray) -> LatentBatch:
        rows_BT, has_action_BT = self.places(clips)
        latents, actions = [], []
        for rows in rows_BT:
            first, end = int(rows[0]), int(rows[-1]) + 1
            latents.append(self.store.standardised(first, end)[rows - first])
            actions.append(action_features(self.store, first, end)[rows - first])
        return LatentBatch(np.stack(latents), np.stack(actions), has_action_BT)
