"""Samples of every layout, collected or refused."""

from functools import partial
from pathlib import Path

import numpy as np

from oniris_core.data.episodes.store import EpisodeStore, open_episodes
from tests import recordings as made
from tests import robot_recordings as robots
from tests.conftest import Run

# By name of the sample: (who makes it, its layout, options).
LAYOUTS = {
    "videos": (made.videos, "videos", ()),
    "mixed_videos": (robots.mixed_videos, "videos", ()),
    "pictures": (robots.picture_folders, "pictures", ()),
    "npz": (robots.replay, "npz", ()),
    "zarr": (robots.zarr_buffer, "zarr", ()),
    "robomimic": (robots.robomimic, "robomimic", ("--recording-camera", "agentview_image")),
    "lerobot": (made.lerobot, "lerobot", ("--recording-camera", "observation.images.front")),
    "lerobot_images": (
        partial(made.lerobot, images=True),
        "lerobot",
        ("--recording-camera", "observation.images.front"),
    ),
    "lerobot3": (robots.lerobot3, "lerobot", ("--recording-camera", "observation.images.front")),
    "lerobot3_images": (
        partial(robots.lerobot3, images=True),
        "lerobot",
        ("--recording-camera", "observation.images.front"),
    ),
    "minari": (made.minari, "minari", ()),
    "counter_strike": (made.counter_strike, "counter_strike", ()),
}
RATES = {
    "counter_strike": 16,
    "lerobot": 20,
    "lerobot_images": 20,
    "lerobot3": 29.97,
    "lerobot3_images": 29.97,
    "videos": 20,
    "mixed_videos": 20,
}


def collect(run: Run, folder: Path, name: str, root: Path, *options: object) -> EpisodeStore:
    result = run(
        folder, "collect", "--source", LAYOUTS[name][1], "--recordings", root, "--frame-skip", 1, "--size", "16,24",
        "--held-out-share", 0.4, *LAYOUTS[name][2], *options,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return open_episodes(folder / "data/episodes.zarr")


def refused(run: Run, folder: Path, name: str, root: Path, *options: object) -> str:
    """The one line that says what is wrong."""
    result = run(
        folder,
        "collect",
        "--source",
        LAYOUTS[name][1],
        "--recordings",
        root,
        "--frame-skip",
        1,
        *LAYOUTS[name][2],
        *options,
    )
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.output.splitlines() if "error" in line]
    assert not (folder / "data/episodes.zarr").exists()
    assert line.startswith("oniris: error: ")
    return line


def keys(store: EpisodeStore) -> np.ndarray:
    """int64 [N]: the recorded actions as the numbers 0..3 that `made.shown` reads off the frames."""
    actions = store.actions
    if actions.ndim == 2 and actions.shape[1] == 51:
        return actions[:, :4].argmax(1)
    return actions.reshape(len(actions)).round().astype(np.int64)


def brightest(frames: np.ndarray) -> np.ndarray:
    """Frames with every channel as bright as the brightest one, for pictures in one colour."""
    return np.broadcast_to(frames.max(-1, keepdims=True), frames.shape)
