"""Artefacts elsewhere: at any URL that fsspec opens (`s3://bucket/episodes.zarr`), under the same contract as on this disk.

Writing: the artefact is built and its manifest made on this disk (in `runs/`), then uploaded, the manifest last. Until that
has arrived, readers refuse what is there. Replacing is not atomic as on a disk: the old manifest goes first.
Reading: the files there are compared with the manifest by name and size, then each is read once and its SHA-256 compared,
before anything is used. Up to KEEP_BYTES the very bytes that were checked are kept and used; beyond, they are read again as
they are needed, and what is changed in between shows only in a chunk's own checksum.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oniris_core.common.artefacts.files import (
    MANIFEST,
    check_files,
    read_manifest,
    refuse_unwritable,
    staged_folder,
)
from oniris_core.common.errors import OnirisError, UserError
from oniris_core.common.process import stopped_at_once
from oniris_core.common.progress import meter

KEEP_BYTES = 4 * 2**30
"""Checked bytes up to this are kept in memory, so that nothing is fetched twice."""

WRITING = MANIFEST + ".partial"
"""Lies beside the files while they are uploaded: what a killed upload left may be replaced, a stranger's files may not."""

_PIECE = 8 * 2**20

_TRIES = 2
"""Of each of two layers of s3fs, around five of its S3 client with up to 15 s each: its own 5 make half an hour of silence of
a server that takes requests and never answers, these 5 minutes."""


@dataclass(frozen=True)
class Remote:
    """A folder at a URL."""

    url: str

    def __str__(self) -> str:
        return self.url

    def resolve(self) -> "Remote":
        """Itself: a URL is absolute."""
        return self


Location = Path | Remote
"""Where an artefact is: on this disk or at a URL."""


def location(text: str | Path | Remote) -> Location:
    """A path, or a URL if there is `://` in it."""
    if isinstance(text, str):
        return Remote(text.rstrip("/")) if "://" in text else Path(text)
    return text


def storage(remote: Remote) -> tuple[Any, str]:
    """fsspec's file system of a URL and the path in it.

    Raises:
        UserError: nobody knows that kind of URL, the package for it is missing, or it names no folder.
    """
    import fsspec  # here, because only some need it and --help should answer at once

    scheme = remote.url.partition("://")[0]
    try:
        options = {"auto_mkdir": True} if scheme in ("file", "local") else {}
        found, path = fsspec.url_to_fs(remote.url, **options)
    except ImportError as error:
        extra = "pip install '.[remote]'" if scheme in ("s3", "s3a") else " ".join(str(error).split())
        raise UserError(f"{remote}: the package for {scheme}:// is missing: {extra}") from None
    except Exception as error:  # every kind of storage refuses in its own way
        raise UserError(f"{remote} is not a URL that can be opened: {' '.join(str(error).split())}") from None
    if not path.strip("/") or (scheme in ("s3", "s3a") and "/" not in path.strip("/")):
        raise UserError(f"{remote} names no folder: a URL such as s3://bucket/episodes.zarr is needed")
    if scheme in ("s3", "s3a"):
        type(found).retries = _TRIES
    found.invalidate_cache()
    return found, str(path)


