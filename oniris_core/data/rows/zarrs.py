"""The one way Oniris lays out arrays in Zarr: few files, checksummed chunks, small arrays in one piece."""

import asyncio
import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.errors
from zarr.abc.store import ByteRequest, Store
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, MemoryStore, WrapperStore

from oniris_core.common.artefacts.files import open_artefact
from oniris_core.common.artefacts.remote import Location, open_artefact_at, staged_at, trouble
from oniris_core.common.errors import OnirisError, UserError
from oniris_core.data.rows.sharded import sharded

ROWS_PER_CHUNK, LEAST_CHUNK_BYTES = 16, 2**14
"""Rows that are decompressed together; of tiny rows more, as each chunk takes 20 us however small it is."""
ROWS_PER_SHARD = 1024
MOST_SHARDS, MOST_SHARD_BYTES = 512, 2**28
"""Shards of a store are as large as it takes to be so few, but not larger: several times that is held while one is written."""
PRELOAD_BYTES = 4 * 2**30
"""Arrays up to this size are read into memory at once, which is several times faster to sample from."""


@contextlib.contextmanager
def new_store(out: Location, kind: str) -> Iterator[zarr.Group]:
    """Yield an empty group to fill; on success it is put in place of `out`, on any exception removed."""
    with staged_at(out, kind) as folder:
        try:
            yield zarr.open_group(folder, mode="w-", zarr_format=3)
        except BaseException:
            sync(_all_done())  # the first write that fails is told at once: the others would write into what is removed
            raise


async def _all_done() -> None:
    """Wait for everything else that Zarr's event loop has begun."""
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)


def add_rows(group: zarr.Group, name: str, shape: tuple[int, ...], dtype: Any) -> zarr.Array:
    """An array of large rows along time, in shards of chunks."""
    row_bytes = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
    chunk, shard = rows_per_chunk(row_bytes), rows_per_shard(shape[0], row_bytes)
    return group.create_array(
        name, shape=shape, dtype=dtype, chunks=(chunk, *shape[1:]), shards=(shard, *shape[1:]),
        compressors=ZstdCodec(level=3, checksum=True), fill_value=0, config={"write_empty_chunks": True},
    )  # fmt: skip


def rows_per_chunk(row_bytes: int) -> int:
    """Rows of a chunk, of which a shard has a whole number: `ROWS_PER_CHUNK`, doubled until they are no longer tiny."""
    rows = ROWS_PER_CHUNK
    while rows * row_bytes < LEAST_CHUNK_BYTES and rows < ROWS_PER_SHARD:
        rows *= 2
    return rows


def rows_per_shard(rows: int, row_bytes: int) -> int:
    """Rows of a shard: a multiple of `ROWS_PER_SHARD`, so large that there are few, as far as their size allows.

    Args:
        rows: of the array.
        row_bytes: of one row.
    """
    wanted, most = -(-rows // (MOST_SHARDS * ROWS_PER_SHARD)), MOST_SHARD_BYTES // max(row_bytes * ROWS_PER_SHARD, 1)
    return ROWS_PER_SHARD * max(min(wanted, most), 1)


def add_small(group: zarr.Group, name: str, values: np.ndarray) -> None:
    """A small array, in one chunk."""
    chunks = tuple(max(size, 1) for size in values.shape)
    array = group.create_array(
        name, shape=values.shape, dtype=values.dtype, chunks=chunks,
        compressors=ZstdCodec(level=3, checksum=True), fill_value=0, config={"write_empty_chunks": True},
    )  # fmt: skip
    if values.size:
        array[...] = values


def finish(group: zarr.Group, attributes: dict[str, Any]) -> None:
    """Record the attributes, `complete` last, and one copy of all metadata in the root.

    With that copy readers list the arrays without looking at the folder, where they would stumble over the manifest.
    """
    group.attrs.update(attributes)
    group.attrs["complete"] = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)  # "not part of the specification yet"
        zarr.consolidate_metadata(group.store)


