"""A folder of videos, each with its actions beside it: `walk.mp4` and `walk.npz`, `walk.csv` or another file of actions.

Row i of the actions is the action taken at frame i, which leads to frame i+1. There may be as many rows as frames (the last
one leads nowhere) or one fewer.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from oniris_core.collection.recordings.files.action_files import TABLES, is_table, only_table, read_actions
from oniris_core.collection.recordings.files.checks import visible
from oniris_core.collection.recordings.files.decoder import DEMUXERS, decoded, is_video, probe
from oniris_core.collection.recordings.files.recording import Files, Recording
from oniris_core.common.errors import UserError
from oniris_core.data.rows.actions import ActionSpec


class Videos:
    """The videos below a folder."""

    declared: ActionSpec | None = None
    flattened_from = None
    cameras: tuple[str, ...] = ()

    def __init__(self, root: Path, action_key: str):
        videos, tables = dict[str, Path](), dict[str, list[Path]]()
        for path in visible(root):
            stem = path.relative_to(root).with_suffix("").as_posix()
            if is_video(path):
                if stem in videos:
                    raise UserError(
                        f"{videos[stem]} and {path} share their name, so their actions cannot be told apart"
                    )
                videos[stem] = path
            elif is_table(path):
                tables.setdefault(stem, []).append(path)
            else:
                raise UserError(f"{path}: videos end in {', '.join(DEMUXERS)}, their actions in {', '.join(TABLES)}; "
                                "move other files elsewhere")  # fmt: skip
        if not videos:
            raise UserError(
                f"{root} holds no videos ({', '.join(DEMUXERS)}): name a folder of them with collect.recordings"
            )
        beside = {stem: only_table(tables.pop(stem, []), path, path.stem) for stem, path in videos.items()}
        for stem, found in tables.items():
            raise UserError(f"{found[0]} has no video {Path(stem).name}.mp4 beside it, nor one with another ending")
        self.files = Files(root, {stem: (path, beside[stem]) for stem, path in videos.items()})
        self._key = action_key
        headers = {stem: probe(path) for stem, path in videos.items()}
        self._sizes = {stem: header.size for stem, header in headers.items()}
        rates = {header.rate for header in headers.values()}
        if len(rates) > 1:
            raise UserError(f"{root}: the videos have the frame rates {sorted(rates)}; give all of them the same")
        self.frame_rate: float | None = rates.pop()
        square = all(header.square for header in headers.values())
        self.notes: tuple[str, ...] = () if square else ("pixels that are not square are made so",)

    def size(self, name: str) -> tuple[int, int]:
        return self._sizes[name]

    def actions(self, name: str) -> np.ndarray:
        return read_actions(self.files.of[name][1], self._key)

    def read(self, name: str) -> Recording:
        video, table = self.files.of[name]
        actions = self.actions(name)
        return Recording.plain(fitting((frame for _, frame in decoded(video)), len(actions), video, table), actions)


def fitting(frames: Iterable[np.ndarray], actions: int, film: Path, table: Path) -> Iterator[np.ndarray]:
    """The frames, if there are as many as actions, or one more.

    Raises:
        UserError: there are fewer or more, with both counts; when the last one has been read.
    """
    found = 0
    for found, frame in enumerate(frames, 1):
        if found <= actions + 1:
            yield frame
    if found not in (actions, actions + 1):
        raise UserError(
            f"{film} has {found} frames, but {table} has {actions} actions; as many are needed, or one fewer"
        )


def exactly(frames: Iterable[np.ndarray], count: int, film: Path, table: Path) -> Iterator[np.ndarray]:
    """The frames, if there are `count` of them.

    Raises:
        UserError: there are fewer or more, with both counts; when the last one has been read.
    """
    found = 0
    for found, frame in enumerate(frames, 1):
        if found <= count:
            yield frame
    if found != count:
        raise UserError(f"{film} has {found} frames, but {table} has {count} rows; one row a frame is needed")
