"""Recordings in the layouts that are read, made so that every frame shows the action that led to it."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from PIL import Image

ACTIONS = 4


def shades(led: np.ndarray) -> np.ndarray:
    """int64 [T]: the grey of each frame, given the action that led to it."""
    return 30 + 60 * led


def shown(frames: np.ndarray) -> np.ndarray:
    """int64 [T]: the actions that frames show, the inverse of `shades`."""
    return ((frames.mean((1, 2, 3)) - 30) / 60).round().astype(np.int64)


def led_to(taken: np.ndarray) -> np.ndarray:
    """The action that led to each frame, if row i is the action taken at frame i; none led to the first, shown as 0."""
    return np.concatenate([[0], taken[:-1]])


def play(length: int, key: int) -> np.ndarray:
    """int64 [length]: random actions, the last choice among them."""
    taken = np.random.default_rng(key).integers(ACTIONS, size=length)
    taken[1] = ACTIONS - 1
    return taken


def pictures(led: np.ndarray, size: tuple[int, int] = (32, 48)) -> np.ndarray:
    """uint8 [T, H, W, 3]."""
    return np.broadcast_to(shades(led).astype(np.uint8)[:, None, None, None], (len(led), *size, 3))


def encoded(frame: np.ndarray, kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.fromarray(frame).save(data, kind)
    return data.getvalue()


def write_video(path: Path, frames: np.ndarray, rate: float = 20, output_params: tuple[str, ...] = ()) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = frames.shape[2], frames.shape[1]
    params = ["-g", "8", *output_params]
    writer = imageio_ffmpeg.write_frames(str(path), size, fps=rate, macro_block_size=1, output_params=params)
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()


def write_table(path: Path, actions: np.ndarray, key: str = "actions") -> None:
    if path.suffix == ".npz":
        np.savez(path, **{key: actions})
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"time": np.arange(len(actions)), key: actions.tolist()}), path)
    else:
        path.write_text("".join(json.dumps({key: action}) + "\n" for action in actions.tolist()))


def videos(root: Path, lengths: tuple[int, ...] = (20, 13, 9)) -> list[np.ndarray]:
    """Three videos with actions in three formats; the actions taken."""
    taken = [play(length, key) for key, length in enumerate(lengths)]
    for number, (actions, suffix) in enumerate(zip(taken, (".npz", ".parquet", ".jsonl"), strict=False)):
        write_video(root / f"walk_{number}.mp4", pictures(led_to(actions)))
        write_table(root / f"walk_{number}{suffix}", actions)
    return taken


def counter_strike(
    root: Path, lengths: tuple[int, ...] = (12, 9), size: tuple[int, int] = (150, 280)
) -> list[np.ndarray]:
    """Files in the published layout; the keys 0..3 are pressed one at a time, and blue alone shows which."""
    import h5py

    root.mkdir(parents=True, exist_ok=True)
    taken = [play(length, key) for key, length in enumerate(lengths)]
    for number, actions in enumerate(taken, 1):
        with h5py.File(root / f"hdf5_dm_july2021_{number}.hdf5", "w") as file:
            for i, led in enumerate(led_to(actions)):
                image = np.zeros((*size, 3), np.uint8)
                image[..., 0] = shades(led)  # blue comes first, as OpenCV has it
                pressed = np.zeros(51)
                pressed[actions[i]] = 1
                pressed[[13 + 11, 36 + 7]] = 1  # the mouse rests
                file[f"frame_{i}_x"] = image
                file[f"frame_{i}_xaux"] = np.zeros(54)
                file[f"frame_{i}_y"] = pressed
                file[f"frame_{i}_helperarr"] = np.array([float(led == 2), 0.0])
    return taken


def minari(
    root: Path,
    lengths: tuple[int, ...] = (12, 9, 7),
    space: Any = None,
    played: Callable[[np.ndarray], Any] | None = None,
) -> list[np.ndarray]:
    """A Minari data set at `root`; the observations are the frames and the actions one fewer.

    Args:
        root: where.
        lengths: frames of each episode.
        space: of the actions; four choices by default.
        played: what an episode's actions are in that space, nested as Minari has them.
    """
    from gymnasium.spaces import Box, Dict, Discrete
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    seen = Dict({"pixels": Box(0, 255, (32, 48, 3), np.uint8), "speed": Box(-1, 1, (2,), np.float32)})
    root.mkdir(parents=True)
    actions_in = Discrete(ACTIONS) if space is None else space
    storage = MinariStorage.new(root / "data", seen, actions_in, data_format="hdf5")
    taken = [play(length, key) for key, length in enumerate(lengths)]
    buffers = []
    for number, actions in enumerate(taken):
        steps = len(actions) - 1
        observations = {"pixels": list(pictures(led_to(actions))), "speed": [np.zeros(2, np.float32)] * len(actions)}
        ended = [False] * (steps - 1) + [True]
        buffers.append(EpisodeBuffer(
            id=number, seed=number, observations=observations,
            actions=played(actions[:-1]) if played else actions[:-1].tolist(),
            rewards=actions[:-1].astype(float).tolist(), terminations=ended, truncations=[False] * steps, infos={},
        ))  # fmt: skip
    storage.update_episodes(buffers)
    storage.update_metadata({"dataset_id": "made/by-test-v0", "minari_version": __import__("minari").__version__})
    return taken


def lerobot(root: Path, lengths: tuple[int, ...] = (12, 9, 7), images: bool = False) -> list[np.ndarray]:
    """A data set of layout 2.1 with two cameras, one of which shows nothing; actions are one real number.

    With `images` there are no videos: the pictures are in the tables, as PNG bytes with the name of a file that is not there.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    taken = [play(length, key) for key, length in enumerate(lengths)]
    (root / "meta").mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    feature = {"dtype": "image" if images else "video", "shape": [32, 48, 3], "names": ["height", "width", "channels"]}
    info = {
        "codebase_version": "v2.1", "robot_type": "made", "total_episodes": len(lengths), "chunks_size": 1000, "fps": 20,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": None if images else "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {
            "observation.images.front": feature, "observation.images.wrist": feature,
            "action": {"dtype": "float32", "shape": [1]}, "observation.state": {"dtype": "float32", "shape": [2]},
        },
    }  # fmt: skip
    (root / "meta/info.json").write_text(json.dumps(info))
    with (root / "meta/episodes.jsonl").open("w") as file:
        for index, length in enumerate(lengths):
            file.write(json.dumps({"episode_index": index, "tasks": ["walk"], "length": length}) + "\n")
    for index, actions in enumerate(taken):
        name, rows = f"episode_{index:06d}", len(actions)
        shown = dict[str, list[dict[str, Any]]]()
        for camera, frames in (("front", pictures(led_to(actions))), ("wrist", pictures(0 * actions))):
            if images:
                shown[f"observation.images.{camera}"] = [
                    {"bytes": encoded(frame), "path": f"frame_{i:06d}.png"} for i, frame in enumerate(frames)
                ]
            else:
                write_video(root / f"videos/chunk-000/observation.images.{camera}/{name}.mp4", frames)
        table = {
            "action": [[float(action)] for action in actions],
            "observation.state": [[float(i), float(index)] for i in range(rows)],
            "next.reward": actions.astype(np.float32), "next.done": np.arange(rows) == rows - 2,
            "timestamp": np.arange(rows, dtype=np.float32) / 20, "frame_index": np.arange(rows), **shown,
        }  # fmt: skip
        pq.write_table(pa.table(table), root / f"data/chunk-000/{name}.parquet")
    return taken
