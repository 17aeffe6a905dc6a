"""Actions in text files: .csv, .json and .jsonl. Rows are counted from 0 in messages, without a header."""

import csv
import json
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from oniris_core.collection.recordings.files.checks import NAMES, lines_of, pick, refuse_large
from oniris_core.common.errors import UserError

WHOLE = re.compile(r"[+-]?\d+")
COMMA = re.compile(r"[+-]?\d+,\d+")


def read_csv(path: Path, key: str) -> np.ndarray:
    """The actions in a table with commas, semicolons or tabs: [rows] or [rows, columns].

    With a header, they are the column `key` (by default `actions` or `action`), the columns that `key` lists with commas
    between them, or those that begin with such a name and go on with a number, as action_0 and action_1. Without one, every
    column is an action's component.

    Raises:
        UserError: not text, no such column, or a row that is not of numbers or has another number of cells.
    """
    rows = _cells(path)
    first = next(rows, None)
    if first is None:
        raise UserError(f"{path} is empty: one row of actions a frame is needed")
    numbers = [_number(cell) for cell in first]
    if not any(COMMA.fullmatch(cell) for cell in first) and None in numbers:
        chosen, width, number, before = _columns(first, key, path), len(first), 0, list[list[str]]()
    else:
        if key:
            raise UserError(f"{path} has no header, so no column '{key}': leave collect.recording_action_key empty")
        chosen, width, number, before = list(range(len(first))), len(first), 0, [first]
    values, whole = array("d"), True
    for row in (*before, *rows) if before else rows:
        if len(row) != width:
            raise UserError(
                f"{path}, row {number} has {len(row)} cells, but {width} are needed; a decimal is 0.5, not 0,5"
            )
        wanted = [row[i] for i in chosen]
        found = [_number(cell) for cell in wanted]
        for cell, value in zip(wanted, found, strict=True):
            if value is None:
                why = "has a decimal comma; write 0.5, not 0,5" if COMMA.fullmatch(cell) else "is not a number"
                raise UserError(f"{path}, row {number}: '{cell[:40]}' {why}")
        whole = whole and all(WHOLE.fullmatch(cell) for cell in wanted)
        values.extend(value for value in found if value is not None)
        number += 1
    if not values:
        raise UserError(f"{path} has a header, but no rows: one row of actions a frame is needed")
    table = np.array(values).reshape(-1, len(chosen))
    table = table.astype(np.int64) if whole and np.abs(table).max() < 2**53 else table
    return table[:, 0] if table.shape[1] == 1 and not key.count(",") else table


def _columns(header: list[str], key: str, path: Path) -> list[int]:
    for name in (key,) if key else NAMES:
        if name in header:
            return [header.index(name)]
        numbered = [i for i, cell in enumerate(header) if re.fullmatch(re.escape(name) + r"[ _.\-\[(]*\d+[\])]?", cell)]
        if numbered:
            return numbered
    if "," in key:
        return [header.index(pick(header, name.strip(), str(path))) for name in key.split(",")]
    pick(header, key, str(path))
    raise AssertionError


def _number(cell: str) -> float | None:
    try:
        return float(cell) if "_" not in cell else None
    except ValueError:
        return None


def _cells(path: Path) -> Iterator[list[str]]:
    refuse_large(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = next(lines_of(file, path), "")
            file.seek(0)
            mark = next((mark for mark in ("\t", ";") if mark in first), ",")
            for row in csv.reader(lines_of(file, path), delimiter=mark):
                if row:
                    yield [cell.strip() for cell in row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table of text: {error}") from None


def read_json(path: Path, key: str) -> np.ndarray:
    """The actions in a JSON file: a list of them, an object that has it under `key`, or a list of objects that have one.

    Raises:
        UserError: not JSON, no such entry, or actions of several lengths.
    """
    refuse_large(path)
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not JSON: a list of actions is needed, such as [0, 1, 1]") from None
    if isinstance(value, dict):
        value = value[pick(list(value), key, str(path))]
    if not isinstance(value, list):
        raise UserError(f"{path} has no list of actions, such as [0, 1, 1]")
    return _array(
        path, (_entry(entry, key, path, row) if isinstance(entry, dict) else entry for row, entry in enumerate(value))
    )


def read_jsonl(path: Path, key: str) -> np.ndarray:
    """The value `key` (by default `actions` or `action`) of the object on every line.

    Raises:
        UserError: not UTF-8 or absurdly large; or a line that is not an object with that key.
    """
    refuse_large(path)
    return _array(path, _lines(path, key))


def _lines(path: Path, key: str) -> Iterator[Any]:
    try:
        with path.open(encoding="utf-8") as file:
            for row, line in enumerate(lines_of(file, path)):
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    raise UserError(f"{path}, row {row} is not JSON: one object a line is needed") from None
                yield _entry(value, key, path, row)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read as lines of numbers: {error}") from None


def _entry(value: Any, key: str, path: Path, row: int) -> Any:
    if not isinstance(value, dict):
        raise UserError(f'{path}, row {row} is not a JSON object such as {{"action": 1}}')
    return value[pick(list(value), key, f"{path}, row {row}")]


def _array(path: Path, entries: Iterator[Any]) -> np.ndarray:
    values, lengths = list[Any](), set[int]()
    for row, entry in enumerate(entries):
        values.append(entry)
        lengths.add(len(entry) if isinstance(entry, list) else -1)
        if len(lengths) > 1:
            raise UserError(f"{path}, row {row}: the action has another number of components than before")
        if any(not isinstance(number, int | float) for number in (entry if isinstance(entry, list) else [entry])):
            raise UserError(f"{path}, row {row}: the action {str(entry)[:40]} is not a number or a list of them")
    try:
        return np.array(values)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path} cannot be read as lines of numbers: {' '.join(str(error).split())}") from None
