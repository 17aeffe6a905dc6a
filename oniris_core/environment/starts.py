"""Where dreams begin: the first frames of recorded episodes, from an episode store or from a small file of their own.

Axes: T frames, H, W.
"""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oniris_core.common.artefacts.files import atomic_write
from oniris_core.common.artefacts.remote import Location, location
from oniris_core.common.errors import UserError
from oniris_core.common.memory import available_memory, refuse_beyond
from oniris_core.data.episodes.store import EpisodeStore, open_episodes
from oniris_core.data.rows.actions import ActionSpec

MOST_ROWS = 129
"""Frames of an episode that are kept to start from."""
RECORD = ("env_id", "env_kwargs", "frame_rate", "action_spec", "params")
_PARAMS = ("frame_skip", "frames_per_action", "resize", "wrappers")


@dataclass(frozen=True)
class Start:
    """The beginning of an episode.

    Attributes:
        episode: its number in the store it is from.
        seed: what the environment was reset with.
        frames: uint8 [T, H, W, 3].
        actions: [T] or [T, components], those that led to the frames; row 0's is a filler.
    """

    episode: int
    seed: int
    frames: np.ndarray
    actions: np.ndarray

    def latents(self, c: int) -> int:
        """The most latent frames, of c frames, that a context of it can have after the reset."""
        return (len(self.frames) - 1) // c


@dataclass(frozen=True)
class Starts:
    """The beginnings of some episodes of one recording.

    Attributes:
        starts: at least one.
        record: how they were recorded: env_id (or None), env_kwargs, frame_rate, action_spec, params.
    """

    starts: tuple[Start, ...]
    record: dict[str, Any]

    @property
    def action_spec(self) -> ActionSpec:
        """The actions of the episodes."""
        return ActionSpec.from_json(self.record["action_spec"])

    @property
    def frame_rate(self) -> float:
        """Frames a second of the environment's own time."""
        return float(self.record["frame_rate"])

    @property
    def identity(self) -> str:
        """SHA-256 over all of it."""
        found = hashlib.sha256(json.dumps(self.record, sort_keys=True, default=str).encode())
        for start in self.starts:
            found.update(np.ascontiguousarray(start.frames).data)
            found.update(np.ascontiguousarray(start.actions).data)
            found.update(f"{start.episode} {start.seed}".encode())
        return found.hexdigest()

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame, pixels."""
        return self.starts[0].frames.shape[1], self.starts[0].frames.shape[2]


def open_starts(path: Location | str, count: int, least: int, whole: bool = False) -> Starts:
    """The starts in a file that `write_starts` made, or of the held-out episodes of a store (of all if none is held out).

    Args:
        path: the file, or the store.
        count: how many at most.
        least: rows an episode must have.
        whole: read the episodes of a store to their ends, and not their first MOST_ROWS rows alone.

    Raises:
        UserError: missing, damaged, more than fits into memory, or no episode is long enough.
    """
    place = location(path)
    if isinstance(place, Path) and place.is_file():
        found = _read(place)
    else:
        found = of_store(open_episodes(place), None if whole else MOST_ROWS, count, least)
    long_enough = tuple(start for start in found.starts if len(start.frames) >= least)
    if not long_enough:
        longest = max(len(start.frames) for start in found.starts)
        raise UserError(f"{path}: a dream starts from {least} frames, but the longest episode has {longest}: "
                        "lower render.context_latents")  # fmt: skip
    return Starts(long_enough[:count], found.record)


def fitting(starts: Starts, spec: ActionSpec, size: tuple[int, int], named: str) -> None:
    """Refuse starts that are none of this model's.

    Args:
        starts: where dreams would begin.
        spec: the actions of the model.
        size: height and width of its frames.
        named: the starts, for messages.

    Raises:
        UserError: other actions, or frames of another size.
    """
    if starts.action_spec != spec:
        raise UserError(f"{named} has other actions ({starts.action_spec.kind} {list(starts.action_spec.sizes)}) than the "
                        f"model ({spec.kind} {list(spec.sizes)}): name the episodes it was trained on")  # fmt: skip
    if starts.frame_size != size:
        found, wanted = (" x ".join(map(str, pair)) for pair in (starts.frame_size, size))
        raise UserError(f"{named} has frames of {found} pixels, the model makes {wanted}")


def of_store(store: EpisodeStore, rows: int | None, count: int | None = None, least: int = 1) -> Starts:
    """The first `rows` rows (None: all) of the held-out episodes of a store, or of all where none is held out.

    Args:
        store: the episodes.
        rows: how many of each at most.
        count: how many episodes at most; None: all.
        least: rows an episode must have; if none has, the longest one is taken.

    Raises:
        UserError: more than fits into memory.
    """
    params = store.attributes.get("params", {})
    record = {key: store.attributes.get(key) for key in RECORD} | {
        "params": {key: params[key] for key in _PARAMS if key in params}
    }
    held_out = store.episodes(1)
    lengths = np.diff(store.episode_ends, prepend=0)
    candidates = held_out if len(held_out) else np.arange(len(lengths))
    chosen = candidates[lengths[candidates] >= least][:count]
    if not len(chosen):
        chosen = candidates[[lengths[candidates].argmax()]]
    taken = lengths[chosen] if rows is None else lengths[chosen].clip(max=rows)
    refuse_beyond(int(taken.sum()) * int(np.prod(store.frames.shape[1:])), available_memory(),
                  f"the start of {len(chosen)} episodes, {taken.sum()} frames", "hold out fewer or shorter ones")  # fmt: skip
    starts = []
    for episode, frames in zip(map(int, chosen), taken, strict=True):
        first, _ = store.bounds(episode)
        end = first + int(frames)
        starts.append(Start(episode, int(store.episode_seed[episode]), np.asarray(store.frames[first:end]),
                            store.actions[first:end]))  # fmt: skip
    return Starts(tuple(starts), record)


def write_starts(path: Path, starts: Starts) -> None:
    """Write starts as one compressed .npz file; equal starts are equal files."""
    file = io.BytesIO()
    np.savez_compressed(
        file,
        frames=np.concatenate([start.frames for start in starts.starts]),
        actions=np.concatenate([start.actions for start in starts.starts]),
        ends=np.cumsum([len(start.frames) for start in starts.starts]),
        seeds=np.array([start.seed for start in starts.starts], np.int64),
        episodes=np.array([start.episode for start in starts.starts], np.int64),
        record=np.array(json.dumps(starts.record)),
    )
    atomic_write(path, file.getvalue())


def _read(path: Path) -> Starts:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("frames", "actions", "ends", "seeds", "episodes", "record")}
        record = json.loads(str(arrays["record"]))
        ActionSpec.from_json(record["action_spec"]), float(record["frame_rate"])
        ends, frames, actions = arrays["ends"], arrays["frames"], arrays["actions"]
        fits = frames.dtype == np.uint8 and frames.ndim == 4 and len(frames) == len(actions) == ends[-1]
        if not fits or not len(ends) == len(arrays["seeds"]) == len(arrays["episodes"]):
            raise ValueError("its arrays do not fit each other")
        begins = [0, *ends[:-1]]
        starts = tuple(
            Start(int(e), int(s), frames[a:b], actions[a:b])
            for e, s, a, b in zip(arrays["episodes"], arrays["seeds"], begins, ends, strict=True)
        )
    except Exception as error:  # numpy, zipfile and zlib have many ways to say that a file is not what it should be
        raise UserError(f"{path} is no file of starts, as `python -m demo.starts` makes them: {error}") from None
    return Starts(starts, record)
