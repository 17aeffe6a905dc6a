"""Files that are either whole or absent: atomic writes, staged folders and their SHA-256 manifests.

An artefact is a folder. It is built beside its final path, its manifest (every file's size and SHA-256) is written last,
and one rename, or one exchange with what it replaces, puts it in place. A killed writer leaves a `.partial` folder that
no reader looks at and the next writer sweeps away. Readers compare the folder with its manifest before they use it, so
damage is reported and never read.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oniris_core.common.errors import OnirisError, UserError
from oniris_core.common.process import Claim

MANIFEST = "manifest.json"
SCHEMA = 1

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: object) -> str:
    """SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def to_json(value: object) -> str:
    """The one JSON form that artefacts use: indented, keys in the order given, one newline at the end."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader sees the old file or the new one, never a part of either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)  # on a full disk it would be in the way of everything else
        error.filename = error.filename or str(path)  # a failed write does not say itself where
        raise
    _fsync(path.parent)


def refuse_unwritable(path: Path) -> None:
    """Raise UserError unless a folder can be made at `path`: better before hours of work than after them.

    Only something Oniris made is ever replaced: a folder without a manifest is somebody else's, unless it is empty.
    """
    if path.is_file():
        raise UserError(f"cannot write {path}: a file is in the way; choose another output path")
    if path.is_mount():
        raise UserError(f"cannot write {path}: it is a mount point, which cannot be replaced; choose a path inside it")
    if path.is_dir() and any(path.iterdir()) and not (path / MANIFEST).is_file():
        raise UserError(f"cannot write {path}: that folder was not made by Oniris; remove it or choose another path")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()  # on Linux it has no name: a kill leaves nothing behind
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; choose another output path") from None


@contextlib.contextmanager
def staged_folder(path: Path, kind: str) -> Iterator[Path]:
    """Yield an empty folder to fill; on success give it a manifest of this `kind` and put it in place of `path`.

    On any exception the staged folder is removed and what stood at `path` is untouched.

    Raises:
        UserError: another process is filling it.
        OnirisError: it cannot be written, or somebody has removed it meanwhile: writers may have made it again without
            what was in it before.
    """
    partial, replaced = path.with_name(path.name + ".partial"), path.with_name(path.name + ".replaced")
    claim, placed = Claim(partial, path), False
    shutil.rmtree(replaced, ignore_errors=True)
    try:
        yield partial
        if not claim.holds():
            raise FileNotFoundError(partial)
        for file in sorted(partial.rglob("*")):
            _fsync(file)
        manifest = {"oniris": kind, "schema": SCHEMA, "files": _describe(partial)}
        atomic_write(partial / MANIFEST, to_json(manifest).encode())
        if not _exchange(partial, path):
            if path.exists():
                path.replace(replaced)
            partial.replace(path)
        placed = True
        _fsync(path.parent)
    except OnirisError:
        raise
    except Exception as error:
        if not (placed or claim.holds()):
            raise OnirisError(
                f"cannot write {path}: {partial} was removed while it was written; the same command makes it again"
            ) from error
        if not isinstance(error, OSError):
            raise
        raise OnirisError(
            f"cannot write {path}: {error.strerror or error}; what was there before is untouched"
        ) from error
    finally:
        claim.close()
        shutil.rmtree(replaced, ignore_errors=True)


def _exchange(staged: Path, path: Path) -> bool:
    """Swap two folders at once, so that a kill leaves one or the other under `path`.

    False where there is nothing to swap with, or the system cannot: then there is a moment without either.
    """
    if sys.platform != "linux" or not path.is_dir() or path.is_symlink():
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return bool(rename and rename(_AT_FDCWD, os.fsencode(staged), _AT_FDCWD, os.fsencode(path), _RENAME_EXCHANGE) == 0)


def _describe(folder: Path) -> dict[str, dict[str, object]]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    return {p.relative_to(folder).as_posix(): {"bytes": p.stat().st_size, "sha256": sha256_file(p)} for p in files}


@dataclass(frozen=True)
class Artefact:
    """A folder that was found whole: its path, its kind, and the digest of its manifest, which identifies its bytes."""

    path: Path
    kind: str
    identity: str


def open_artefact(path: Path, kind: str, made_by: str) -> Artefact:
    """Check the artefact at `path` against its manifest.

    Args:
        path: the folder.
        kind: what it must be: "episodes", "vae", "latents", "world" or "render".
        made_by: the stage that makes it, for the error message.

    Raises:
        UserError: missing, of another kind, not complete, or any file missing, added or changed.
    """
    again = f"run `dvc repro {made_by}` (or `python -m stages.{made_by}`)"
    if not path.exists():
        raise UserError(f"{path} is missing: {again} to make it")
    if not path.is_dir():
        raise UserError(f"{path} is a file, but a folder of kind '{kind}' is needed: {again} to make it")
    try:
        text = (path / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is not complete (it has no {MANIFEST}): {again} to make it again") from None
    except OSError:
        raise UserError(f"{path / MANIFEST} is damaged: {again} to make it again") from None
    check_files(str(path), read_manifest(text, str(path), kind, again), _describe(path), again)
    return Artefact(path, kind, hashlib.sha256(text).hexdigest())


def read_manifest(text: bytes, where: str, kind: str, again: str) -> dict[str, Any]:
    """What a manifest says of its files.

    Args:
        text: the manifest.
        where: the artefact, for messages.
        kind: what it must be.
        again: how it is made again, for messages.

    Raises:
        UserError: damaged, of another kind or schema.
    """
    try:
        manifest = json.loads(text)
        found_kind, schema, files = manifest["oniris"], manifest["schema"], dict(manifest["files"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{where}/{MANIFEST} is damaged: {again} to make it again") from None
    if found_kind != kind:
        raise UserError(f"{where} holds '{found_kind}', but '{kind}' is needed: {again} to make it")
    if schema != SCHEMA:
        raise UserError(f"{where} has schema version {schema}, this Oniris reads version {SCHEMA}: {again}")
    return files


def check_files(where: str, expected: Mapping[str, object], present: Mapping[str, object], again: str) -> None:
    """Compare the files of an artefact with what its manifest says of them.

    Raises:
        UserError: one is missing, added or changed; the first by name.
    """
    for name in sorted(expected.keys() | present.keys()):
        if name not in present:
            raise UserError(f"{where} is damaged: {name} is missing: {again} to make it again")
        if name not in expected:
            raise UserError(f"{where} is damaged: {name} does not belong there: {again} to make it again")
        if expected[name] != present[name]:
            raise UserError(f"{where} is damaged: {name} has changed since it was written: {again} to make it again")
