"""LeRobot data sets of the layouts 2.0, 2.1 and 3.0, whose frames are videos or pictures inside the tables.

Row i of an episode belongs to one frame: `action` is taken there and leads to the frame of row i+1, as `next.reward` and
`next.done` say by their names; `observation.state`, where it is of numbers, becomes the states. The action of the last row
leads nowhere. In 3.0 the frame of a row is the one that the video shows at `timestamp` + the episode's beginning.
"""

from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np

from oniris_core.collection.recordings.files.decoder import decoded, probe
from oniris_core.collection.recordings.files.frames import picture, picture_size
from oniris_core.collection.recordings.files.parquet import pictures, read_parquet
from oniris_core.collection.recordings.files.recording import Files, Recording
from oniris_core.collection.recordings.files.spaces import numbers
from oniris_core.collection.recordings.layouts.lerobot_index import Place, read_index
from oniris_core.collection.recordings.layouts.videos import exactly
from oniris_core.common.errors import UserError
from oniris_core.data.rows.actions import ActionSpec

EXTRA = ("observation.state", "next.reward", "next.done")
PLACES = ("episode_index", "timestamp")
TOLERANCE = 0.3
"""How far from the time asked for a frame may be shown, in frames; beyond it, times and video do not belong together."""


class LeRobot:
    """The episodes of a data set, seen through one camera."""

    declared: ActionSpec | None = None
    flattened_from = None

    def __init__(self, root: Path, action_key: str, camera: str):
        index = read_index(root, camera)
        self.frame_rate: float | None = index.rate
        self.notes: tuple[str, ...] = ()
        self.cameras = index.cameras
        self._key, self._camera, self._packed = action_key, index.cameras[0], index.packed
        self._places = {f"episode_{place.index:06d}": place for place in index.places}
        of = {name: (p.table, p.video) if p.video else (p.table,) for name, p in self._places.items()}
        self.files = Files(root, of, index.shared)
        self._sizes = dict[Path, tuple[int, int]]()
        self._table = (Path(), dict[str, np.ndarray]())
        self._film = _Film(Path())

    def size(self, name: str) -> tuple[int, int]:
        place = self._places[name]
        if place.video is None:
            first = next(pictures(place.table, self._camera, self._rows(name)[0], 1))
            return picture_size(first, f"{place.table}, row {self._rows(name)[0]}")
        if place.video not in self._sizes:
            self._sizes[place.video] = probe(place.video).size
        return self._sizes[place.video]

    def actions(self, name: str) -> np.ndarray:
        return self._columns(name)["action"]

    def read(self, name: str) -> Recording:
        place, columns = self._places[name], self._columns(name)
        rows = place.length
        states = columns.get("observation.state", np.zeros((rows, 0)))
        return Recording(
            self._frames(name), columns["action"], columns.get("next.reward", np.zeros(rows)).astype(np.float32).reshape(-1),
            columns.get("next.done", np.zeros(rows)).astype(bool).reshape(-1), states.astype(np.float32).reshape(rows, -1),
        )  # fmt: skip

    def _frames(self, name: str) -> Iterator[np.ndarray]:
        place, start = self._places[name], self._rows(name)[0]
        if place.video is None:
            size: tuple[int, ...] = ()
            for row, data in enumerate(pictures(place.table, self._camera, start, place.length), start):
                frame = picture(data, f"{place.table}, row {row}")
                size = size or frame.shape[:2]
                if frame.shape[:2] != size:
                    raise UserError(f"{place.table}, row {row} has a picture of {frame.shape[0]} x {frame.shape[1]} pixels, "
                                    f"row {start} of {size[0]} x {size[1]}: bring them to one size first")  # fmt: skip
                yield frame
        elif not self._packed:
            yield from exactly((frame for _, frame in decoded(place.video)), place.length, place.video, place.table)
        else:
            times = self._read(place.table)["timestamp"][start : start + place.length].astype(np.float64)
            yield from self._at(place.begins + times, place, start)

    def _at(self, times: np.ndarray, place: Place, start: int) -> Iterator[np.ndarray]:
        """The frames that the video shows at these times, which must rise."""
        assert self.frame_rate is not None
        assert place.video is not None
        falling = np.flatnonzero(~(np.diff(times) > 0))
        if len(falling) or not np.isfinite(times).all():
            row = start + (int(falling[0]) + 1 if len(falling) else int(np.isfinite(times).argmin()))
            raise UserError(f"{place.table}, row {row}: the timestamps of episode {place.index} do not rise")
        margin = TOLERANCE / self.frame_rate
        if not self._film.is_at_or_before(place.video, times[0] - margin):
            self._film.close()
            self._film = _Film(place.video)
        for row, time in enumerate(times, start):
            frame = self._film.at(time, margin)
            if frame is None:
                raise UserError(
                    f"{place.video} shows no frame at {time:.4f} s, where {place.table}, row {row} needs one (episode "
                    f"{place.index} begins at {place.begins:g} s, says {place.listed})"
                )
            yield frame

    def _read(self, table: Path) -> dict[str, np.ndarray]:
        """The columns of a file but for pictures; those of the last one are kept, as the next episode may be there."""
        if self._table[0] != table:
            columns = read_parquet(table, (*EXTRA, *PLACES), self._key)
            rows = len(columns["action"])
            for column, values in columns.items():
                where = f"{table}: column '{column}'" if column != "action" else str(table)
                columns[column] = numbers(values.reshape(rows, -1) if values.ndim > 2 else values, where)
                if column.startswith("next.") or column in PLACES:
                    if columns[column].size != rows:
                        raise UserError(
                            f"{where} has {columns[column].size} numbers in {rows} rows; one a row is needed"
                        )
                    columns[column] = values.reshape(-1)
            if self._packed and (missing := [column for column in PLACES if column not in columns]):
                raise UserError(f"{table} has no column '{missing[0]}', which LeRobot 3.0 needs")
            self._table = table, columns
        return self._table[1]

    def _rows(self, name: str) -> tuple[int, int]:
        """The first row of an episode in its file, and the row after its last."""
        place = self._places[name]
        columns = self._read(place.table)
        rows = np.arange(len(columns["action"]))
        if self._packed:
            rows = np.flatnonzero(columns["episode_index"] == place.index)
        if len(rows) != place.length or not place.length or rows[-1] - rows[0] >= len(rows):
            raise UserError(f"{place.table} has {len(rows)} rows of episode {place.index}, but {place.listed} says "
                            f"{place.length}, one after another")  # fmt: skip
        return int(rows[0]), int(rows[-1]) + 1

    def _columns(self, name: str) -> dict[str, np.ndarray]:
        rows = slice(*self._rows(name))
        return {column: values[rows] for column, values in self._read(self._places[name].table).items()}


class _Film:
    """A video that is read on and on, from one episode to the next."""

    def __init__(self, path: Path):
        self._path, self._last = path, -np.inf
        self._shown: Generator[tuple[float, np.ndarray], None, None] | None = None
        self._ahead: tuple[float, np.ndarray] | None = None

    def is_at_or_before(self, path: Path, time: float) -> bool:
        """Whether it is this video, and what it shows from `time` on is still to come."""
        return path == self._path and self._last < time

    def close(self) -> None:
        """Stop decoding."""
        if self._shown is not None:
            self._shown.close()

    def at(self, time: float, margin: float) -> np.ndarray | None:
        """The frame nearest to `time`, if it is within `margin`; times must rise from call to call."""
        if self._shown is None:
            self._shown = decoded(self._path)
        best: tuple[float, np.ndarray] | None = None
        while (shown := self._ahead or next(self._shown, None)) is not None:
            self._ahead = None
            if shown[0] > time and best is not None and shown[0] - time >= abs(best[0] - time):
                self._ahead = shown  # belongs to a later time
                break
            best = shown
            if shown[0] >= time:
                break
        if best is None or not abs(best[0] - time) <= margin:
            return None
        self._last = best[0]
        return best[1]
