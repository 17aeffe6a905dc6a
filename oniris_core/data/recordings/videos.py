"""A folder of mp4 files, each with its actions beside it: `walk.mp4` and `walk.npz`, `walk.parquet` or `walk.jsonl`.

Row i of the actions is the action taken at frame i, which leads to frame i+1: the last one leads nowhere and is dropped.
With `same_frame` it is the action that led to frame i: then the first one comes from nowhere and is dropped.
"""

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np

from oniris_core.common.errors import UserError
from oniris_core.data.actions import ActionSpec
from oniris_core.data.recordings.recording import MAX_PIXELS, Files, Recording
from oniris_core.data.recordings.spaces import numbers
from oniris_core.data.recordings.tables import read_jsonl, read_npz, read_parquet

TABLES = (".npz", ".parquet", ".jsonl")


class Videos:
    """The videos below a folder."""

    declared: ActionSpec | None = None

    def __init__(self, root: Path, action_key: str, same_frame: bool):
        videos, tables = dict[str, Path](), dict[str, list[Path]]()
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            stem = path.relative_to(root).with_suffix("").as_posix()
            if any(part.startswith(".") for part in path.relative_to(root).parts):
                continue
            if path.suffix == ".mp4":
                videos[stem] = path
            elif path.suffix in TABLES:
                tables.setdefault(stem, []).append(path)
            else:
                raise UserError(f"{path}: videos are .mp4, their actions {', '.join(TABLES)}; move other files elsewhere")
        if not videos:
            raise UserError(f"{root} holds no .mp4 files: name a folder of videos with collect.recordings")
        for stem, path in videos.items():
            found = tables.pop(stem, [])
            if len(found) != 1:
                named = " and ".join(p.name for p in found) or "no file"
                raise UserError(f"{path} has {named} of actions beside it; it needs one: {path.stem}{{{','.join(TABLES)}}}")
            tables[stem] = found
        for stem in tables.keys() - videos.keys():
            raise UserError(f"{tables[stem][0]} has no video {Path(stem).name}.mp4 beside it")
        self.files = Files(root, {stem: (path, tables[stem][0]) for stem, path in videos.items()})
        self._key, self._same_frame = action_key, same_frame
        headers = {stem: probe(path) for stem, path in videos.items()}
        self._sizes = {stem: size for stem, (size, _) in headers.items()}
        rates = {rate for _, rate in headers.values()}
        if len(rates) > 1:
            raise UserError(f"{root}: the videos have the frame rates {sorted(rates)}; give all of them the same")
        self.frame_rate: float | None = rates.pop()

    def size(self, name: str) -> tuple[int, int]:
        return self._sizes[name]

    def actions(self, name: str) -> np.ndarray:
        path = self.files.of[name][1]
        if path.suffix == ".npz":
            values = read_npz(path, self._key)
        elif path.suffix == ".parquet":
            values = read_parquet(path, (), self._key)["action"]
        else:
            values = read_jsonl(path, self._key)
        return numbers(values, str(path))

    def read(self, name: str) -> Recording:
        video, table = self.files.of[name]
        actions = self.actions(name)
        frames = exactly(frames_of(video), len(actions), video, table)
        return Recording.plain(frames, actions[1:] if self._same_frame else actions[:-1])


def probe(path: Path) -> tuple[tuple[int, int], float]:
    """Height and width of a video, pixels, and its frames per second, from its header.

    Raises:
        UserError: not a video, or absurdly large.
    """
    with contextlib.closing(_decoder(path)) as decoder:
        return _header(decoder, path)


def frames_of(path: Path) -> Iterator[np.ndarray]:
    """Every frame that is in the file, uint8 [H, W, 3]; none is repeated or left out for the sake of a frame rate."""
    with contextlib.closing(_decoder(path)) as decoder:
        (height, width), _ = _header(decoder, path)
        try:
            for data in decoder:
                yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
        except RuntimeError as error:
            raise UserError(f"{path} is damaged: {str(error).splitlines()[0]}") from None


def _decoder(path: Path) -> Generator[Any, None, None]:
    # A playlist that calls itself .mp4 could make ffmpeg open other files or the network: one format, one protocol.
    frames: Generator[Any, None, None] = imageio_ffmpeg.read_frames(
        str(path.resolve()), input_params=["-f", "mp4", "-protocol_whitelist", "file"],
        output_params=["-fps_mode", "passthrough"],
    )  # fmt: skip
    return frames


def _header(decoder: Iterator[Any], path: Path) -> tuple[tuple[int, int], float]:
    try:
        header = next(decoder)
        (width, height), rate = header["size"], float(header["fps"])
    except (OSError, RuntimeError, KeyError, IndexError, ValueError, StopIteration):
        raise UserError(f"{path} cannot be read as an mp4 video: record it again or remove it") from None
    if not 0 < width * height <= MAX_PIXELS or not rate > 0:
        raise UserError(f"{path} declares frames of {height} x {width} at {rate:g} a second; {MAX_PIXELS} pixels at most")
    return (height, width), rate


def exactly(frames: Iterator[np.ndarray], count: int, video: Path, table: Path) -> Iterator[np.ndarray]:
    """The frames, if there are `count` of them.

    Raises:
        UserError: there are fewer or more, with both counts; when the last one has been read.
    """
    found = 0
    for found, frame in enumerate(frames, 1):  # noqa: B007 - counts on where there are too many
        if found <= count:
            yield frame
    if found == 0:
        raise UserError(f"{video} holds no frames: record it again or remove it")
    if found != count:
        raise UserError(f"{video} has {found} frames, but {table} has {count} actions; one action a frame is needed")
