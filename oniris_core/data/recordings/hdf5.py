"""HDF5 files from strangers: no links that lead out of the file, no objects, no arrays of absurd size."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from oniris_core.common.errors import UserError
from oniris_core.common.optional import optional
from oniris_core.data.recordings.tables import refuse_absurd


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


def dataset(file: Any, name: str, path: Path) -> Any:
    """The dataset `name` of an open file, not read yet.

    Raises:
        UserError: missing, a link, data kept in another file, not of numbers, or absurdly large.
    """
    h5py = optional("h5py", "recordings", "reading HDF5 files")
    link = file.get(name, getlink=True)
    if link is None:
        raise UserError(f"{path} has no '{name}', so it is not a recording of the layout asked for")
    refuse_foreign(link, file, name, path)
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise UserError(f"{path}: '{name}' is not an array")
    refuse_absurd(found.shape or (), found.dtype, f"{path}: '{name}'")
    return found


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
