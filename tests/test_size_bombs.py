"""Files of strangers that are small and would become huge, or never end: one line within seconds, nothing written."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oniris_core.collection.recordings.files.parquet import BATCH, pictures, read_parquet
from oniris_core.collection.recordings.files.recording import MAX_LINE, MAX_TEXT
from oniris_core.common.errors import UserError
from tests import recordings as made
from tests.conftest import Run
from tests.layouts import refused

SECONDS = 10
"""Two or so on a machine without other work; what is refused here would take minutes, or all of the memory."""


def film(root: Path, ending: str) -> Path:
    """The place for the actions of a video."""
    made.write_video(root / "a.mp4", made.pictures(np.zeros(9, int)))
    return root / f"a{ending}"


def many_rows(path: Path) -> None:
    """150 million rows of the same bit, in a megabyte or so."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"action": np.zeros(2**24, bool)})
    with pq.ParquetWriter(path, table.schema) as file:
        for _ in range(9):
            file.write_table(table, row_group_size=2**24)
    assert path.stat().st_size < 2**21


def sparse(path: Path) -> None:
    """More text than is read, none of which is on the disk."""
    with path.open("wb") as file:
        file.truncate(MAX_TEXT + 1)


@pytest.mark.parametrize(
    ("ending", "make", "why"),
    [
        (".parquet", many_rows, "a.parquet declares 150994944 values in 150994944 rows of a column; at most 134217728"),
        (".csv", lambda path: path.write_text("1," * MAX_LINE), f"a.csv, line 0 has more than {MAX_LINE} characters"),
        (".csv", lambda path: path.write_text("action\n1\n" + "1" * 2 * MAX_LINE), "a.csv, line 2 has more than"),
        (".jsonl", lambda path: path.write_text("[" + "1," * MAX_LINE), f"a.jsonl, line 0 has more than {MAX_LINE}"),
        (".csv", sparse, f"a.csv has {MAX_TEXT + 1} bytes; at most {MAX_TEXT} of text are read"),
        (".json", sparse, f"a.json has {MAX_TEXT + 1} bytes; at most {MAX_TEXT} of text are read"),
        (".jsonl", sparse, f"a.jsonl has {MAX_TEXT + 1} bytes; at most {MAX_TEXT} of text are read"),
    ],
    ids=["rows", "first_line", "later_line", "jsonl_line", "csv", "json", "jsonl"],
)
def test_files_that_would_become_huge_are_refused_at_once(
    ending: str, make: Callable[[Path], Any], why: str, params_only: Path, run: Run
) -> None:
    make(film(params_only / "in", ending))
    started = time.monotonic()
    message = refused(run, params_only, "videos", params_only / "in", "--held-out-share", 0)
    assert why in message, message
    assert time.monotonic() - started < SECONDS


def test_a_declared_size_is_believed_before_anything_is_read(params_only: Path, run: Run, monkeypatch: Any) -> None:
    """Bytes that a row group declares, of numbers and of pictures."""
    made.lerobot(params_only / "in", images=True)
    monkeypatch.setattr("oniris_core.collection.recordings.files.parquet.MAX_BYTES", 700)
    message = refused(run, params_only, "lerobot_images", params_only / "in")
    assert "declares 12 rows of" in message, message
    assert "at most 700 are read" in message


def test_large_pictures_come_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dictionary lets every row of a small file be the same large picture."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    batches = list[int]()
    read = pq.ParquetFile.iter_batches

    def counted(self: Any, batch_size: int, **how: Any) -> Any:
        batches.append(batch_size)
        return read(self, batch_size=batch_size, **how)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    for size in (10, 2**26 + 1):
        pq.write_table(pa.table({"picture": [b"x" * size] * 4}), tmp_path / "a.parquet")
        assert [len(data) for data in pictures(tmp_path / "a.parquet", "picture", 1, 2)] == [size, size]
    assert batches == [BATCH, 3]


def test_one_row_may_hold_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr("oniris_core.collection.recordings.files.parquet.MAX_VALUES", 2**20)
    bits = pa.array(np.zeros(2**20 + 1, bool))
    pq.write_table(
        pa.table({"action": pa.ListArray.from_arrays(pa.array([0, len(bits)], pa.int32()), bits)}),
        tmp_path / "a.parquet",
    )
    with pytest.raises(UserError, match=r"a.parquet declares 1048577 values in 1 rows of a column; at most 1048576"):
        read_parquet(tmp_path / "a.parquet", (), "")


def test_nested_lists_of_numbers_are_arrays(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    values = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 6)
    pq.write_table(pa.table({"action": fixed, "state": values.tolist(), "bit": [True] * 4}), path, row_group_size=3)
    found = read_parquet(path, ("state", "bit"), "")
    assert found["action"].tolist() == values.reshape(4, 6).tolist()
    assert found["state"].tolist() == values.tolist()
    assert found["bit"].tolist() == [True] * 4
    pq.write_table(pa.table({"action": [[1, 2], [3]]}), path)
    with pytest.raises(UserError, match=r"a.parquet cannot be read .* lists of different lengths: \['1', '2'\]"):
        read_parquet(path, (), "")
