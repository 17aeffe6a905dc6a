"""Actions beside a video: npz, parquet or jsonl."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from oniris_core.common.errors import UserError
from oniris_core.common.optional import optional
from oniris_core.data.recordings.recording import MAX_BYTES

NAMES = ("actions", "action")


def read_npz(path: Path, key: str) -> np.ndarray:
    """The array `key` (by default `actions` or `action`) of an npz file. Objects, that is code, are never loaded.

    Raises:
        UserError: not an npz file, no such array, of objects, or absurdly large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name.removesuffix(".npy") for name in archive.namelist()]
            name = pick(members, key, str(path))
            with archive.open(name + ".npy") as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
        refuse_absurd(shape, dtype, f"{path}: array '{name}'")
        with np.load(path, allow_pickle=False) as archive:
            return np.asarray(archive[name])
    except UserError:
        raise
    except Exception as error:  # a damaged archive fails in many ways
        raise UserError(f"{path} cannot be read as an npz file of arrays: {' '.join(str(error).split())}") from None


def read_parquet(path: Path, columns: tuple[str, ...], key: str) -> dict[str, np.ndarray]:
    """Columns of numbers or of equally long lists of them; the one of the actions under the name "action".

    Args:
        path: the file.
        columns: read where they exist.
        key: the column of the actions (by default `actions` or `action`).

    Raises:
        UserError: not a parquet file, no such column, empty cells, lists of different lengths, or absurdly large.
    """
    parquet = optional("pyarrow.parquet", "recordings", "reading parquet files")
    try:
        with parquet.ParquetFile(path) as file:
            chosen = pick(file.schema_arrow.names, key, str(path))
            rows = file.metadata.num_rows
            declared = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
            if declared > MAX_BYTES or rows > MAX_BYTES // 8:
                raise UserError(f"{path} declares {rows} rows of {declared} bytes in all; at most {MAX_BYTES} are read")
            wanted = [chosen, *(name for name in columns if name in file.schema_arrow.names and name != chosen)]
            table = file.read(columns=wanted)
            found = {}
            for name in wanted:
                column = table.column(name)
                if column.null_count:
                    raise UserError(f"{path}: column '{name}' has {column.null_count} empty cells")
                found["action" if name == chosen else name] = np.array(column.to_pylist())
            return found
    except UserError:
        raise
    except Exception as error:  # Arrow's own errors, and lists of different lengths
        raise UserError(f"{path} cannot be read as a parquet table of numbers: {' '.join(str(error).split())}") from None


def read_jsonl(path: Path, key: str) -> np.ndarray:
    """The value `key` (by default `actions` or `action`) of the object on every line.

    Raises:
        UserError: not UTF-8 or absurdly large; or a line (counted from 0, as rows) that is not an object with that key.
    """
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path} has {path.stat().st_size} bytes; at most {MAX_BYTES} are read")
    values, lengths = list[Any](), set[int]()
    try:
        with path.open(encoding="utf-8") as file:
            for row, line in enumerate(file):
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    raise UserError(f"{path}, row {row} is not JSON: one object a line is needed") from None
                if not isinstance(value, dict):
                    raise UserError(f"{path}, row {row} is not a JSON object such as {{\"action\": 1}}")
                values.append(value[pick(list(value), key, f"{path}, row {row}")])
                lengths.add(len(values[-1]) if isinstance(values[-1], list) else -1)
                if len(lengths) > 1:
                    raise UserError(f"{path}, row {row}: the action has another number of components than before")
        return np.array(values)
    except UserError:
        raise
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path} cannot be read as lines of numbers: {' '.join(str(error).split())}") from None


def pick(names: list[str], key: str, where: str) -> str:
    """The name of the actions among `names`: `key`, or one of the usual ones if that is empty."""
    found = [name for name in ((key,) if key else NAMES) if name in names]
    if not found:
        wanted = f"'{key}'" if key else " or ".join(f"'{name}'" for name in NAMES)
        there = ", ".join(f"'{name}'" for name in names[:10]) or "nothing"
        raise UserError(f"{where} has no {wanted}, but {there}; name it with collect.recording_action_key")
    return found[0]


def refuse_absurd(shape: tuple[int, ...], dtype: np.dtype, where: str) -> None:
    """Raise UserError for an array of objects, or one that declares more bytes than MAX_BYTES."""
    if dtype.hasobject:
        raise UserError(f"{where} is of type {dtype}, which can hold code; numbers are needed")
    size = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
    if size > MAX_BYTES:
        raise UserError(f"{where} declares the shape {shape}, {size} bytes; at most {MAX_BYTES} are read")
