"""What files of strangers are asked before they are read: which entry holds the actions, how large it says it is."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np

from oniris_core.collection.recordings.files.recording import MAX_BYTES, MAX_LINE, MAX_TEXT
from oniris_core.common.errors import UserError

NAMES = ("actions", "action")


def pick(names: list[str], key: str, where: str) -> str:
    """The name of the actions among `names`: `key`, or one of the usual ones if that is empty."""
    found = [name for name in ((key,) if key else NAMES) if name in names]
    if not found:
        wanted = f"'{key}'" if key else " or ".join(f"'{name}'" for name in NAMES)
        there = ", ".join(f"'{name}'" for name in names[:10]) or "nothing"
        raise UserError(f"{where} has no {wanted}, but {there}; name it with collect.recording_action_key")
    return found[0]


def refuse_absurd(shape: tuple[int, ...], dtype: np.dtype, where: str, most: int = MAX_BYTES) -> None:
    """Raise UserError for an array of objects, or one that declares more bytes than `most`."""
    if dtype.hasobject:
        raise UserError(f"{where} is of type {dtype}, which can hold code; numbers are needed")
    size = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
    if size > most:
        raise UserError(f"{where} declares the shape {shape}, {size} bytes; at most {most} are read")


def refuse_large(path: Path) -> None:
    """Raise UserError for a file of text of more bytes than MAX_TEXT."""
    if path.stat().st_size > MAX_TEXT:
        raise UserError(
            f"{path} has {path.stat().st_size} bytes; at most {MAX_TEXT} of text are read: keep numbers as .npy or .parquet"
        )


def lines_of(file: TextIO, path: Path) -> Iterator[str]:
    """The lines of a text, one by one.

    Raises:
        UserError: one of them has no end in sight.
    """
    row = 0
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE and not line.endswith("\n"):
            raise UserError(f"{path}, line {row} has more than {MAX_LINE} characters, so it is no row of actions")
        yield line
        row += 1


def natural(path: Path) -> list[tuple[int, int, str]]:
    """A key to sort by in which numbers count: 2 comes before 10."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def visible(root: Path) -> list[Path]:
    """The files below a folder, in natural order, without hidden ones.

    Raises:
        UserError: a link leads out of the folder.
    """
    found = []
    for path in root.rglob("*"):
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(root).parts):
            continue
        refuse_outside(path, root)
        found.append(path)
    return sorted(found, key=lambda path: natural(path.relative_to(root)))


def refuse_outside(path: Path, root: Path) -> None:
    """Raise UserError for a link inside the folder `root` that leads out of it."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{path} is a link that leads out of {root}, which is not followed: copy the file instead")
