"""Clips of standardised latent frames with the features of their actions."""

from dataclasses import dataclass

import numpy as np

from oniris_core.data.clips import ClipIndex, index_clips
from oniris_core.data.latents import LatentStore


@dataclass(frozen=True)
class LatentBatch:
    """Clips of T latent frames.

    Attributes:
        latents: float32 [B, T, C, h, w], standardised.
        actions: float32 [B, T, A], features of the c actions that led to each frame, in order.
        has_action: bool [B, T], false for the first frame of an episode.
    """

    latents: np.ndarray
    actions: np.ndarray
    has_action: np.ndarray


def action_features(store: LatentStore, first: int, end: int) -> np.ndarray:
    """float32 [end-first, c * features]: the features of rows of the store."""
    return store.action_spec.encode(store.actions[first:end]).reshape(end - first, -1)


class LatentClips:
    """Clips of `length` latent frames from the episodes of one split."""

    def __init__(self, store: LatentStore, split: int, length: int, what: str):
        episodes = np.flatnonzero(store.split == split)
        self._starts = np.concatenate([[0], store.episode_ends[:-1]])
        lengths = (store.episode_ends - self._starts)[episodes]
        self._store, self._length = store, length
        self.index: ClipIndex = index_clips(episodes, lengths, length, what)

    @property
    def in_memory(self) -> bool:
        """Whether reading a clip touches no file."""
        return isinstance(self._store.latents, np.ndarray)

    def __getitem__(self, clips: np.ndarray) -> LatentBatch:
        latents, actions, has_action = [], [], []
        for clip in clips:
            offset = int(self.index.offset[clip])
            first = int(self._starts[self.index.episode[clip]]) + offset
            latents.append(self._store.standardised(first, first + self._length))
            actions.append(action_features(self._store, first, first + self._length))
            has_action.append(np.arange(offset, offset + self._length) > 0)
        return LatentBatch(np.stack(latents), np.stack(actions), np.stack(has_action))
