"""LeRobot data sets, layout versions 2.0 and 2.1, with one video per episode and camera.

`meta/info.json` names features and paths, `meta/episodes.jsonl` the episodes and their lengths; each episode is a parquet
table and an mp4. Row i of a table belongs to frame i: `action` is taken there and leads to frame i+1, as `next.reward` and
`next.done` say by their names; `observation.state`, where there is one, becomes the states. The action of the last row
leads nowhere and is dropped.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from oniris_core.common.errors import UserError
from oniris_core.data.actions import ActionSpec
from oniris_core.data.recordings.recording import Files, Recording
from oniris_core.data.recordings.spaces import numbers
from oniris_core.data.recordings.tables import read_parquet
from oniris_core.data.recordings.videos import exactly, frames_of, probe

EXTRA = ("observation.state", "next.reward", "next.done")


class LeRobot:
    """The episodes of a data set, seen through one camera."""

    declared: ActionSpec | None = None

    def __init__(self, root: Path, action_key: str, camera: str, same_frame: bool):
        if same_frame:
            raise UserError("collect.recording_action_leads_to = same_frame: in LeRobot data an action leads to the next frame")
        info_file, list_file = root / "meta/info.json", root / "meta/episodes.jsonl"
        try:
            info = json.loads(info_file.read_bytes())
            lines = [json.loads(line) for line in list_file.read_bytes().splitlines() if line.strip()]
            version, chunk = str(info["codebase_version"]), int(info["chunks_size"])
            features = {str(name): dict(feature) for name, feature in info["features"].items()}
            self.frame_rate: float | None = float(info["fps"])
            self._lengths = {f"episode_{int(line['episode_index']):06d}": int(line["length"]) for line in lines}
            paths = str(info["data_path"]), str(info["video_path"])
            numbers_of = [int(line["episode_index"]) for line in lines]
        except FileNotFoundError as error:
            raise UserError(f"{error.filename} is missing, so {root} is not a LeRobot data set of version 2") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise UserError(f"{root / 'meta'} does not describe a LeRobot data set of version 2: {error!r}") from None
        if not version.startswith("v2."):
            raise UserError(f"{root} is a LeRobot data set of version {version}; versions 2.0 and 2.1 are read: convert it")
        if not numbers_of or chunk < 1 or not 0 < self.frame_rate < 1e6:
            raise UserError(f"{root} has {len(numbers_of)} episodes in chunks of {chunk} at {self.frame_rate} frames a second")
        video = camera or _only_camera(features, root)
        if features.get(video, {}).get("dtype") != "video":
            raise UserError(f"{root} has no video '{video}'; its cameras are {_cameras(features)}: collect.recording_camera")
        self._key = action_key
        of = {}
        for index in sorted(numbers_of):
            values = {"episode_chunk": index // chunk, "episode_index": index, "video_key": video}
            of[f"episode_{index:06d}"] = tuple(_inside(root, template, values) for template in paths)
        self.files = Files(root, of, (info_file, list_file))

    def size(self, name: str) -> tuple[int, int]:
        return probe(self.files.of[name][1])[0]

    def actions(self, name: str) -> np.ndarray:
        return self._table(name)["action"]

    def read(self, name: str) -> Recording:
        table, video = self.files.of[name]
        columns = self._table(name)
        rows = len(columns["action"])
        states = columns.get("observation.state", np.zeros((rows, 0))).astype(np.float32)
        return Recording(
            exactly(frames_of(video), rows, video, table), columns["action"][:-1],
            columns.get("next.reward", np.zeros(rows))[:-1].astype(np.float32).reshape(-1),
            columns.get("next.done", np.zeros(rows))[:-1].astype(bool).reshape(-1), states.reshape(rows, -1),
        )  # fmt: skip

    def _table(self, name: str) -> dict[str, np.ndarray]:
        path = self.files.of[name][0]
        columns = read_parquet(path, EXTRA, self._key)
        rows = len(columns["action"])
        if rows != self._lengths[name]:
            raise UserError(f"{path} has {rows} rows, but meta/episodes.jsonl says {self._lengths[name]}")
        for column, values in columns.items():
            columns[column] = numbers(values, f"{path}: column '{column}'" if column != "action" else str(path))
            if column.startswith("next.") and columns[column].size != rows:
                raise UserError(f"{path}: column '{column}' has {columns[column].size} numbers in {rows} rows; one a row is needed")
        return columns


def _cameras(features: dict[str, Any]) -> list[str]:
    return sorted(name for name, feature in features.items() if feature.get("dtype") == "video")


def _only_camera(features: dict[str, Any], root: Path) -> str:
    cameras = _cameras(features)
    if len(cameras) != 1:
        raise UserError(f"{root} has the cameras {cameras}: choose one with collect.recording_camera")
    return cameras[0]


def _inside(root: Path, template: str, values: dict[str, Any]) -> Path:
    """A path of the data set from a template of its own, which may name nothing but the three values, inside the folder."""

    def fill(match: re.Match[str]) -> str:
        value = values[match[1]]
        return str(value).zfill(int(match[2] or 0))

    text = re.sub(r"\{(episode_chunk|episode_index|video_key)(?::0(\d)d)?\}", fill, template)
    path = root / text
    if "{" in text or ".." in Path(text).parts or Path(text).is_absolute():
        raise UserError(f"{root / 'meta/info.json'}: '{template}' is not a path inside the data set")
    if not path.is_file():
        raise UserError(f"{path} is missing, which {root / 'meta/episodes.jsonl'} lists")
    return path
