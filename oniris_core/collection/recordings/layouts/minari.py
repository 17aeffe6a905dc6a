"""Minari data sets on this disk, HDF5 storage; nothing is ever downloaded and no environment is made.

An episode has one observation more than actions: action i is taken at observation i and leads to observation i+1. The
frames are the observations, or one entry of them where they are a dictionary. Actions of several dimensions, and those of
Dict and Tuple spaces, become rows of numbers as an environment's do (`flat_actions`).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from oniris_core.collection.recordings.files.checks import refuse_large
from oniris_core.collection.recordings.files.hdf5 import dataset, open_hdf5, refuse_foreign, values
from oniris_core.collection.recordings.files.recording import MAX_BYTES, MAX_PIXELS, Files, Recording
from oniris_core.collection.recordings.files.spaces import numbers
from oniris_core.common.errors import UserError
from oniris_core.common.optional import optional
from oniris_core.data.playing.flat_actions import FlatBox, describe_space, flat_space
from oniris_core.data.rows.actions import ActionSpec, action_spec


class Minari:
    """The episodes of a data set whose observations are, or contain, images."""

    notes: tuple[str, ...] = ()
    frame_rate: float | None = None

    def __init__(self, root: Path, camera: str):
        optional("h5py", "recordings", "reading Minari data sets")
        minari = optional("minari", "recordings", "reading Minari data sets")
        folder = root / "data" if (root / "data").is_dir() else root
        described, self._file = folder / "metadata.json", folder / "main_data.hdf5"
        for path in (described, self._file):
            if not path.is_file():
                raise UserError(f"{path} is missing, so {root} is not a Minari data set with HDF5 storage")
        refuse_large(described)
        try:
            metadata = json.loads(described.read_bytes())
            if not {"observation_space", "action_space"} <= set(
                metadata
            ):  # Minari would make the environment to learn them
                raise UserError(
                    f"{described} does not say its observation_space and action_space: write it with Minari 0.5"
                )
            with open_hdf5(self._file) as file:
                _refuse_foreign(file, self._file)
            self._data = minari.MinariDataset(folder)
            spaces, space = self._data.observation_space, self._data.action_space
            indices = [int(index) for index in self._data.episode_indices]
        except UserError:
            raise
        except Exception as error:  # Minari reports a damaged or foreign data set in many ways
            raise UserError(f"{root} cannot be read as a Minari data set: {' '.join(repr(error).split())}") from None
        if not indices:
            raise UserError(f"{root} holds no episodes")
        self._camera, self.cameras = _image(spaces, camera, root)
        self._size: tuple[int, int] = (spaces[self._camera] if self._camera else spaces).shape[:2]
        self._space, self._flat = space, flat_space(space)
        self.flattened_from = None if self._flat is space else describe_space(space)
        bounded = not isinstance(self._flat, gym.spaces.Box) or bool(self._flat.is_bounded())
        self.declared: ActionSpec | None = action_spec(self._flat) if bounded else None
        self._index = {f"episode_{index}": index for index in indices}
        self.files = Files(root, dict.fromkeys(self._index, (self._file,)), (described,))

    def size(self, name: str) -> tuple[int, int]:  # noqa: ARG002 - one for all
        return self._size

    def actions(self, name: str) -> np.ndarray:
        where = f"{self._file}, {name}"
        with open_hdf5(self._file) as file:
            if isinstance(self._flat, FlatBox):
                return numbers(self._flattened(_leaves(file, f"{name}/actions", self._space, self._file), where), where)
            found = values(dataset(file, f"{name}/actions", self._file))
        if found.shape[1:] != self._space.shape:
            raise UserError(f"{where}: actions of shape {found.shape}, but the action space is {self._space}")
        return numbers(found.reshape(len(found), -1) if self.flattened_from else found, where)

    def _flattened(self, leaves: Any, where: str) -> np.ndarray:
        """Actions of a Dict or Tuple, whose parts are kept apart, as one row of numbers each."""
        assert isinstance(self._flat, FlatBox)
        lengths = {len(part) for part in _parts(leaves)}
        if len(lengths) != 1:
            raise UserError(
                f"{where}: the parts of its actions have {sorted(lengths)} rows; they must have as many each"
            )
        rows = np.zeros((lengths.pop(), *self._flat.shape), np.float32)
        for row in range(len(rows)):
            try:
                rows[row] = self._flat.flat(_at(leaves, row))
            except UserError as error:
                raise UserError(f"{where}, row {row}: {error}") from None
        return rows

    def read(self, name: str) -> Recording:
        actions = self.actions(name)
        where = f"{self._file}, {name}"
        with open_hdf5(self._file) as file:
            rewards, ended = (
                values(dataset(file, f"{name}/{key}", self._file)).reshape(-1) for key in ("rewards", "terminations")
            )
        if not len(rewards) == len(ended) == len(actions):
            raise UserError(f"{where}: {len(actions)} actions, {len(rewards)} rewards and {len(ended)} terminations")
        if (len(actions) + 1) * self._size[0] * self._size[1] * 3 > MAX_BYTES:
            raise UserError(
                f"{where} holds {len(actions) + 1} frames of {self._size}; at most {MAX_BYTES} bytes are read"
            )
        return Recording(
            self._frames(name, len(actions) + 1), actions, rewards.astype(np.float32), ended.astype(bool),
            np.zeros((len(actions) + 1, 0), np.float32),
        )  # fmt: skip

    def _frames(self, name: str, count: int) -> Iterator[np.ndarray]:
        try:
            episode = next(iter(self._data.iterate_episodes([self._index[name]])))
        except Exception as error:
            raise UserError(f"{self._file}, {name} cannot be read: {' '.join(repr(error).split())}") from None
        frames = episode.observations[self._camera] if self._camera else episode.observations
        if len(frames) != count:
            raise UserError(f"{self._file}, {name} has {len(frames)} frames, but {count - 1} actions need {count}")
        yield from frames


def _leaves(file: Any, name: str, space: gym.Space, path: Path) -> Any:
    """The arrays of a space's parts, one row an action, nested as the space is."""
    if isinstance(space, gym.spaces.Dict):
        return {key: _leaves(file, f"{name}/{key}", part, path) for key, part in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(_leaves(file, f"{name}/_index_{i}", part, path) for i, part in enumerate(space.spaces))
    return values(dataset(file, name, path))


def _parts(leaves: Any) -> Iterator[np.ndarray]:
    if isinstance(leaves, np.ndarray):
        yield leaves
    else:
        for part in leaves.values() if isinstance(leaves, dict) else leaves:
            yield from _parts(part)


def _at(leaves: Any, row: int) -> Any:
    if isinstance(leaves, dict):
        return {key: _at(part, row) for key, part in leaves.items()}
    return tuple(_at(part, row) for part in leaves) if isinstance(leaves, tuple) else leaves[row]


def _image(space: gym.Space, camera: str, root: Path) -> tuple[str, tuple[str, ...]]:
    """The entry of the observations that holds the frames, and all that do; empty where the observation is the frame."""
    if not isinstance(space, gym.spaces.Dict):
        if camera or not _is_image(space):
            raise UserError(f"{root}: observations are {space}, but frames, uint8 [H, W, 3], are needed")
        return "", ()
    images = [name for name, entry in space.spaces.items() if _is_image(entry)]
    if camera not in images and (camera or len(images) != 1):
        raise UserError(f"{root} has the frames {images} in its observations: choose with collect.recording_camera")
    chosen = camera or images[0]
    return chosen, (chosen, *(name for name in images if name != chosen))


def _is_image(space: Any) -> bool:
    return (
        isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3
        and space.shape[2] == 3 and 0 < space.shape[0] * space.shape[1] <= MAX_PIXELS
    )  # fmt: skip


def _refuse_foreign(group: Any, path: Path) -> None:
    h5py = optional("h5py", "recordings", "reading Minari data sets")
    for name in group:
        refuse_foreign(group.get(name, getlink=True), group, name, path)
        if isinstance(group[name], h5py.Group):
            _refuse_foreign(group[name], path)
