"""A folder of pictures for each recording, with its actions in the folder or beside it under the folder's name.

Pictures are taken in the order of their names, in which numbers count: 2 comes before 10. Row i of the actions is the action
taken at picture i, which leads to picture i+1. There may be as many rows as pictures (the last one leads nowhere) or one
fewer.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from oniris_core.collection.recordings.files.action_files import TABLES, is_table, only_table, read_actions
from oniris_core.collection.recordings.files.checks import visible
from oniris_core.collection.recordings.files.frames import picture, picture_size
from oniris_core.collection.recordings.files.recording import Files, Recording
from oniris_core.collection.recordings.layouts.videos import fitting
from oniris_core.common.errors import UserError
from oniris_core.data.rows.actions import ActionSpec

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def is_picture(path: Path) -> bool:
    """Whether the ending, in whatever case, is that of a picture."""
    return path.suffix.lower() in ENDINGS


class Pictures:
    """The folders with pictures below a folder, or that folder itself."""

    declared: ActionSpec | None = None
    flattened_from = None
    frame_rate: float | None = None
    cameras: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __init__(self, root: Path, action_key: str):
        films, tables = dict[Path, list[Path]](), list[Path]()
        for path in visible(root):
            if is_picture(path):
                films.setdefault(path.parent, []).append(path)
            elif is_table(path):
                tables.append(path)
            else:
                raise UserError(f"{path}: pictures end in {', '.join(ENDINGS)}, their actions in {', '.join(TABLES)}; "
                                "move other files elsewhere")  # fmt: skip
        if not films:
            raise UserError(
                f"{root} holds no pictures ({', '.join(ENDINGS)}): name a folder of them with collect.recordings"
            )
        of = {}
        for folder, found in films.items():
            beside = [
                path for path in tables if path.parent == folder or (folder != root and path.with_suffix("") == folder)
            ]
            name = folder.relative_to(root).as_posix() if folder != root else root.resolve().name
            of[name] = (*found, only_table(beside, folder, folder.name + "/actions"))
        for path in tables:
            if path not in {files[-1] for files in of.values()}:
                raise UserError(f"{path} has no folder of pictures of its name beside it")
        self.files = Files(root, of)
        self._key = action_key

    def size(self, name: str) -> tuple[int, int]:
        first = self.files.of[name][0]
        return picture_size(first, str(first))

    def actions(self, name: str) -> np.ndarray:
        return read_actions(self.files.of[name][-1], self._key)

    def read(self, name: str) -> Recording:
        *found, table = self.files.of[name]
        actions = self.actions(name)
        return Recording.plain(fitting(self._frames(found), len(actions), found[0].parent, table), actions)

    def _frames(self, found: list[Path]) -> Iterator[np.ndarray]:
        size: tuple[int, ...] = ()
        for path in found:
            frame = picture(path, str(path))
            size = size or frame.shape[:2]
            if frame.shape[:2] != size:
                raise UserError(f"{path} has {frame.shape[0]} x {frame.shape[1]} pixels, {found[0].name} {size[0]} x {size[1]}"
                                ": bring them to one size first")  # fmt: skip
            yield frame
