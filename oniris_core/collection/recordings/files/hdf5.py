"""HDF5 files from strangers: no links that lead out of the file, no objects, no arrays of absurd size."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from oniris_core.collection.recordings.files.checks import refuse_absurd
from oniris_core.common.errors import UserError
from oniris_core.common.optional import optional


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """An HDF5 file, open for reading.

    Raises:
        UserError: not an HDF5 file, or trouble while it is read.
    """
    h5py = optional("h5py", "recordings", "reading HDF5 files")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} cannot be read as HDF5: {' '.join(str(error).split())}") from None


def dataset(file: Any, name: str, path: Path, rows: bool = False) -> Any:
    """The dataset `name` of an open file, not read yet.

    Args:
        file: from `open_hdf5`.
        name: its path in the file.
        path: of the file, for messages.
        rows: it is read row by row, so only a row must be of a sane size.

    Raises:
        UserError: missing, a link, data kept in another file, not of numbers, or absurdly large.
    """
    h5py = optional("h5py", "recordings", "reading HDF5 files")
    found = _found(file, name, path)
    if not isinstance(found, h5py.Dataset):
        raise UserError(f"{path}: '{name}' is not an array")
    shape = found.shape or ()
    refuse_absurd(shape[1:] if rows else shape, found.dtype, f"{path}: '{name}'")
    if found.chunks:
        refuse_absurd(found.chunks, found.dtype, f"{path}: a chunk of '{name}'")
    return found


def group(file: Any, name: str, path: Path) -> Any:
    """The group `name` of an open file.

    Raises:
        UserError: missing, a link, or not a group.
    """
    h5py = optional("h5py", "recordings", "reading HDF5 files")
    found = _found(file, name, path)
    if not isinstance(found, h5py.Group):
        raise UserError(f"{path}: '{name}' is not a group")
    return found


def _found(file: Any, name: str, path: Path) -> Any:
    at = file
    for part in name.split("/"):
        link = at.get(part, getlink=True) if hasattr(at, "keys") else None
        if link is None:
            raise UserError(f"{path} has no '{name}', so it is not a recording of the layout asked for")
        refuse_foreign(link, at, part, path)
        at = at[part]
    return at


def refuse_foreign(link: Any, file: Any, name: str, path: Path) -> None:
    """Raise UserError if what `link` names lies elsewhere, in this file or in another one."""
    h5py = optional("h5py", "recordings", "reading HDF5 files")
    if not isinstance(link, h5py.HardLink):
        raise UserError(f"{path}: '{name}' is a link to somewhere else, which is not followed")
    found = file[name]
    if isinstance(found, h5py.Dataset) and (found.is_virtual or found.external):
        raise UserError(f"{path}: '{name}' is kept in another file, which is not read")


def values(found: Any) -> np.ndarray:
    """All values of a dataset that `dataset` has checked."""
    return np.asarray(found[()])


def streamed(found: Any) -> Iterator[np.ndarray]:
    """The rows of a dataset one by one, read in the blocks it is kept in."""
    step = max(found.chunks[0] if found.chunks else 1, min(16, 2**24 // max(int(np.prod(found.shape[1:])), 1)), 1)
    for start in range(0, found.shape[0], step):
        yield from np.asarray(found[start : start + step])
