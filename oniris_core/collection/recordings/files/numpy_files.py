"""Arrays in .npy and .npz files from strangers: sizes are read before values, and objects, that is code, never."""

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from oniris_core.collection.recordings.files.checks import pick, refuse_absurd
from oniris_core.common.errors import UserError


def read_npy(path: Path) -> np.ndarray:
    """The array of a .npy file.

    Raises:
        UserError: no such file, of objects, or absurdly large.
    """
    with _trouble(path, "a .npy file"), path.open("rb") as file:
        return _values(file, str(path), path.stat().st_size)


def read_npz(path: Path, key: str) -> np.ndarray:
    """The array `key` (by default `actions` or `action`) of an npz file.

    Raises:
        UserError: not an npz file, no such array, of objects, or absurdly large.
    """
    with Npz(path) as archive:
        return archive.values(pick(archive.names, key, str(path)))


class Npz:
    """An npz file, open for reading, its arrays one by one or row by row.

    Raises:
        UserError: not an npz file, or trouble while it is read.
    """

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> "Npz":
        with self.trouble():
            self._zip = zipfile.ZipFile(self.path)
        self.names = [name.removesuffix(".npy") for name in self._zip.namelist()]
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def trouble(self) -> contextlib.AbstractContextManager[None]:
        """Turns whatever a damaged archive raises into a UserError."""
        return _trouble(self.path, "an npz file of arrays")

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        """Shape and type of an array, by what it says of itself."""
        with self.trouble(), self._zip.open(name + ".npy") as file:
            shape, _, dtype = _header(file)
            return shape, dtype

    def values(self, name: str) -> np.ndarray:
        """A whole array."""
        where = f"{self.path}: array '{name}'"
        with self.trouble(), self._zip.open(name + ".npy") as file:
            return _values(file, where, self._zip.getinfo(name + ".npy").file_size)

    def rows(self, name: str) -> Iterator[np.ndarray]:
        """The rows of an array one by one, without holding them all."""
        with self._zip.open(name + ".npy") as file:
            with self.trouble():
                shape, fortran, dtype = _header(file)
            row = int(np.prod(shape[1:], dtype=object)) * dtype.itemsize
            refuse_absurd(shape[1:], dtype, f"{self.path}: a row of '{name}'")
            if fortran:
                yield from self.values(name)
                return
            for index in range(shape[0]):
                with self.trouble():
                    data = file.read(row)
                if len(data) < row:
                    raise UserError(
                        f"{self.path} is damaged: '{name}' declares {shape[0]} rows, but ends in row {index}"
                    )
                yield np.frombuffer(data, dtype).reshape(shape[1:])


@contextlib.contextmanager
def _trouble(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a damaged archive fails in many ways
        raise UserError(f"{path} cannot be read as {what}: {' '.join(str(error).split())}") from None


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    found: tuple[tuple[int, ...], bool, np.dtype] = read(file)
    return found


def _values(file: IO[bytes], where: str, size: int) -> np.ndarray:
    shape, fortran, dtype = _header(file)
    refuse_absurd(shape, dtype, where)
    needed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if size < needed:  # before the memory for them is taken
        raise UserError(f"{where} declares the shape {shape}, {needed} bytes, but its file holds {size}: it is damaged")
    data: Any = file.read(needed)
    if len(data) < needed:
        raise UserError(f"{where} ends too early: it is damaged")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C").copy()