@contextlib.contextmanager
def trouble(remote: Remote, doing: str) -> Iterator[None]:
    """One line for whatever a storage's own library raises."""
    try:
        yield
    except OnirisError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"cannot {doing} {remote}: {_line(error)}; is there such a bucket?") from None
    except PermissionError as error:
        raise UserError(f"cannot {doing} {remote}: {_line(error)}; are the credentials right?") from None
    except Exception as error:
        name = type(error).__name__
        if "Credentials" in name:
            raise UserError(
                f"cannot {doing} {remote}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from None
        raise OnirisError(f"cannot {doing} {remote}: {name}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def refuse_unwritable_at(out: Location) -> None:
    """Raise UserError unless an artefact can be made at `out`, before hours of work for it."""
    if isinstance(out, Path):
        refuse_unwritable(out)
        return
    files, path = storage(out)
    with trouble(out, "write"):
        present = _names(files, path)
        if present and not {MANIFEST, WRITING} & present.keys():
            raise UserError(
                f"cannot write {out}: what is there was not made by Oniris; remove it or choose another URL"
            )
        # Not inside the folder: a reader may be looking at what is there.
        files.pipe_file(f"{path}.probe", b"")
        files.rm_file(f"{path}.probe")


@contextlib.contextmanager
def staged_at(out: Location, kind: str) -> Iterator[Path]:
    """Yield an empty folder to fill; on success it becomes the artefact of this `kind` at `out`.

    On any exception before the upload begins, what stood at `out` is untouched; after that it is an upload that readers
    refuse, and that the same command replaces.
    """
    if isinstance(out, Path):
        with staged_folder(out, kind) as folder:
            yield folder
        return
    digest = hashlib.sha256(out.url.encode()).hexdigest()[:12]
    built = Path(os.environ.get("ONIRIS_RUNS", "runs")) / "upload" / digest
    try:
        with staged_folder(built, kind) as folder:
            yield folder
        _upload(built, out)
    finally:
        shutil.rmtree(built, ignore_errors=True)


def _upload(built: Path, out: Remote) -> None:
    files, path = storage(out)
    names = sorted(p.relative_to(built).as_posix() for p in built.rglob("*") if p.is_file())
    names.remove(MANIFEST)
    # An upload that ends anywhere is refused by readers and made again, so there is nothing to wait for.
    with stopped_at_once(), trouble(out, "write"), meter("uploading: files", len(names) + 1) as progress:
        files.pipe_file(f"{path}/{WRITING}", b"")
        present = _names(files, path)
        for name in sorted(present.keys() - {WRITING}, key=lambda name: name != MANIFEST):
            files.rm_file(f"{path}/{name}")
        for name in [*names, MANIFEST]:
            files.put_file(str(built / name), f"{path}/{name}")
            progress.advance()
        files.rm_file(f"{path}/{WRITING}")


def _names(files: Any, path: str) -> dict[str, int]:
    """The files below a folder and their sizes; none if there is no such folder.

    Raises:
        FileNotFoundError: the bucket itself does not exist, where a storage has such a thing.
    """
    files.invalidate_cache()
    found = files.find(path, detail=True)
    return {name.removeprefix(path).lstrip("/"): int(entry["size"]) for name, entry in found.items()}


@dataclass(frozen=True)
class Opened:
    """A remote artefact that was found whole.

    Attributes:
        identity: the digest of its manifest.
        kept: the checked bytes by name of the file, or None where they were too many to keep.
    """

    identity: str
    kept: dict[str, bytes] | None


def open_artefact_at(remote: Remote, kind: str, made_by: str) -> Opened:
    """Check the artefact at a URL against its manifest; every file is read.

    Raises:
        UserError: missing, of another kind, not complete, or any file missing, added or changed.
    """
    files, path = storage(remote)
    again = f"run `python -m stages.{made_by} --out {remote}`"
    with trouble(remote, "read"):
        present = _names(files, path)
        begun = present.pop(WRITING, None) is not None
        if not present and not begun:
            raise UserError(f"{remote} is missing: {again} to make it")
        if MANIFEST not in present:
            raise UserError(f"{remote} is not complete (it has no {MANIFEST}): {again} to make it again")
        text = files.cat_file(f"{path}/{MANIFEST}")
        described = read_manifest(text, str(remote), kind, again)
        del present[MANIFEST]
        sizes = {name: entry["bytes"] for name, entry in described.items()}
        check_files(str(remote), sizes, present, again)
        keep = sum(present.values()) <= KEEP_BYTES
        kept, digests = dict[str, bytes](), dict[str, object]()
        with meter(f"checking {remote}: files", len(present)) as progress:
            for name in sorted(present):
                found = hashlib.sha256()
                pieces = list[bytes]()
                with files.open(f"{path}/{name}", "rb", block_size=_PIECE, cache_type="readahead") as file:
                    while piece := file.read(_PIECE):
                        found.update(piece)
                        if keep:
                            pieces.append(piece)
                digests[name] = {"bytes": present[name], "sha256": found.hexdigest()}
                if keep:
                    kept[name] = b"".join(pieces)
                progress.advance()
        check_files(str(remote), described, digests, again)
    return Opened(hashlib.sha256(text).hexdigest(), kept if keep else None)
