"""Columns of parquet files from strangers: sizes are read before values, and pictures come batch by batch."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from oniris_core.collection.recordings.files.checks import pick
from oniris_core.collection.recordings.files.recording import MAX_BYTES
from oniris_core.common.errors import UserError
from oniris_core.common.optional import optional

BATCH = 16
"""Rows with a picture in them that are held at once, unless they might be large."""

MAX_VALUES = 2**27
"""Numbers in a column of a file. What they take in the file says nothing: a billion times the same number takes a few bytes."""


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    parquet = optional("pyarrow.parquet", "recordings", "reading parquet files")
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except UserError:
        raise
    except Exception as error:  # Arrow's own errors, and lists of different lengths
        raise UserError(
            f"{path} cannot be read as a parquet table of numbers: {' '.join(str(error).split())}"
        ) from None


def read_parquet(path: Path, columns: tuple[str, ...], key: str) -> dict[str, np.ndarray]:
    """Columns of numbers or of equally long lists of them; the one of the actions under the name "action".

    Args:
        path: the file.
        columns: read where they exist and hold numbers.
        key: the column of the actions (by default `actions` or `action`).

    Raises:
        UserError: not a parquet file, no such column, empty cells, lists of different lengths, or absurdly large.
    """
    with _open(path) as file:
        chosen = pick(file.schema_arrow.names, key, str(path))
        numeric = [name for name in columns if name in file.schema_arrow.names and _numeric(file, name)]
        found = _columns(file, path, [chosen, *(name for name in numeric if name != chosen)])
        return {"action" if name == chosen else name: values for name, values in found.items()}


def read_columns(path: Path, columns: list[str]) -> dict[str, np.ndarray]:
    """Columns of numbers that must exist.

    Raises:
        UserError: not a parquet file, a missing column, empty cells, or absurdly large.
    """
    with _open(path) as file:
        for name in columns:
            pick(file.schema_arrow.names, name, str(path))
        return _columns(file, path, columns)


def column_names(path: Path) -> list[str]:
    """The columns a parquet file has."""
    with _open(path) as file:
        return list(file.schema_arrow.names)


def pictures(path: Path, column: str, start: int, count: int) -> Iterator[bytes]:
    """The encoded pictures in rows `start` to `start + count` of a column, as LeRobot keeps them: {bytes, path}.

    Raises:
        UserError: not such a column, a row without a picture, or fewer rows.
    """
    with _open(path) as file:
        pick(file.schema_arrow.names, column, str(path))
        row, end = 0, start + count
        groups = []
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row + rows > start and row < end:
                groups.append((group, row))
            row += rows
        if end > row:
            raise UserError(f"{path} has {row} rows, but rows {start} to {end - 1} are asked for")
        for group, row in groups:
            most = _refuse_absurd(file, path, [group], [column])  # bytes of a cell: a dictionary may repeat a large one
            rows = max(min(BATCH, 2**28 // max(most, 1)), 1)
            for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=[column]):
                for cell in batch.column(0):
                    if start <= row < end:
                        value = cell.as_py()
                        data = value.get("bytes") if isinstance(value, dict) else value
                        if not isinstance(data, bytes):
                            raise UserError(
                                f"{path}, row {row}: '{column}' holds no picture: files beside it are not read"
                            )
                        yield data
                    row += 1


def _numeric(file: Any, name: str) -> bool:
    types = optional("pyarrow", "recordings", "reading parquet files").types
    kind = file.schema_arrow.field(name).type
    while types.is_list(kind) or types.is_fixed_size_list(kind) or types.is_large_list(kind):
        kind = kind.value_type
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _refuse_absurd(file: Any, path: Path, groups: list[int], columns: list[str]) -> int:
    """The bytes that columns take in some row groups, by what the file declares; UserError where that is too much."""
    names, declared, values = {name.split(".")[0] for name in columns}, 0, dict[str, int]()
    for group in groups:
        for index in range(file.metadata.num_columns):
            found = file.metadata.row_group(group).column(index)
            if found.path_in_schema.split(".")[0] in names:
                declared += found.total_uncompressed_size
                values[found.path_in_schema] = values.get(found.path_in_schema, 0) + found.num_values
    rows, most = file.metadata.num_rows, max(values.values(), default=0)
    if declared > MAX_BYTES:
        raise UserError(f"{path} declares {rows} rows of {declared} bytes in all; at most {MAX_BYTES} are read")
    if max(most, rows) > MAX_VALUES:
        raise UserError(f"{path} declares {most} values in {rows} rows of a column; at most {MAX_VALUES} are read")
    return declared


def _columns(file: Any, path: Path, wanted: list[str]) -> dict[str, np.ndarray]:
    _refuse_absurd(file, path, list(range(file.metadata.num_row_groups)), wanted)
    table, found = file.read(columns=wanted), {}
    for name in wanted:
        column = table.column(name)
        if column.null_count:
            row = next(i for i, cell in enumerate(column) if not cell.is_valid)
            raise UserError(f"{path}, row {row}: column '{name}' has {column.null_count} empty cells")
        found[name] = _array(column.combine_chunks()) if column.type.num_fields else column.to_numpy()
    return found


def _array(column: Any) -> np.ndarray:
    """Equally long lists of numbers, or of such lists, as an array; without making a Python object of each of them."""
    compute = optional("pyarrow.compute", "recordings", "reading parquet files")
    shape = [len(column)]
    while column.type.num_fields:
        lengths = compute.unique(compute.list_value_length(column)).to_pylist()
        if len(lengths) > 1 or None in lengths:
            raise ValueError(f"lists of different lengths: {sorted(map(str, lengths))}")
        shape.append(lengths[0] if lengths else 0)
        column = column.flatten()
    return np.asarray(column.to_numpy(zero_copy_only=False)).reshape(shape)
