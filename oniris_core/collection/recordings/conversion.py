"""Turns recordings into episodes of at most `max_frames` rows. Each finished recording is noted, so a killed run goes on.

Of n = `frame_skip` frames one is kept: frames 0, n, 2n, ...; what is left behind the last of them is dropped. Between two
kept frames lie n actions. `last` keeps the one right before the later frame, `all` keeps all n, in order, as components of
one action; the rewards between two kept frames are added up.

Recordings have one frame more than actions, or as many: then the last action leads nowhere. Which it is shows only when
all frames have been read; it is noted with the recording.

A long recording becomes consecutive episodes. The last frame of one is the first of the next, where it stands for the
reset, so that every step of the recording is in exactly one episode.
"""

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from oniris_core.collection.recordings.files.recording import Recording, Source
from oniris_core.collection.recordings.files.spaces import fitted, joined
from oniris_core.common.artefacts.files import atomic_write, to_json
from oniris_core.common.errors import UserError
from oniris_core.common.memory import refuse_frames
from oniris_core.common.process import StopRequest
from oniris_core.common.seeds import numpy_rng
from oniris_core.data.episodes.episode import Episode
from oniris_core.data.playing.environments import fit_screen
from oniris_core.data.playing.params import CollectParams
from oniris_core.data.rows.actions import ActionSpec


def stored_space(spec: ActionSpec, params: CollectParams) -> ActionSpec:
    """The space of the actions in the store, given that of the recordings."""
    return joined(spec, params.frame_skip if params.recording_skipped_actions == "all" else 1)


def held_out_recordings(count: int, params: CollectParams, seed: int) -> np.ndarray:
    """bool [count]: the recordings kept from training, a random choice of the set share; whole ones, so nothing leaks.

    Raises:
        UserError: some are to be held out of a single recording.
    """
    if params.held_out_share and count < 2:
        raise UserError(
            "one recording cannot be both trained on and held out whole: add another, or set collect.held_out_share: 0"
        )
    chosen = min(max(round(params.held_out_share * count), int(params.held_out_share > 0)), count - 1)
    held_out = np.zeros(count, bool)
    held_out[numpy_rng(seed, "split").permutation(count)[:chosen]] = True
    return held_out


def episodes_of(
    recording: Recording, spec: ActionSpec, params: CollectParams, number: int, name: str
) -> Iterator[Episode]:
    """The episodes of a recording, one by one, as its frames are read.

    Args:
        recording: from a source.
        spec: the action space of the recordings.
        params: frame size, frames to skip, length of an episode.
        number: of the recording; an episode's seed is number * 2^20 + its place in the recording.
        name: of the recording, for messages.
    """
    n, most = params.frame_skip, params.max_frames
    steps = len(recording.actions) // n
    taken = fitted(recording.actions, spec, name) if len(recording.actions) else _filler(spec)[None][:0]
    taken = taken[: steps * n].reshape(steps, n, *taken.shape[1:])
    actions = taken.reshape(steps, -1) if params.recording_skipped_actions == "all" and n > 1 else taken[:, -1]
    actions = np.concatenate([_filler(stored_space(spec, params))[None], actions])
    rewards = np.concatenate([[0], recording.rewards[: steps * n].reshape(steps, n).sum(1)]).astype(np.float32)
    terminated = np.concatenate([[False], recording.terminated[: steps * n].reshape(steps, n).any(1)])

    pending, first, part = list[np.ndarray](), 0, 0

    def episode() -> Episode:
        rows = slice(first, first + len(pending))
        ends, cut = terminated[rows].copy(), np.zeros(len(pending), bool)
        played, won = actions[rows].copy(), rewards[rows].copy()
        played[0], won[0], ends[0] = actions[0], 0, False
        cut[-1] = len(pending) > 1 and not ends[-1]
        states = recording.states[first * n : (first + len(pending) - 1) * n + 1 : n]
        return Episode(np.stack(pending), played, won, ends, cut, states, number * 2**20 + part)

    for index, frame in enumerate(recording.frames):
        row, between = divmod(index, n)
        if between or row > steps:
            continue
        pending.append(fit_screen(frame, params.height, params.width, params.resize))
        if len(pending) == most:
            yield episode()
            pending, first, part = pending[-1:], row, part + 1
    if len(pending) > 1 or (pending and not part):
        yield episode()


def _filler(spec: ActionSpec) -> np.ndarray:
    if spec.kind == "box":
        return np.zeros(len(spec.sizes), np.float32)
    if spec.kind == "multi_binary":
        return np.zeros(len(spec.sizes), np.int8)
    return np.array(spec.start[0] if spec.kind == "discrete" else spec.start, np.int64)


@dataclass(frozen=True)
class Note:
    """What is kept of a finished recording: how many episodes it became, and what its files held."""

    episodes: int
    frames: int
    actions: int


def finished(folder: Path, number: int) -> Note | None:
    """What recording `number` became, or None while it is not finished."""
    note = note_file(folder, number)
    return Note(**json.loads(note.read_bytes())) if note.exists() else None


def convert(source: Source, spec: ActionSpec, params: CollectParams, folder: Path, stop: StopRequest) -> Iterator[str]:
    """Convert all recordings that `folder` does not hold yet, in order; yield the name of each that is finished.

    Raises:
        Interrupted: `stop` was set; the finished recordings remain.
        UserError: a recording is not what it claims to be.
    """
    for number, name in enumerate(source.files.of):
        if finished(folder, number) is not None:
            continue
        recording = source.read(name)
        refuse_frames(
            min(params.max_frames, len(recording.actions) // params.frame_skip + 1), params.height, params.width, 1
        )
        frames = Counted(recording.frames)
        parts = 0
        lagging = replace(recording, frames=frames).lagging(params.recording_action_lag)
        for part, episode in enumerate(episodes_of(lagging, spec, params, number, name)):
            stop.raise_if_set()
            data = io.BytesIO()
            np.savez(data, **{field.name: getattr(episode, field.name) for field in fields(Episode)})
            atomic_write(episode_file(folder, number, part), data.getvalue())
            parts = part + 1
        if not parts:
            raise UserError(f"{name} has {frames.count} frames, no more than collect.recording_action_lag = "
                            f"{params.recording_action_lag} leaves out: lower it")  # fmt: skip
        note = Note(parts, frames.count, len(recording.actions))
        atomic_write(note_file(folder, number), to_json(asdict(note)).encode())
        yield name


class Counted:
    """An iterable that counts what is taken from it."""

    def __init__(self, items: Iterable[np.ndarray]):
        self._items, self.count = items, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for item in self._items:
            self.count += 1
            yield item


def said_of(notes: list[Note]) -> str:
    """How frames and actions of all recordings go together, in words."""
    more, same = (
        sum(note.frames == note.actions + 1 for note in notes),
        sum(note.frames == note.actions for note in notes),
    )
    parts = []
    if more:
        parts.append(f"{more} with one frame more than actions, of which nothing is dropped")
    if same:
        parts.append(f"{same} with as many actions as frames, of which one leads nowhere and is dropped")
    return "; ".join(parts)


def note_file(folder: Path, number: int) -> Path:
    """Where it is noted that recording `number` is finished."""
    return folder / f"recording_{number:06d}.json"


def episode_file(folder: Path, number: int, part: int) -> Path:
    """Where episode `part` of recording `number` lies until the store is written."""
    return folder / f"recording_{number:06d}_{part:06d}.npz"
