"""Episodes as .npz files with frames inside, as Dreamer's replay and V-D4RL keep them.

`image` [T, H, W, 3], `action`, `reward`, `is_first`, `is_terminal`, a row each. In DreamerV2, whose layout V-D4RL has, row i
holds what the step gave that action i was: it led to image i, and row 0 of an episode is filler (`common/driver.py` there).
DreamerV3, whose files have `stepid`, keeps the action taken at image i, and a file may hold the end of one episode and the
beginning of the next (`embodied/core/driver.py` there). Episodes begin where `is_first` is set.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from oniris_core.collection.recordings.files.checks import pick, visible
from oniris_core.collection.recordings.files.frames import array_size, as_rgb, said_of_array
from oniris_core.collection.recordings.files.numpy_files import Npz
from oniris_core.collection.recordings.files.recording import Files, Recording
from oniris_core.collection.recordings.files.spaces import numbers
from oniris_core.common.errors import UserError
from oniris_core.data.rows.actions import ActionSpec

FRAMES = ("image", "observation", "obs", "frames")


class NpzEpisodes:
    """The episodes in the .npz files below a folder."""

    declared: ActionSpec | None = None
    flattened_from = None
    frame_rate: float | None = None

    def __init__(self, root: Path, action_key: str, camera: str):
        self._key, self._camera = action_key, camera
        self.cameras: tuple[str, ...] = ()
        self._rows, self._brightest, notes, of = (
            dict[str, tuple[int, int]](),
            dict[Path, float](),
            dict[str, None](),
            {},
        )
        for path in visible(root):
            if path.suffix.lower() != ".npz":
                raise UserError(f"{path}: episodes end in .npz; move other files elsewhere")
            with Npz(path) as file:
                name, shape, dtype = self._header(file)
                self.cameras = (name, *(other for other in FRAMES if other in file.names and other != name))
                starts = self._starts(file, shape[0])
                self._brightest[path] = _brightest(file, name, dtype)
            notes |= dict.fromkeys(said_of_array(shape, dtype, self._brightest[path]))
            short = path.relative_to(root).with_suffix("").as_posix()
            for part, (start, end) in enumerate(zip(starts, [*starts[1:], shape[0]], strict=True)):
                if end - start < 2:
                    notes["pieces of one frame are left out"] = None
                    continue
                title = short if len(starts) == 1 else f"{short}#{part}"
                self._rows[title], of[title] = (start, end), (path,)
        if not of:
            raise UserError(f"{root} holds no .npz files: name a folder of episodes with collect.recordings")
        real = {brightest for brightest in self._brightest.values() if brightest}
        self._white = max(real, default=0.0)
        self.files, self.notes = Files(root, of), tuple(notes)

    def size(self, name: str) -> tuple[int, int]:
        path = self.files.of[name][0]
        with Npz(path) as file:
            frames, shape, dtype = self._header(file)
            return array_size(shape, dtype, f"{path}: array '{frames}'")

    def actions(self, name: str) -> np.ndarray:
        path, (start, end) = self.files.of[name][0], self._rows[name]
        with Npz(path) as file:
            values = file.values(pick(file.names, self._key, str(path)))
            total = self._header(file)[1][0]
            if not values.ndim or len(values) != total:
                raise UserError(
                    f"{path} has {total} frames, but actions of shape {values.shape}; one row a frame is needed"
                )
            here = values[start:end] if "stepid" in file.names else values[start + 1 : end]
        return numbers(here, f"{path} from row {start}" if start else str(path)) if len(here) else here.reshape(0)

    def read(self, name: str) -> Recording:
        path, (start, end) = self.files.of[name][0], self._rows[name]
        actions = self.actions(name)
        rewards, ends = (self._beside(name, key) for key in ("reward", "is_terminal"))
        return Recording(
            self._frames(path, start, end), actions, _steps(rewards, len(actions)).astype(np.float32),
            _steps(ends, len(actions)).astype(bool), np.zeros((end - start, 0), np.float32),
        )  # fmt: skip

    def _header(self, file: Npz) -> tuple[str, tuple[int, ...], np.dtype]:
        found = [name for name in ((self._camera,) if self._camera else FRAMES) if name in file.names]
        if not found:
            wanted = f"'{self._camera}'" if self._camera else " or ".join(f"'{name}'" for name in FRAMES)
            raise UserError(f"{file.path} has no frames {wanted}, but {file.names[:10]}: set collect.recording_camera")
        shape, dtype = file.header(found[0])
        array_size(shape, dtype, f"{file.path}: array '{found[0]}'")
        return found[0], shape, dtype

    def _starts(self, file: Npz, rows: int) -> list[int]:
        if "is_first" not in file.names:
            return [0]
        first = file.values("is_first")
        if first.shape != (rows,):
            raise UserError(
                f"{file.path} has {rows} frames, but 'is_first' of shape {first.shape}; one a frame is needed"
            )
        return sorted({0, *map(int, np.flatnonzero(first))})

    def _beside(self, name: str, key: str) -> np.ndarray:
        path, (start, end) = self.files.of[name][0], self._rows[name]
        with Npz(path) as file:
            if key not in file.names:
                return np.zeros(end - start)
            values = file.values(key).reshape(-1)
        if len(values) < end or not np.isfinite(values.astype(np.float64)).all():
            raise UserError(f"{path}: '{key}' has {len(values)} entries, or not finite ones; one a frame is needed")
        return values[start:end]

    def _frames(self, path: Path, start: int, end: int) -> Iterator[np.ndarray]:
        with Npz(path) as file:
            for row, frame in enumerate(islice(file.rows(self._header(file)[0]), start, end), start):
                yield as_rgb(frame, self._white, f"{path}, row {row}")


def _steps(values: np.ndarray, count: int) -> np.ndarray:
    """What the steps from the first frame on led to: row 0 holds what led to the first frame, which is no step here."""
    return np.concatenate([values[1:], np.zeros(1, values.dtype)])[:count]


def _brightest(file: Npz, name: str, dtype: np.dtype) -> float:
    """1 or 255, whichever the real pixels of the array `name` reach to; 0 for whole ones."""
    if dtype.kind != "f":
        return 0.0
    return 255.0 if any((frame > 1).any() for frame in file.rows(name)) else 1.0
