"""Demonstrations in HDF5 as robomimic keeps them: `data/demo_N` with `obs/<camera>`, `actions` and `rewards`.

Action i is taken at observation i and leads to observation i+1, which is `next_obs` i. So where `next_obs` holds the camera,
its last frame ends the recording and nothing is dropped; without it the last action leads nowhere. `dones` may stand for a
success that the demonstration goes on after, so it ends no episode here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from oniris_core.collection.recordings.files.checks import natural, refuse_absurd, visible
from oniris_core.collection.recordings.files.frames import array_size, as_rgb, said_of_array
from oniris_core.collection.recordings.files.hdf5 import dataset, group, open_hdf5, streamed, values
from oniris_core.collection.recordings.files.recording import Files, Recording
from oniris_core.collection.recordings.files.spaces import numbers
from oniris_core.common.errors import UserError
from oniris_core.data.rows.actions import ActionSpec


class Robomimic:
    """The demonstrations in the .hdf5 files below a folder, seen through one camera."""

    declared: ActionSpec | None = None
    flattened_from = None
    frame_rate: float | None = None

    def __init__(self, root: Path, action_key: str, camera: str):
        paths = [path for path in visible(root) if path.suffix.lower() in (".hdf5", ".h5")]
        if not paths:
            raise UserError(f"{root} holds no .hdf5 files: name the folder of the data set with collect.recordings")
        self._key, of, notes = action_key or "actions", {}, dict[str, None]()
        self._demos = dict[str, str]()
        self.cameras: tuple[str, ...] = ()
        for path in paths:
            short = "" if len(paths) == 1 else path.relative_to(root).with_suffix("").as_posix() + "/"
            with open_hdf5(path) as file:
                demos = sorted((str(name) for name in group(file, "data", path)), key=lambda name: natural(Path(name)))
                if not demos:
                    raise UserError(f"{path} holds no demonstrations data/demo_0, data/demo_1, ...")
                for demo in demos:
                    of[short + demo], self._demos[short + demo] = (path,), f"data/{demo}"
                    if not self.cameras:
                        self.cameras = _cameras(file, f"data/{demo}/obs", path, camera)
                found = self._film(file, f"data/{demos[0]}", path)
                notes |= dict.fromkeys(said_of_array(found.shape, found.dtype, 1.0))
        self.files, self.notes = Files(root, of), tuple(notes)

    def size(self, name: str) -> tuple[int, int]:
        path = self.files.of[name][0]
        with open_hdf5(path) as file:
            found = self._film(file, self._demos[name], path)
            return array_size(found.shape, found.dtype, f"{path}: '{found.name}'")

    def actions(self, name: str) -> np.ndarray:
        path = self.files.of[name][0]
        with open_hdf5(path) as file:
            return numbers(values(dataset(file, f"{self._demos[name]}/{self._key}", path)), f"{path}, {name}")

    def read(self, name: str) -> Recording:
        path, demo, actions = self.files.of[name][0], self._demos[name], self.actions(name)
        with open_hdf5(path) as file:
            count = self._film(file, demo, path).shape[0]
            if count != len(actions):
                raise UserError(f"{path}, {name} has {count} frames, but {len(actions)} actions; as many are needed")
            rewards = np.zeros(count)
            if "rewards" in group(file, demo, path):
                rewards = values(dataset(file, f"{demo}/rewards", path)).reshape(-1)
        if len(rewards) != count or not np.isfinite(rewards).all():
            raise UserError(f"{path}, {name} has {len(rewards)} rewards, or not finite ones, for {count} actions")
        return Recording(
            self._frames(name),
            actions,
            rewards.astype(np.float32),
            np.zeros(count, bool),
            np.zeros((count + 1, 0), np.float32),
        )

    def _film(self, file: Any, demo: str, path: Path, of: str = "obs") -> Any:
        found = dataset(file, f"{demo}/{of}/{self.cameras[0]}", path, rows=True)
        array_size(found.shape or (), found.dtype, f"{path}: '{found.name}'")
        refuse_absurd(found.shape[1:], found.dtype, f"{path}: a row of '{found.name}'")
        return found

    def _frames(self, name: str) -> Iterator[np.ndarray]:
        path, demo = self.files.of[name][0], self._demos[name]
        with open_hdf5(path) as file:
            film = self._film(file, demo, path)
            for row, frame in enumerate(streamed(film)):
                yield as_rgb(frame, 1.0, f"{path}, {name}, row {row}")
            if "next_obs" in group(file, demo, path) and self.cameras[0] in group(file, f"{demo}/next_obs", path):
                after = self._film(file, demo, path, "next_obs")
                if after.shape != film.shape:
                    raise UserError(
                        f"{path}: '{after.name}' has the shape {after.shape}, but '{film.name}' {film.shape}"
                    )
                yield as_rgb(np.asarray(after[-1]), 1.0, f"{path}, {name}, next_obs")


def _cameras(file: Any, name: str, path: Path, camera: str) -> tuple[str, ...]:
    """The observations that hold frames, the chosen one first."""
    found = [key for key in sorted(group(file, name, path)) if _is_film(file, f"{name}/{key}", path)]
    if camera not in found and (camera or len(found) != 1):
        raise UserError(f"{path} has the cameras {found} in '{name}': choose one with collect.recording_camera")
    chosen = camera or found[0]
    return (chosen, *(key for key in found if key != chosen))


def _is_film(file: Any, name: str, path: Path) -> bool:
    return len(dataset(file, name, path, rows=True).shape or ()) == 4
