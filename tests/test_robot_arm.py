"""The example that records a robot arm: what it writes is read as anybody's LeRobot data set is, row by row as it happened."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from examples.robot_arm import lerobot
from examples.robot_arm.__main__ import main
from examples.robot_arm.arm import BASE, BLOCK, CAMERAS, FORE, SIZE, TABLE, UPPER, Arm, along, play, reach
from examples.robot_arm.measure import places
from oniris_core.data.episodes.store import open_episodes
from tests.conftest import Run


def recorded(folder: Path, *options: object) -> tuple[int, str]:
    import typer

    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, [str(folder), *map(str, options)])
    return result.exit_code, result.output


def where_the_gripper_is(frames: np.ndarray) -> np.ndarray:
    """float64 [T, 2]: metres, from the middle of what is green in frames of the camera that stands still."""
    r, g, b = np.moveaxis(frames.astype(int), -1, 0)
    green = (g - np.maximum(r, b)).clip(20) - 20
    side = frames.shape[1]
    at = (np.arange(side) + 0.5) / side * 2 - 1
    total = green.sum((1, 2))
    return CAMERAS["overhead"] * np.stack([(green.sum(1) * at).sum(1), -(green.sum(2) * at).sum(1)], 1) / total[:, None]


def forward(angles: np.ndarray) -> np.ndarray:
    """float64 [T, 2]: where the gripper is if the joints have these angles."""
    return np.stack([BASE + UPPER * along(a) + FORE * along(a + b) for a, b in angles])


def test_the_store_holds_what_happened(params_only: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lerobot, "PER_VIDEO", 2)
    code, output = recorded(params_only / "arm", "--episodes", 3, "--frames", 12, 16, "--seed", 5)
    assert code == 0, output
    assert len(list((params_only / "arm/videos/observation.images.overhead").rglob("*.mp4"))) == 2
    store = {}
    for camera in CAMERAS:
        result = run(
            params_only, "collect", "--source", "lerobot", "--recordings", "arm", "--frame-skip", 1,
            "--recording-camera", f"observation.images.{camera}", "--size", f"{SIZE},{SIZE}", "--out", f"{camera}.zarr",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        store[camera] = open_episodes(params_only / f"{camera}.zarr")
    assert store["overhead"].attributes["frame_rate"] == 10
    for episode in range(3):
        rng = np.random.default_rng((5, episode))
        rows = list(play(rng, int(rng.integers(12, 17))))
        states, actions = np.stack([row.state for row in rows]), np.stack([row.action for row in rows])
        for camera, found in store.items():
            start, end = found.bounds(episode)
            assert end - start == len(rows)
            assert found.actions[start + 1 : end].tolist() == actions[:-1].tolist()
            assert np.abs(found.states[start:end] - states).max() < 1e-5
            shown, drawn = found.frames[start:end].astype(int), np.stack([row.pictures[camera] for row in rows])
            assert np.abs(shown - drawn).mean() < 6  # av1, and colour at half the resolution
        # Read off the pictures alone: the arm stands where its state says, and where the action before sent it.
        first, end = store["overhead"].bounds(episode)
        seen = where_the_gripper_is(np.asarray(store["overhead"].frames[first:end]))
        assert np.linalg.norm(seen - forward(states), axis=1).max() < 0.04
        sent = np.linalg.norm(seen[1:] - forward(actions[:-1]), axis=1)
        early = np.linalg.norm(seen[:-1] - forward(actions[:-1]), axis=1)
        assert np.median(sent) < 0.04 < np.median(early)


def test_what_is_said_of_the_data_set_is_so(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    assert recorded(tmp_path / "arm", "--episodes", 2, "--frames", 5, 9)[0] == 0
    info = json.loads((tmp_path / "arm/meta/info.json").read_text())
    table = pq.read_table(tmp_path / "arm/data/chunk-000/file-000.parquet")
    listed = pq.read_table(tmp_path / "arm/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    lengths = [episode["length"] for episode in listed]
    assert info["total_frames"] == table.num_rows == sum(lengths)
    assert {name for name, feature in info["features"].items() if feature["dtype"] != "video"} == set(
        table.column_names
    )
    assert table["index"].to_pylist() == list(range(sum(lengths)))
    assert [row for length in lengths for row in range(length)] == table["frame_index"].to_pylist()
    assert [episode["dataset_to_index"] for episode in listed] == np.cumsum(lengths).tolist()
    assert listed[1]["videos/observation.images.gripper/from_timestamp"] == lengths[0] / 10
    stats, actions = json.loads((tmp_path / "arm/meta/stats.json").read_text()), np.array(table["action"].to_pylist())
    assert stats["action"]["max"] == pytest.approx(actions.max(0).tolist())
    assert np.array(stats["observation.images.overhead"]["mean"]).shape == (3, 1, 1)
    for options, why in [((), "is there already"), (("--frames", 9, 5), "the first must not be larger")]:
        code, output = recorded(tmp_path / ("arm" if not options else "new"), *options)
        assert code == 2
        assert why in " ".join(output.replace("│", "").split())
        assert not (tmp_path / "new").exists()


def test_the_arm_reaches_pushes_and_keeps_the_block_on_the_table() -> None:
    for point in ([0.5, 0.3], [-0.6, -0.2], [0.0, 0.6]):
        assert forward(reach(np.array(point))[None])[0] == pytest.approx(point)
    arm = Arm(reach(np.array([0.0, -0.4])), np.array([0.0, 0.1, 0.0]))
    for y in np.linspace(-0.4, 0.6, 25):
        arm.step(reach(np.array([0.0, y])))
    assert arm.tip == pytest.approx([0.0, 0.6], abs=0.05)
    assert arm.block[1] > 0.7
    arm = Arm(reach(np.array([-0.2, 0.3])), np.array([-0.6, 0.3, 0.0]))
    for x in np.linspace(-0.2, -1.05, 40):
        arm.step(reach(np.array([x, 0.3])))
    assert TABLE - 0.1 < BLOCK - arm.block[0] < TABLE + 0.05


def test_gripper_and_block_are_found_by_their_colours() -> None:
    rows = [row for seed in range(3) for row in play(np.random.default_rng(seed), 20)]
    frames = np.stack([row.pictures["overhead"] for row in rows])
    found = places(np.asarray(frames).reshape(-1, 64, 2, 64, 2, 3).mean((2, 4)).astype(np.uint8))
    assert np.linalg.norm(found["block"] - [row.block[:2] for row in rows], axis=1).max() < 0.03
    assert np.linalg.norm(found["gripper"] - forward(np.stack([row.state for row in rows])), axis=1).max() < 0.03
    assert np.isnan(places(np.full((1, 64, 64, 3), 190, np.uint8))["block"]).all()
