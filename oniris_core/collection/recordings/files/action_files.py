"""Actions beside a film: one file for each, found by its name, in whichever of the usual formats."""

from pathlib import Path

import numpy as np

from oniris_core.collection.recordings.files.numpy_files import read_npy, read_npz
from oniris_core.collection.recordings.files.parquet import read_parquet
from oniris_core.collection.recordings.files.spaces import numbers
from oniris_core.collection.recordings.files.text_tables import read_csv, read_json, read_jsonl
from oniris_core.common.errors import UserError

TABLES = (".npz", ".npy", ".csv", ".tsv", ".parquet", ".json", ".jsonl")


def is_table(path: Path) -> bool:
    """Whether the ending, in whatever case, is that of a file of actions."""
    return path.suffix.lower() in TABLES


def only_table(found: list[Path], film: Path, stem: str) -> Path:
    """The one file of actions of a film.

    Raises:
        UserError: there are none or several.
    """
    if len(found) != 1:
        named = " and ".join(p.name for p in found) or "no file"
        raise UserError(f"{film} has {named} of actions beside it; it needs one: {stem}{{{','.join(TABLES)}}}")
    return found[0]


def read_actions(path: Path, key: str) -> np.ndarray:
    """Actions as `numbers` gives them.

    Args:
        path: the file.
        key: the entry or column that holds them (by default `actions` or `action`); a .npy file has only one array.

    Raises:
        UserError: not readable, or not numbers, or not finite.
    """
    ending = path.suffix.lower()
    if ending == ".npz":
        values = read_npz(path, key)
    elif ending == ".npy":
        values = read_npy(path)
    elif ending == ".parquet":
        values = read_parquet(path, (), key)["action"]
    elif ending == ".json":
        values = read_json(path, key)
    elif ending == ".jsonl":
        values = read_jsonl(path, key)
    else:
        values = read_csv(path, key)
    return numbers(values, str(path))
