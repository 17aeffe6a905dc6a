"""Where the episodes of a LeRobot data set are: layouts 2.0 and 2.1 (a file each) and 3.0 (several in one file).

`meta/info.json` names version, features and path templates. In 2.x `meta/episodes.jsonl` lists the episodes. In 3.0
`meta/episodes/chunk-*/file-*.parquet` does, with the chunk and file of each episode's rows and, for each camera, the chunk
and file of its video and the time there at which the episode begins.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oniris_core.collection.recordings.files.checks import natural, refuse_large, refuse_outside
from oniris_core.collection.recordings.files.parquet import read_columns
from oniris_core.common.errors import UserError

ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Place:
    """Where one episode is.

    Attributes:
        index: its number.
        length: rows.
        table: the file that holds them, maybe with those of other episodes.
        video: of the chosen camera; None where the pictures are in the table.
        begins: when it begins in the video, seconds.
        listed: the file that says so.
    """

    index: int
    length: int
    table: Path
    video: Path | None
    begins: float
    listed: Path


@dataclass(frozen=True)
class Index:
    """A data set seen through one camera.

    Attributes:
        packed: whether files hold several episodes (3.0).
        rate: frames per second.
        cameras: the features that hold frames, the chosen one first.
        places: its episodes, in order.
        shared: files that describe all of them.
    """

    packed: bool
    rate: float
    cameras: tuple[str, ...]
    places: list[Place]
    shared: tuple[Path, ...]


def read_index(root: Path, camera: str) -> Index:
    """The index of the data set at `root`, seen through `camera` (empty: it has only one).

    Raises:
        UserError: not such a data set, another version, no such camera, or a file that is missing.
    """
    info_file = root / "meta/info.json"
    try:
        refuse_large(info_file)
        info = json.loads(info_file.read_bytes())
        version = str(info["codebase_version"]).removeprefix("v")
        features = {str(name): dict(feature) for name, feature in info["features"].items()}
        rate, paths = float(info["fps"]), (str(info["data_path"]), info.get("video_path"))
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing, so {root} is not a LeRobot data set") from None
    except ERRORS as error:
        raise UserError(f"{info_file} does not describe a LeRobot data set: {error!r}") from None
    if not version.startswith(("2.", "3.")):
        raise UserError(
            f"{root} is a LeRobot data set of version {version}; versions 2.0, 2.1 and 3.0 are read: convert it"
        )
    if not 0 < rate < 1e6:
        raise UserError(f"{info_file} says {rate} frames a second, which cannot be")
    chosen = camera or _only_camera(features, root)
    kind = features.get(chosen, {}).get("dtype")
    if kind not in ("video", "image"):
        raise UserError(f"{root} has no camera '{chosen}', but {_cameras(features)}: set collect.recording_camera")
    templates = paths[0], str(paths[1]) if kind == "video" else ""
    packed = version.startswith("3.")
    places, lists = (_packed if packed else _single)(root, info, chosen, templates)
    if not places:
        raise UserError(f"{root} lists no episodes")
    indices = [place.index for place in places]
    if len(set(indices)) < len(indices):
        raise UserError(f"{lists[0]} lists episode {max(indices, key=indices.count)} more than once")
    tasks = [path for path in (root / "meta/tasks.parquet", root / "meta/tasks.jsonl") if path.is_file()]
    cameras = (chosen, *(name for name in _cameras(features) if name != chosen))
    return Index(packed, rate, cameras, places, (info_file, *lists, *tasks))


def _single(root: Path, info: Any, camera: str, templates: tuple[str, str]) -> tuple[list[Place], list[Path]]:
    listed = root / "meta/episodes.jsonl"
    try:
        refuse_large(listed)
        lines = [json.loads(line) for line in listed.read_bytes().splitlines() if line.strip()]
        found = sorted((int(line["episode_index"]), int(line["length"])) for line in lines)
        chunk = int(info["chunks_size"])
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing, so {root} is not a LeRobot data set of version 2") from None
    except ERRORS as error:
        raise UserError(f"{listed} does not describe a LeRobot data set of version 2: {error!r}") from None
    if chunk < 1:
        raise UserError(f"{root / 'meta/info.json'} says chunks of {chunk} episodes, which cannot be")
    places = []
    for index, length in found:
        values = {"episode_chunk": index // chunk, "episode_index": index, "video_key": camera}
        table = _inside(root, templates[0], values, listed)
        video = _inside(root, templates[1], values, listed) if templates[1] else None
        places.append(Place(index, length, table, video, 0.0, listed))
    return places, [listed]


def _packed(root: Path, _: Any, camera: str, templates: tuple[str, str]) -> tuple[list[Place], list[Path]]:
    lists = sorted((root / "meta/episodes").glob("*/*.parquet"), key=natural)
    if not lists:
        raise UserError(
            f"{root / 'meta/episodes'} holds no chunk-*/file-*.parquet, so {root} is not a LeRobot 3.0 data set"
        )
    places = []
    for listed in lists:
        refuse_outside(listed, root)
        rows = ["data/chunk_index", "data/file_index"]
        film = (
            [f"videos/{camera}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
            if templates[1]
            else []
        )
        table = read_columns(listed, ["episode_index", "length", *rows, *film])
        for row in range(len(table["length"])):
            numbers = {name: values[row] for name, values in table.items()}
            if not all(np.ndim(value) == 0 and np.isfinite(value) and value >= 0 for value in numbers.values()):
                raise UserError(f"{listed}, row {row} says {numbers}, which cannot be: numbers from 0 are needed")
            where: dict[str, Any] = {"chunk_index": int(numbers[rows[0]]), "file_index": int(numbers[rows[1]])}
            data, video, begins = _inside(root, templates[0], where, listed), None, 0.0
            if film:
                where = {"chunk_index": int(numbers[film[0]]), "file_index": int(numbers[film[1]]), "video_key": camera}
                video, begins = _inside(root, templates[1], where, listed), float(numbers[film[2]])
            places.append(Place(int(numbers["episode_index"]), int(numbers["length"]), data, video, begins, listed))
    return sorted(places, key=lambda place: place.index), lists


def _cameras(features: dict[str, Any]) -> list[str]:
    return sorted(name for name, feature in features.items() if feature.get("dtype") in ("video", "image"))


def _only_camera(features: dict[str, Any], root: Path) -> str:
    cameras = _cameras(features)
    if len(cameras) != 1:
        raise UserError(f"{root} has the cameras {cameras}: choose one with collect.recording_camera")
    return cameras[0]


def _inside(root: Path, template: str, values: dict[str, Any], listed: Path) -> Path:
    """A path of the data set from a template of its own, which may name nothing but `values`, inside the folder."""

    def fill(match: re.Match[str]) -> str:
        return str(values[match[1]]).zfill(int(match[2] or 0))

    text = re.sub(r"\{(" + "|".join(values) + r")(?::0(\d)d)?\}", fill, template)
    path = root / text
    if "{" in text or ".." in Path(text).parts or Path(text).is_absolute() or "\0" in text:
        raise UserError(f"{root / 'meta/info.json'}: '{template}' is not a path inside the data set")
    if not path.is_file():
        raise UserError(f"{path} is missing, which {listed} lists")
    refuse_outside(path, root)
    return path
