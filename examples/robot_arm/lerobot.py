"""Writes episodes as a LeRobot data set of version 3.0, by the rules of that format; the package itself is not needed.

Many episodes share one parquet file, and one av1 video per camera; `meta/episodes` says in which file an episode is, and
from which second on its video shows it. Row i of an episode holds the frame, the state there and the action taken there,
which leads to row i+1.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CODEC = ("-c:v", "libsvtav1", "-crf", "30", "-g", "2", "-svtav1-params", "lp=1")
"""What LeRobot encodes with."""
PER_VIDEO = 100
"""Episodes of one video file; the format leaves it open and asks only that a file is not too large."""

Episode = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
"""(numbers [T, n] by feature, uint8 [T, H, W, 3] by camera)"""


def write(
    root: Path, episodes: Iterable[Episode], names: Mapping[str, list[str]], fps: int, robot: str, task: str
) -> int:
    """Write a data set, one episode after the other.

    Args:
        root: the folder to make; it must not exist.
        episodes: all with the same features and cameras.
        names: of each feature's components.
        fps: frames a second.
        robot: its name.
        task: what it does, in words.

    Returns:
        How many frames were written.
    """
    for folder in ("meta/episodes/chunk-000", "data/chunk-000"):
        (root / folder).mkdir(parents=True)
    listed, table, kept = list[dict[str, Any]](), list[pa.Table](), list[Episode]()
    films, total = _Films(root, fps), 0
    for index, (numbers, pictures) in enumerate(episodes):
        length = len(next(iter(numbers.values())))
        rows = np.arange(length)
        columns = {name: pa.FixedSizeListArray.from_arrays(values.astype(np.float32).ravel(), values.shape[1])
                   for name, values in numbers.items()}  # fmt: skip
        table.append(pa.table({
            **columns, "timestamp": (rows / fps).astype(np.float32), "frame_index": rows,
            "episode_index": np.full(length, index), "index": total + rows, "task_index": np.zeros(length, np.int64),
        }))  # fmt: skip
        stats = {
            f"stats/{name}/{key}": value
            for name, found in _stats(numbers, pictures).items()
            for key, value in found.items()
        }
        listed.append({
            "episode_index": index, "tasks": [task], "length": length, "data/chunk_index": 0, "data/file_index": 0,
            "dataset_from_index": total, "dataset_to_index": total + length, **films.add(index, pictures), **stats,
            "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0,
        })  # fmt: skip
        kept.append((numbers, {name: shown[::25] for name, shown in pictures.items()}))
        total += length
    films.close()
    pq.write_table(pa.concat_tables(table), root / "data/chunk-000/file-000.parquet")
    pq.write_table(pa.Table.from_pylist(listed), root / "meta/episodes/chunk-000/file-000.parquet")
    pq.write_table(pa.table({"task_index": [0], "task": [task]}), root / "meta/tasks.parquet")
    everything = tuple(
        {name: np.concatenate([part[side][name] for part in kept]) for name in kept[0][side]} for side in (0, 1)
    )
    (root / "meta/stats.json").write_text(json.dumps(_stats(*everything), indent=4))
    sizes = {name: shown.shape[1:] for name, shown in kept[0][1].items()}
    (root / "meta/info.json").write_text(json.dumps(_info(names, sizes, fps, robot, len(listed), total), indent=4))
    return total


class _Films:
    """A video file per camera at a time, each with the episodes of its turn one after another."""

    def __init__(self, root: Path, fps: int):
        self._root, self._fps, self._writers, self._at = root, fps, dict[str, Any](), 0

    def add(self, episode: int, pictures: dict[str, np.ndarray]) -> dict[str, Any]:
        """Encode an episode; where it is."""
        number, place = episode // PER_VIDEO, dict[str, Any]()
        if episode % PER_VIDEO == 0:
            self.close()
        for name, shown in pictures.items():
            if name not in self._writers:
                path = self._root / f"videos/{name}/chunk-000/file-{number:03d}.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                self._writers[name] = imageio_ffmpeg.write_frames(
                    str(path), shown.shape[2:0:-1], fps=self._fps, macro_block_size=1, codec="libsvtav1", quality=None,
                    output_params=list(CODEC[2:]),
                )  # fmt: skip
                self._writers[name].send(None)
            for frame in shown:
                self._writers[name].send(np.ascontiguousarray(frame))
            place |= {
                f"videos/{name}/chunk_index": 0, f"videos/{name}/file_index": number,
                f"videos/{name}/from_timestamp": self._at / self._fps,
                f"videos/{name}/to_timestamp": (self._at + len(shown)) / self._fps,
            }  # fmt: skip
        self._at += len(next(iter(pictures.values())))
        return place

    def close(self) -> None:
        """Finish the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers, self._at = {}, 0


def _stats(numbers: dict[str, np.ndarray], pictures: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Least, most, mean and deviation of every feature; of pictures by channel, from 0 to 1, shape [3, 1, 1]."""
    shown = {name: values[::25].reshape(-1, 3) / 255 for name, values in pictures.items()}
    found = {}
    for name, values in {**numbers, **shown}.items():
        made = {
            key: getattr(values, key)(0).reshape((3, 1, 1) if name in shown else -1).tolist()
            for key in ("min", "max", "mean", "std")
        }
        found[name] = {**made, "count": [len(pictures[name][::25]) if name in shown else len(values)]}
    return found


def _info(
    names: Mapping[str, list[str]],
    sizes: Mapping[str, tuple[int, ...]],
    fps: int,
    robot: str,
    episodes: int,
    frames: int,
) -> dict[str, Any]:
    def video(height: int, width: int, channels: int) -> dict[str, Any]:
        info = {
            "video.height": height, "video.width": width, "video.codec": "av1", "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False, "video.fps": fps, "video.channels": channels, "has_audio": False,
        }  # fmt: skip
        return {
            "dtype": "video", "shape": [height, width, channels], "names": ["height", "width", "channels"], "info": info,
        }  # fmt: skip

    scalars = {
        "timestamp": "float32",
        **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64"),
    }
    return {
        "codebase_version": "v3.0", "robot_type": robot, "total_episodes": episodes, "total_frames": frames, "total_tasks": 1,
        "chunks_size": 1000, "data_files_size_in_mb": 100, "video_files_size_in_mb": 200, "fps": fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {
            **{name: {"dtype": "float32", "shape": [len(of)], "names": of} for name, of in names.items()},
            **{name: video(*size) for name, size in sizes.items()},
            **{name: {"dtype": kind, "shape": [1], "names": None} for name, kind in scalars.items()},
        },
    }  # fmt: skip