class RowWriter:
    """Appends rows to an array of known length and writes whole shards only."""

    def __init__(self, array: zarr.Array):
        assert array.shards is not None
        self._array, self._shard = array, int(array.shards[0])
        self._pending, self._waiting, self._written = list[np.ndarray](), 0, 0

    def append(self, rows: np.ndarray) -> None:
        """Take rows [n, ...]; whatever fills a shard is written."""
        self._pending.append(rows)
        self._waiting += len(rows)
        if self._waiting >= self._shard:
            self._flush(whole_shards_only=True)

    def close(self) -> None:
        """Write the rest and check that every row has come."""
        self._flush(whole_shards_only=False)
        assert self._written == self._array.shape[0], f"{self._written} rows of {self._array.shape[0]} written"

    def _flush(self, whole_shards_only: bool) -> None:
        rows = np.concatenate(self._pending) if self._pending else np.zeros((0, *self._array.shape[1:]))
        count = len(rows) // self._shard * self._shard if whole_shards_only else len(rows)
        if count:
            self._array[self._written : self._written + count] = rows[:count]
        self._written, self._waiting = self._written + count, len(rows) - count
        self._pending = [rows[count:]] if count < len(rows) else []


def open_store(place: Location, kind: str, made_by: str) -> tuple[zarr.Group, str]:
    """The group of a checked store, on this disk or elsewhere, and the store's identity.

    Raises:
        UserError: missing, damaged, not complete, or of another kind.
    """
    if isinstance(place, Path):
        artefact = open_artefact(place, kind, made_by)
        return zarr.open_group(_Whole(LocalStore(place, read_only=True), place), mode="r"), artefact.identity
    opened = open_artefact_at(place, kind, made_by)
    if opened.kept is None:
        store = FsspecStore.from_url(place.url, read_only=True)
        return zarr.open_group(_Whole(store, place), mode="r"), opened.identity
    prototype = default_buffer_prototype()
    kept = {name: prototype.buffer.from_bytes(data) for name, data in opened.kept.items()}
    return zarr.open_group(MemoryStore(kept, read_only=True), mode="r"), opened.identity


class _Whole(WrapperStore[Store]):
    """A store that was found whole and is read piece by piece: where a piece is gone Zarr itself would find zeros."""

    def __init__(self, store: Store, place: Location):
        super().__init__(store)
        self._place = place

    def _with_store(self, store: Store) -> "_Whole":
        return _Whole(store, self._place)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        with contextlib.nullcontext() if isinstance(self._place, Path) else trouble(self._place, "read"):
            found = await super().get(key, prototype, byte_range)
        if not found and not key.endswith(_ABOUT):  # where a file is empty Zarr finds zeros too
            raise OnirisError(
                f"{self._place} was damaged while it was read: {key} is {'gone' if found is None else 'empty'}"
            )
        return found

    def __str__(self) -> str:
        return str(self._place)


_ABOUT = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")
"""Files that Zarr looks for without knowing that they are there."""


class Rows:
    """A large array of a checked store, read from its files by slicing; its size and type are told as an array tells them."""

    def __init__(self, array: zarr.Array):
        self._array = array
        self.shape, self.dtype, self.nbytes = array.shape, array.dtype, array.nbytes

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        try:
            return np.asarray(self._array[rows])
        except (OnirisError, OSError, IndexError, MemoryError):
            raise
        except Exception as error:  # a codec's own word for bytes that are others than were written
            raise OnirisError(
                f"{self._array.store_path} was damaged while it was read: {type(error).__name__}: "
                f"{' '.join(str(error).split())}"
            ) from error


def array(group: zarr.Group, name: str) -> zarr.Array:
    """The array `name` of a group, not read yet.

    Raises:
        UserError: there is no such array.
    """
    found = group.get(name)
    if not isinstance(found, zarr.Array):
        raise UserError(f"{group.store_path} has no array '{name}', so it is not a store of the kind it claims to be")
    return found


def read(group: zarr.Group, name: str) -> np.ndarray:
    """The values of the array `name` of a group."""
    return np.asarray(array(group, name)[...])


def preload(array: zarr.Array) -> Any:
    """The array in memory if it is small enough, else as it is on the disk; both are read by slicing."""
    direct = sharded(array)
    if array.nbytes <= PRELOAD_BYTES:
        return array[...] if direct is None else direct[:]
    return Rows(array) if direct is None else direct
