"""More layouts, written by the rules that each of them publishes: robots' data sets and the replays of agents.

Every frame shows the action that led to it, as in tests/recordings.py.
"""

import json
from pathlib import Path

import numpy as np

from tests.recordings import encoded, led_to, pictures, play, write_table, write_video

NTSC = 30000 / 1001


def picture_folders(root: Path, lengths: tuple[int, ...] = (12, 9, 7)) -> list[np.ndarray]:
    """Folders whose names sort otherwise than their numbers; actions inside one, beside another, one fewer in the third."""
    taken = [play(length, key) for key, length in enumerate(lengths)]
    for number, (actions, ending) in enumerate(zip(taken, (".png", ".JPG", ".bmp"), strict=False)):
        folder = root / f"walk_{number}"
        folder.mkdir(parents=True)
        for i, frame in enumerate(pictures(led_to(actions)), 1):
            kind = {".png": "PNG", ".JPG": "JPEG", ".bmp": "BMP"}[ending]
            image = np.dstack([frame, np.full_like(frame[..., 0], 9)]) if kind == "PNG" else frame  # nearly transparent
            (folder / f"frame_{i}{ending}").write_bytes(encoded(image, kind))
    (root / "walk_0/steering.csv").write_text("time;action\n" + "".join(f"{i};{a}\n" for i, a in enumerate(taken[0])))
    (root / "walk_1.json").write_text(json.dumps({"actions": taken[1].tolist()}))
    if len(taken) > 2:
        np.save(root / "walk_2/actions.npy", taken[2][:-1])
    return taken


def replay(root: Path, lengths: tuple[int, ...] = (12, 9, 7)) -> list[np.ndarray]:
    """One file as DreamerV2 (and V-D4RL) writes it, one as DreamerV3 does, with two episodes in it."""
    root.mkdir(parents=True)
    taken = [play(length, key) for key, length in enumerate(lengths)]

    def rows(actions: np.ndarray) -> dict[str, np.ndarray]:
        length = len(actions)
        return {
            "image": pictures(led_to(actions)), "reward": led_to(actions).astype(np.float32),
            "is_first": np.arange(length) == 0, "is_last": np.arange(length) == length - 1,
            "is_terminal": np.arange(length) == length - 1, "discount": np.ones(length, np.float32),
        }  # fmt: skip

    def one_hot(actions: np.ndarray) -> np.ndarray:
        return actions.astype(np.float32)[:, None]

    # common/driver.py of DreamerV2: {**ob, **act}, the observation that the step with this action gave; zeros at reset.
    np.savez_compressed(root / "20220101T000000-ab-11.npz", **rows(taken[0]), action=one_hot(led_to(taken[0])))
    # embodied/core/driver.py of DreamerV3: {**obs, **acts}, the action that the policy chose having seen the observation.
    both = [{**rows(actions), "action": one_hot(actions)} for actions in taken[1:]]
    chunk = {key: np.concatenate([part[key] for part in both]) for key in both[0]}
    stepid = np.zeros((len(chunk["action"]), 20), np.uint8)
    np.savez_compressed(root / "20230101T000000F000000-cd-ef-16.npz", **chunk, stepid=stepid)
    return taken


def zarr_buffer(root: Path, lengths: tuple[int, ...] = (12, 9, 7), dtype: str = "f4") -> list[np.ndarray]:
    """A buffer as diffusion_policy's pusht_cchi_v7_replay.zarr: img float32 0 to 255, chunks across episodes, format 2."""
    import zarr

    taken = [play(length, key) for key, length in enumerate(lengths)]
    group = zarr.open_group(root, mode="w", zarr_format=2)
    frames = np.concatenate([pictures(led_to(actions)) for actions in taken]).astype(dtype)
    arrays = {
        "data/img": frames, "data/action": np.concatenate(taken).astype(np.float32)[:, None],
        "data/state": np.zeros((sum(lengths), 5), np.float32), "meta/episode_ends": np.cumsum(lengths),
    }  # fmt: skip
    for name, values in arrays.items():
        array = group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=(5, *values.shape[1:]))
        array[...] = values
    return taken


