"""Clips of frames from an episode store."""

import numpy as np

from oniris_core.common.errors import UserError
from oniris_core.data.episodes.groups import group_count, group_rows, read_groups
from oniris_core.data.episodes.store import EpisodeStore
from oniris_core.data.rows.clips import ClipIndex, index_clips


def cut_out(clip_THWC: np.ndarray, size: int, motion_share: float, rng: np.random.Generator) -> np.ndarray:
    """A square part of a clip, the same pixels of every frame: uint8 [T, size, size, 3].

    Args:
        clip_THWC: uint8, at least `size` high and wide.
        size: pixels.
        motion_share: chance of the part to hold a pixel drawn by how much it changes in the clip (its range, squared),
            where anything does; else it lies anywhere. Small things that move are few pixels of most frames.
        rng: for the drawing.
    """
    height, width = clip_THWC.shape[1:3]
    row, column = (int(rng.integers(length - size + 1)) for length in (height, width))
    follows, at, inside = rng.random() < motion_share, rng.random(), rng.integers(size, size=2)
    if follows:
        moved = (clip_THWC.max(0) - clip_THWC.min(0)).astype(np.int64).max(-1) ** 2
        total = moved.cumsum()
        if total[-1]:
            y, x = divmod(int(np.searchsorted(total, at * total[-1], side="right")), width)
            row, column = min(max(y - inside[0], 0), height - size), min(max(x - inside[1], 0), width - size)
    return clip_THWC[:, row : row + size, column : column + size]


class FrameClips:
    """Clips of whole groups of frames, as uint8 [B, T, H, W, 3]."""

    def __init__(self, store: EpisodeStore, split: int, frames: int, group: int):
        episodes = store.episodes(split)
        starts = np.concatenate([[0], store.episode_ends[:-1]])
        lengths = store.episode_ends - starts
        groups = np.array([group_count(int(rows), group) for rows in lengths[episodes]], np.int64)
        self._store, self._group, self._starts = store, group, starts
        self.frames = store.frames
        self._groups_per_clip = frames // group
        self.index: ClipIndex = index_clips(
            episodes, groups, self._groups_per_clip, f"train_vae.clip_frames = {frames} (groups of {group} frames)"
        )

    @property
    def in_memory(self) -> bool:
        """Whether reading a clip touches no file."""
        return isinstance(self._store.frames, np.ndarray)

    def rows(self, clips: np.ndarray) -> np.ndarray:
        """int64 [B, T]: which frames of the store clips are."""
        within = [group_rows(int(offset), self._groups_per_clip, self._group) for offset in self.index.offset[clips]]
        return self._starts[self.index.episode[clips], None] + np.stack(within)

    def __getitem__(self, clips: np.ndarray) -> np.ndarray:
        index, c = self.index, self._group
        return np.stack([
            read_groups(
                self._store.frames, self._starts[index.episode[clip]], int(index.offset[clip]), self._groups_per_clip, c
            )
            for clip in clips
        ])  # fmt: skip

    def background(self, clip: int, most: int = 65) -> np.ndarray:
        """uint8 [H, W, 3]: the median of a clip's episode, over at most `most` of its frames, evenly spread."""
        episode = self.index.episode[clip]
        start, end = self._starts[episode], self._store.episode_ends[episode]
        frames = self._store.frames[start:end]
        chosen = np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(np.int64)
        return np.median(frames[chosen], axis=0).astype(np.uint8)

    def refuse_constant(self, samples: int = 64) -> None:
        """Raise UserError if a spread of clips is one and the same clip: there would be nothing to learn."""
        spread = self.index.spread(samples)
        first = self[spread[:1]]
        if len(spread) > 1 and all(np.array_equal(self[spread[i : i + 1]], first) for i in range(1, len(spread))):
            raise UserError(
                f"all {len(self.index)} clips show the same frames: there is nothing to learn from them; look at what "
                "was recorded"
            )
