"""The episode store `data/episodes.zarr`: a flat time axis of rows, and where each episode ends.

`data/frames` uint8 [N, H, W, 3]; `data/actions` [N] or [N, A]; `data/rewards` float32 [N]; `data/terminated`,
`data/truncated` bool [N]; `data/states` float32 [N, S]; `meta/episode_ends`, `meta/episode_seed` int64 [E];
`meta/split` uint8 [E], 0 train and 1 held out. Row i holds a frame and the step that LED to it; row 0 of an episode is
the reset, with a filler action.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from oniris_core.common.artefacts.remote import Location, location
from oniris_core.common.errors import UserError
from oniris_core.data.episodes.episode import ROW_ARRAYS, Episode
from oniris_core.data.rows.actions import ActionSpec
from oniris_core.data.rows.zarrs import (
    RowWriter,
    add_rows,
    add_small,
    array,
    finish,
    new_store,
    open_store,
    preload,
    read,
)

KIND = "episodes"


@dataclass(frozen=True)
class EpisodeStore:
    """A checked episode store.

    Attributes:
        frames: uint8 [N, H, W, 3], in memory or on disk; read it by slicing.
        actions: [N] or [N, components].
        states: float32 [N, S], what the environment itself observed; S is 0 where that was no vector, or nothing.
        episode_ends, episode_seed: int64 [E]; episode e holds rows episode_ends[e-1] (or 0) to episode_ends[e].
        split: uint8 [E].
        rewards: float32 [N], of the step that led to each row.
        terminated: bool [E], whether the environment itself ended the episode, rather than a limit of time.
        action_spec: what the actions mean.
        attributes: everything else that was recorded (env_id, frame_rate, params, versions, ...).
        identity: digest of the store's bytes.
    """

    frames: Any
    actions: np.ndarray
    states: np.ndarray
    episode_ends: np.ndarray
    episode_seed: np.ndarray
    split: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    action_spec: ActionSpec
    attributes: dict[str, Any]
    identity: str

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame, pixels."""
        return int(self.frames.shape[1]), int(self.frames.shape[2])

    def bounds(self, episode: int) -> tuple[int, int]:
        """First row and the row after the last of an episode."""
        return int(self.episode_ends[episode - 1]) if episode else 0, int(self.episode_ends[episode])

    def episodes(self, split: int) -> np.ndarray:
        """Indices of the episodes of a split."""
        return np.flatnonzero(self.split == split)


def write_episodes(
    out: Location, episodes: Iterable[Episode], rows: int, split: np.ndarray, attributes: dict[str, Any]
) -> None:
    """Write a store of `rows` rows in all.

    Args:
        out: the folder or URL; replaced at once when all is written.
        episodes: in order; consumed one by one.
        rows: their total length.
        split: uint8 [E].
        attributes: recorded as they are, JSON values; `complete` is added last.
    """
    with new_store(out, KIND) as group:
        small: dict[str, list[np.ndarray]] = {name: [] for name in ROW_ARRAYS[1:]}
        writer, ends, seeds, end = None, list[int](), list[int](), 0
        for episode in episodes:
            if writer is None:
                shape = (rows, *episode.frames.shape[1:])
                writer = RowWriter(add_rows(group, "data/frames", shape, np.uint8))
            writer.append(episode.frames)
            for name, values in small.items():
                values.append(getattr(episode, name))
            end += len(episode.frames)
            ends.append(end)
            seeds.append(episode.seed)
        assert writer is not None
        writer.close()
        for name, values in small.items():
            add_small(group, f"data/{name}", np.concatenate(values))
        add_small(group, "meta/episode_ends", np.asarray(ends, np.int64))
        add_small(group, "meta/episode_seed", np.asarray(seeds, np.int64))
        add_small(group, "meta/split", split)
        finish(group, attributes)


def open_episodes(path: Location | str, preloaded: bool = True) -> EpisodeStore:
    """Open and check an episode store.

    Args:
        path: where it is.
        preloaded: read the frames into memory, if they are few enough.

    Raises:
        UserError: missing, damaged, not complete, or not an episode store.
    """
    group, identity = open_store(location(path), KIND, made_by="collect")
    attributes: dict[str, Any] = dict(group.attrs)
    if attributes.get("complete") is not True:
        raise UserError(f"{path} is not complete: run `dvc repro collect` to make it again")
    frames, actions = array(group, "data/frames"), read(group, "data/actions")
    ends = read(group, "meta/episode_ends")
    states = (
        read(group, "data/states") if group.get("data/states") is not None else np.zeros((len(actions), 0), np.float32)
    )
    if not len(ends) or not frames.shape[0] == actions.shape[0] == ends[-1]:
        raise UserError(
            f"{path}: {frames.shape[0]} frames and {actions.shape[0]} actions, but episodes end at {ends[-1:]}"
        )
    return EpisodeStore(
        preload(frames) if preloaded else frames, actions, states, ends, read(group, "meta/episode_seed"),
        read(group, "meta/split"), read(group, "data/rewards"), read(group, "data/terminated")[ends - 1],
        ActionSpec.from_json(attributes["action_spec"]), attributes, identity,
    )  # fmt: skip