def robomimic(root: Path, lengths: tuple[int, ...] = (12, 9, 7)) -> list[np.ndarray]:
    """Demonstrations as robomimic's documentation lists them, with two cameras; the last one without next_obs."""
    import h5py

    root.mkdir(parents=True)
    taken = [play(length, key) for key, length in enumerate(lengths)]
    with h5py.File(root / "image.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["total"], data.attrs["env_args"] = sum(lengths), "{}"
        for number, actions in enumerate(taken):
            demo, frames = data.create_group(f"demo_{number}"), pictures(led_to(actions))
            after = number < len(taken) - 1
            steps = len(actions) - after
            demo.attrs["num_samples"] = steps
            demo["actions"] = actions[:steps, None].astype(np.float64)
            demo["rewards"], demo["dones"] = actions[:steps].astype(np.float64), np.zeros(steps, np.int64)
            demo["states"] = np.zeros((steps, 3))
            for part, shown in (("obs", frames[:steps]), ("next_obs", frames[1:]))[: 1 + after]:
                demo.create_dataset(
                    f"{part}/agentview_image", data=shown, chunks=(4, *shown.shape[1:]), compression="gzip"
                )
                demo[f"{part}/robot0_eye_in_hand_image"] = 0 * shown
                demo[f"{part}/robot0_eef_pos"] = np.zeros((len(shown), 3))
        file["mask/train"] = np.array([b"demo_0"])
    return taken


def lerobot3(root: Path, lengths: tuple[int, ...] = (12, 9, 7), images: bool = False) -> list[np.ndarray]:
    """A data set of layout 3.0 at 29.97 frames a second.

    One table for all episodes. Of the camera `front` (h264) the third episode is in a file of its own, of `wrist` (av1, all
    black) all are in one. Beside the numbers there are a text, a nested list and features of shape [1], which are scalars.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    taken = [play(length, key) for key, length in enumerate(lengths)]
    films = [pictures(led_to(actions)) for actions in taken]
    feature = {"dtype": "image" if images else "video", "shape": [32, 48, 3], "names": ["height", "width", "channels"]}
    cameras = {f"observation.images.{name}": feature for name in ("front", "wrist")}
    info = {
        "codebase_version": "v3.0", "robot_type": "made", "total_episodes": len(lengths), "total_frames": sum(lengths),
        "total_tasks": 1, "chunks_size": 1000, "data_files_size_in_mb": 100, "video_files_size_in_mb": 200, "fps": 29.97,
        "splits": {"train": f"0:{len(lengths)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None if images else "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {
            **cameras, "action": {"dtype": "float32", "shape": [1], "names": None},
            "observation.state": {"dtype": "float32", "shape": [2, 2], "names": None},
            "observation.text": {"dtype": "string", "shape": [1], "names": None},
            **{name: {"dtype": "int64", "shape": [1], "names": None} for name in ("frame_index", "episode_index", "index")},
        },
    }  # fmt: skip
    for folder in ("meta/episodes/chunk-000", "data/chunk-000"):
        (root / folder).mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    pq.write_table(pa.table({"task_index": [0], "task": ["walk"]}), root / "meta/tasks.parquet")

    table = [
        {
            "action": float(action), "observation.state": [[float(i), 0.0], [0.0, float(index)]], "observation.text": "a word",
            "next.reward": float(action), "next.done": i == len(actions) - 2, "timestamp": i / 29.97, "frame_index": i,
            "episode_index": index, "index": sum(lengths[:index]) + i, "task_index": 0,
            **({name: {"bytes": encoded(films[index][i] * (name[-1] == "t")), "path": f"frame-{i:06d}.png"} for name in cameras}
               if images else {}),
        }
        for index, actions in enumerate(taken) for i, action in enumerate(actions)
    ]  # fmt: skip
    pq.write_table(
        pa.Table.from_pylist(table), root / "data/chunk-000/file-000.parquet", row_group_size=max(8, len(table) // 4)
    )

    episodes = [
        {
            "episode_index": index, "tasks": ["walk"], "length": length, "data/chunk_index": 0, "data/file_index": 0,
            "dataset_from_index": sum(lengths[:index]), "dataset_to_index": sum(lengths[: index + 1]),
            "stats/action/min": [0.0], "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0,
        }
        for index, length in enumerate(lengths)
    ]  # fmt: skip
    for name, codec, files in (
        ()
        if images
        else (
            ("front", ("-c:v", "libx264"), ((0, 1), *(((2,),) if len(lengths) > 2 else ()))),
            ("wrist", ("-c:v", "libsvtav1", "-svtav1-params", "lp=1"), (tuple(range(len(lengths))),)),
        )
    ):
        for number, held in enumerate(files):
            film = np.concatenate([films[index] for index in held]) * (name == "front")
            path = root / f"videos/observation.images.{name}/chunk-000/file-{number:03d}.mp4"
            write_video(path, film.astype(np.uint8), NTSC, codec)
            at = 0.0
            for index in held:
                key = f"videos/observation.images.{name}"
                episodes[index] |= {
                    f"{key}/chunk_index": 0, f"{key}/file_index": number, f"{key}/from_timestamp": at,
                    f"{key}/to_timestamp": at + lengths[index] / NTSC,
                }  # fmt: skip
                at += lengths[index] / NTSC
    pq.write_table(pa.Table.from_pylist(episodes), root / "meta/episodes/chunk-000/file-000.parquet")
    return taken


def mixed_videos(root: Path, lengths: tuple[int, ...] = (12, 9, 10, 8, 11, 6)) -> list[np.ndarray]:
    """Containers, codecs and files of actions of many kinds; every other film has one frame more than actions."""
    taken = [play(length, key) for key, length in enumerate(lengths)]
    kinds = (
        ("A.MP4", ".CSV", ()), ("b.mkv", ".tsv", ("-c:v", "ffv1")), ("c.webm", ".npy", ("-c:v", "libvpx-vp9")),
        ("d.avi", ".json", ("-c:v", "mpeg4")), ("e.gif", ".npz", ("-c:v", "gif", "-pix_fmt", "rgb8")),
        ("f.mov", ".parquet", ("-c:v", "libx264", "-bf", "3")),
    )  # fmt: skip
    for number, (actions, (name, suffix, params)) in enumerate(zip(taken, kinds, strict=True)):
        write_video(root / name, pictures(led_to(actions)), output_params=params)
        kept, path = actions[: len(actions) - number % 2], (root / name).with_suffix(suffix)
        if suffix == ".CSV":
            path.write_text("\ufefftime,action\n" + "".join(f"{i},{a}\n" for i, a in enumerate(kept)))
        elif suffix == ".tsv":
            path.write_text("".join(f"{a}\n" for a in kept))
        elif suffix == ".npy":
            np.save(path, kept)
        elif suffix == ".json":
            path.write_text(json.dumps([{"action": a} for a in kept.tolist()]))
        else:
            write_table(path, kept)
    return taken
