"""Zarr replay buffers in the style of diffusion_policy: `data/img`, `data/action`, `meta/episode_ends`.

All episodes lie one after another; `meta/episode_ends` holds the row after the last one of each. Action i is taken at frame i
and leads to frame i+1. The action of an episode's last row leads nowhere.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from oniris_core.collection.recordings.files.checks import NAMES, refuse_absurd, refuse_large, visible
from oniris_core.collection.recordings.files.frames import array_size, as_rgb, said_of_array
from oniris_core.collection.recordings.files.recording import Files, Recording
from oniris_core.collection.recordings.files.spaces import numbers
from oniris_core.common.errors import UserError
from oniris_core.data.rows.actions import ActionSpec

MAX_CHUNK = 2**30
"""Bytes that one chunk may unpack to."""


def is_buffer(folder: Path) -> bool:
    """Whether a folder is such a buffer."""
    return (folder / "meta/episode_ends").is_dir() and (folder / "data").is_dir()


def buffers(root: Path) -> list[Path]:
    """The buffer at `root`, or those in it."""
    return [root] if is_buffer(root) else sorted(path for path in root.iterdir() if path.is_dir() and is_buffer(path))


class ZarrBuffer:
    """The episodes of a buffer, or of the buffers in a folder."""

    declared: ActionSpec | None = None
    flattened_from = None
    frame_rate: float | None = None

    def __init__(self, root: Path, action_key: str, camera: str):
        found = buffers(root)
        if not found:
            raise UserError(f"{root} holds no data/ beside meta/episode_ends, so it is no Zarr replay buffer")
        self._key, self._white = action_key, 0.0
        self._rows, notes, of = dict[str, tuple[Path, int, int]](), dict[str, None](), {}
        self._frames_of, self._actions_of = dict[Path, Any](), dict[Path, np.ndarray]()
        for buffer in found:
            files = tuple(visible(buffer))
            self.cameras = _cameras(buffer, camera)
            frames, actions = _array(buffer, f"data/{self.cameras[0]}"), _array(buffer, _actions(buffer, action_key))
            ends = self._ends(buffer, frames, actions)
            if frames.dtype.kind == "f":
                self._white = max(self._white, _brightest(frames))
            notes |= dict.fromkeys(said_of_array(frames.shape, frames.dtype, self._white))
            self._frames_of[buffer] = frames
            self._actions_of[buffer] = _values(actions, buffer)
            prefix = "" if buffer == root else f"{buffer.name}/"
            for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
                name = f"{prefix}episode_{number:06d}"
                self._rows[name], of[name] = (buffer, start, end), files
        self.files, self.notes = Files(root, of), tuple(notes)

    def size(self, name: str) -> tuple[int, int]:
        buffer = self._rows[name][0]
        frames = self._frames_of[buffer]
        return array_size(frames.shape, frames.dtype, f"{buffer / frames.path}")

    def actions(self, name: str) -> np.ndarray:
        buffer, start, end = self._rows[name]
        return numbers(self._actions_of[buffer][start:end], f"{buffer}, {name}")

    def read(self, name: str) -> Recording:
        return Recording.plain(self._frames(name), self.actions(name))

    def _ends(self, buffer: Path, frames: Any, actions: Any) -> list[int]:
        ends = _values(_array(buffer, "meta/episode_ends"), buffer)
        if ends.ndim != 1 or ends.dtype.kind not in "iu" or not len(ends) or not (np.diff(ends, prepend=0) > 0).all():
            raise UserError(
                f"{buffer / 'meta/episode_ends'} is {ends.tolist()[:5]}, but whole numbers that rise are needed"
            )
        if ends[-1] > min(frames.shape[0], actions.shape[0]) or frames.shape[0] != actions.shape[0]:
            raise UserError(f"{buffer} has {frames.shape[0]} frames and {actions.shape[0]} actions, and its last episode ends "
                            f"at row {ends[-1]}; as many of each are needed, up to there")  # fmt: skip
        return [int(end) for end in ends]

    def _frames(self, name: str) -> Iterator[np.ndarray]:
        buffer, start, end = self._rows[name]
        frames = self._frames_of[buffer]
        for row, frame in _read(frames, start, end, buffer):
            yield as_rgb(frame, self._white, f"{buffer / frames.path}, row {row}")


def _read(array: Any, start: int, end: int, buffer: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Rows and their numbers, a chunk at a time."""
    step = int(array.chunks[0])
    at = start
    while at < end:
        until = min((at // step + 1) * step, end)
        try:
            block = np.asarray(array[at:until])
        except Exception as error:  # a damaged chunk fails in many ways
            raise UserError(
                f"{buffer / array.path}, rows {at} to {until - 1}, cannot be read: {_line(error)}"
            ) from None
        yield from enumerate(block, at)
        at = until


def _brightest(frames: Any) -> float:
    rows = _read(frames, 0, frames.shape[0], Path(str(frames.store_path)))
    return 255.0 if any((frame > 1).any() for _, frame in rows) else 1.0


def _values(array: Any, buffer: Path) -> np.ndarray:
    return np.array([row for _, row in _read(array, 0, array.shape[0], buffer)])


def _array(buffer: Path, name: str) -> Any:
    """An array that is safe to read by rows."""
    import zarr

    folder = buffer / name
    for described in (folder / ".zarray", folder / "zarr.json"):
        if described.is_file():
            refuse_large(described)
            try:
                text = described.read_text()
                value = json.loads(text)
                codes = "pickle" in text or value.get("dtype", value.get("data_type")) in ("|O", "object")
            except (OSError, ValueError, AttributeError, RecursionError) as error:
                raise UserError(f"{described} cannot be read: {_line(error)}") from None
            if codes:
                raise UserError(f"{folder} holds objects, which can hold code; numbers are needed")
    try:
        array = zarr.open_array(str(folder), mode="r")
    except Exception as error:
        raise UserError(f"{folder} cannot be read as a Zarr array: {_line(error)}") from None
    if not array.ndim or not array.shape[0]:
        raise UserError(f"{folder} has the shape {array.shape}, but rows are needed")
    if name != "meta/episode_ends" and len(array.shape) > 2:
        refuse_absurd(array.shape[1:], array.dtype, f"{folder}: a row")
    else:
        refuse_absurd(array.shape, array.dtype, str(folder))
    refuse_absurd(array.chunks, array.dtype, f"{folder}: a chunk", MAX_CHUNK)
    return _Named(array, name)


class _Named:
    """An array with its path below the buffer, which Zarr itself forgets when it opens the array alone."""

    def __init__(self, array: Any, path: str):
        self._array, self.path = array, path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._array, name)

    def __getitem__(self, rows: slice) -> Any:
        return self._array[rows]


def _children(buffer: Path) -> list[str]:
    data = buffer / "data"
    return sorted(p.name for p in data.iterdir() if (p / ".zarray").is_file() or (p / "zarr.json").is_file())


def _actions(buffer: Path, key: str) -> str:
    found = [name for name in ((key,) if key else NAMES) if name in _children(buffer)]
    if not found:
        wanted = key or " or ".join(NAMES)
        raise UserError(f"{buffer / 'data'} has no {wanted}, but {_children(buffer)}: set collect.recording_action_key")
    return f"data/{found[0]}"


def _cameras(buffer: Path, camera: str) -> tuple[str, ...]:
    names = _children(buffer)
    images = [name for name in names if len(_array(buffer, f"data/{name}").shape) == 4]
    if camera not in images and (camera or len(images) != 1):
        raise UserError(f"{buffer / 'data'} has the frames {images}: choose with collect.recording_camera")
    chosen = camera or images[0]
    return (chosen, *(name for name in images if name != chosen))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
