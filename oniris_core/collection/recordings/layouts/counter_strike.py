"""The Counter-Strike deathmatch recordings of Pearce and Zhu (arXiv 2104.04258), as they are published.

Each file holds consecutive frames i = 0, 1, ... (1000 in the published ones) under `frame_i_x`, uint8 [150, 280, 3] in
the order blue, green, red; `frame_i_y`, 51 numbers 0 or 1: 11 keys, left click, right click, one-hot mouse motion in 23
steps across and 15 steps up and down; `frame_i_helperarr`, whether this frame shows a kill and a death. `frame_i_xaux`,
which repeats earlier actions, is not read. `frame_i_y` is what was pressed at frame i; it leads to frame i+1.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from oniris_core.collection.recordings.files.checks import visible
from oniris_core.collection.recordings.files.hdf5 import dataset, open_hdf5, values
from oniris_core.collection.recordings.files.recording import MAX_PIXELS, Files, Recording
from oniris_core.common.errors import UserError
from oniris_core.data.rows.actions import ActionSpec

COMPONENTS = 51
FRAME_RATE = 16.0


class CounterStrike:
    """The .hdf5 files below a folder, each a recording of its own, with its kills as rewards."""

    cameras: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    frame_rate: float | None = FRAME_RATE
    declared: ActionSpec | None = ActionSpec("multi_binary", (1,) * COMPONENTS)
    flattened_from = None

    def __init__(self, root: Path):
        found = [path for path in visible(root) if path.suffix.lower() in (".hdf5", ".h5")]
        if not found:
            raise UserError(f"{root} holds no .hdf5 files: name the folder of the data set with collect.recordings")
        self.files = Files(root, {path.relative_to(root).as_posix(): (path,) for path in found})

    def size(self, name: str) -> tuple[int, int]:
        path = self.files.of[name][0]
        with open_hdf5(path) as file:
            shape = dataset(file, "frame_0_x", path).shape
        if len(shape) != 3 or shape[2] != 3 or not 0 < shape[0] * shape[1] <= MAX_PIXELS:
            raise UserError(f"{path}: 'frame_0_x' has the shape {shape}, but [H, W, 3] is needed")
        return shape[:2]

    def actions(self, name: str) -> np.ndarray:
        return self._rows(name)[0]

    def read(self, name: str) -> Recording:
        actions, events = self._rows(name)
        # A kill is noted in the frame that shows it, so it belongs to the step that led there.
        kills = events[1:, 0].astype(np.float32)
        plain = Recording.plain(self._frames(name, len(actions)), actions[:-1])
        return Recording(plain.frames, plain.actions, kills, plain.terminated, plain.states)

    def _rows(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        path = self.files.of[name][0]
        with open_hdf5(path) as file:
            keys = set(file)
            count = sum(key.endswith("_x") for key in keys)
            actions = np.zeros((count, COMPONENTS), np.int64)
            events = np.zeros((count, 2))
            for i in range(count):
                found = dataset(file, f"frame_{i}_y", path)
                if found.shape != (COMPONENTS,):
                    raise UserError(f"{path}: 'frame_{i}_y' has the shape {found.shape}, but ({COMPONENTS},) is needed")
                action = values(found)
                if not np.isin(action, (0, 1)).all():
                    raise UserError(f"{path}, row {i}: the action {action.tolist()} is not all 0 or 1")
                actions[i] = action
                if f"frame_{i}_helperarr" in keys:
                    noted = dataset(file, f"frame_{i}_helperarr", path)
                    if noted.shape != (2,):
                        raise UserError(
                            f"{path}: 'frame_{i}_helperarr' has the shape {noted.shape}, but (2,) is needed"
                        )
                    events[i] = values(noted)
            if f"frame_{count}_y" in keys:
                raise UserError(f"{path} has {count} frames, but more actions: 'frame_{count}_y' has no frame")
        if not count:
            raise UserError(f"{path} holds no frames 'frame_0_x', 'frame_1_x', ...")
        return actions, events

    def _frames(self, name: str, count: int) -> Iterator[np.ndarray]:
        path, size = self.files.of[name][0], self.size(name)
        with open_hdf5(path) as file:
            for i in range(count):
                found = dataset(file, f"frame_{i}_x", path)
                if found.shape != (*size, 3) or found.dtype != np.uint8:
                    raise UserError(
                        f"{path}: 'frame_{i}_x' is {found.dtype} of shape {found.shape}, but 'frame_0_x' is uint8 of {size}"
                    )
                yield np.ascontiguousarray(values(found)[..., ::-1])
