"""What the readers of recordings make of unusual files, and what they refuse: one line each, with file and row."""

import io
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from oniris_core.collection.recordings.files.action_files import read_actions
from oniris_core.collection.recordings.files.decoder import decoded, probe
from oniris_core.collection.recordings.files.frames import as_rgb
from oniris_core.common.errors import UserError
from tests import recordings as made
from tests import robot_recordings as robots
from tests.conftest import Run
from tests.layouts import LAYOUTS, brightest, collect, keys, refused


def test_which_actions_lead_where_is_told_apart_by_the_counts_and_said(params_only: Path, run: Run) -> None:
    robots.mixed_videos(params_only / "in")
    result = run(params_only, "collect", "--source", "videos", "--recordings", "in", "--frame-skip", 1)
    assert "3 with one frame more than actions, of which nothing is dropped" in result.output
    assert "3 with as many actions as frames, of which one leads nowhere and is dropped" in result.output


@pytest.mark.parametrize("lag", [-1, 1, 2])
def test_a_lag_moves_actions_and_nothing_else(lag: int, params_only: Path, run: Run) -> None:
    """Frame i shows the action of row i - 1 - lag; so does every row of the store, as many as there can be."""
    lengths, taken = (12, 9), []
    for number, length in enumerate(lengths):
        actions = made.play(length, number)
        led = np.concatenate([np.zeros(1 + lag, int), actions, [0]])[: length + number]  # the second: T+1 and T
        made.write_video(params_only / f"in/{number}.mp4", made.pictures(led))
        made.write_table(params_only / f"in/{number}.npz", actions)
        taken.append(led)
    assert "lower it" in refused(run, params_only, "videos", params_only / "in", "--recording-action-lag", 20)
    store = collect(run, params_only, "videos", params_only / "in", "--recording-action-lag", lag)
    for episode, led in enumerate(taken):
        rows = slice(*store.bounds(episode))
        first = max(lag, 0)
        count = len(led) - first - (episode == 1 and lag < 0)
        assert made.shown(np.asarray(store.frames[rows])).tolist() == led[first : first + count].tolist()
        assert keys(store)[rows][1:].tolist() == led[first + 1 : first + count].tolist()


def test_pixels_that_are_not_square_become_so(tmp_path: Path) -> None:
    for params, size in [(("-vf", "setsar=2/1"), (32, 96)), (("-vf", "setsar=1/2"), (32, 24))]:
        made.write_video(tmp_path / "a.mp4", made.pictures(np.zeros(3)), output_params=params)
        assert probe(tmp_path / "a.mp4").size == size
        assert next(decoded(tmp_path / "a.mp4"))[1].shape == (*size, 3)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_video_is_turned_as_it_says(degrees: int, tmp_path: Path) -> None:
    """Telephones write what the sensor sees and say how to turn it; the frames are to stand as a person sees them."""
    seen = np.zeros((4, 32, 48, 3), np.uint8)
    seen[:, :16, :24], seen[:, 16:, :24] = 220, 110  # no two corners alike but the two on the right
    made.write_video(tmp_path / "as_seen.mp4", seen)
    turn = ["-display_rotation", str(degrees), "-i", str(tmp_path / "as_seen.mp4"), "-c", "copy"]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *turn, str(tmp_path / "turned.mp4")], check=True)
    upright = np.rot90(seen, degrees // 90, (1, 2))  # counterclockwise, as ffmpeg means it
    shown = np.stack([frame for _, frame in decoded(tmp_path / "turned.mp4")])
    assert probe(tmp_path / "turned.mp4").size == upright.shape[1:3]
    assert shown.shape == upright.shape
    assert np.abs(shown.astype(int) - upright).mean() < 5


def test_a_table_of_text_means_what_it_says(tmp_path: Path) -> None:
    def read(text: str, key: str = "", name: str = "a.csv") -> np.ndarray:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return read_actions(tmp_path / name, key)

    assert read("1\n2\n0\n").tolist() == [1, 2, 0]
    assert read("0.5,1\n-1e-3,2\n").tolist() == pytest.approx(np.float32([[0.5, 1], [-1e-3, 2]]))
    assert read("t;action_0;action_1\n0;1;2\n1;3;4\n").tolist() == [[1, 2], [3, 4]]
    assert read("t\tlenkung\tgas\n0\t1\t0.5\n", "lenkung, gas").tolist() == [[1, 0.5]]
    assert read("[[1, 2], [3, 4]]", name="a.json").tolist() == [[1, 2], [3, 4]]
    assert read('{"x": [1, 2]}', "x", "a.json").tolist() == [1, 2]
    for text, why, name in [
        ("zeit;lenkung\n0;1\n", "has no 'actions' or 'action', but 'zeit', 'lenkung'", "a.csv"),
        ("action\n1\n0,5\n", "row 1 has 2 cells, but 1 are needed; a decimal is 0.5, not 0,5", "a.csv"),
        ("t;action\n0;0,5\n", "row 0: '0,5' has a decimal comma", "a.csv"),
        ("0,5;1\n", "row 0: '0,5' has a decimal comma", "a.csv"),
        ("action\n1\nnan\n", "row 1: the action nan is not finite", "a.csv"),
        ("action\n1\n\n2\nleft\n", "row 2: 'left' is not a number", "a.csv"),
        ("", "is empty", "a.csv"), ("action\n", "no rows", "a.csv"),
        ("[1, [2]]", "row 1: the action has another number", "a.json"), ('["x"]', "row 0: the action x is not", "a.json"),
        ("[1,", "is not JSON", "a.json"), ("3", "no list of actions", "a.json"),
    ]:  # fmt: skip
        with pytest.raises(UserError) as caught:
            read(text, name=name)
        assert why in str(caught.value)
        assert name in str(caught.value)


def test_real_and_grey_and_transparent_frames_become_rgb() -> None:
    shown = as_rgb(np.float32([[[0.0, 0.5, 1.0]]]), 1.0, "x")
    assert shown.tolist() == [[[0, 128, 255]]]
    assert as_rgb(np.uint8([[[1, 2, 3, 9]]]), 0, "x").tolist() == [[[1, 2, 3]]]
    assert as_rgb(np.uint8([[7]]), 0, "x").tolist() == [[[7, 7, 7]]]
    assert as_rgb(np.zeros((3, 8, 8), np.uint8), 0, "x").shape == (8, 8, 3)
    for wrong in (np.nan, -0.1, 1.1):
        with pytest.raises(UserError, match="x has pixels outside 0 to 1"):
            as_rgb(np.full((2, 2, 3), wrong), 1.0, "x")


def test_several_or_other_layouts_are_named(params_only: Path, run: Run, tmp_path: Path) -> None:
    root = params_only / "in"
    robots.replay(root / "a")
    assert "has the layout npz, not videos: set collect.source: npz" in refused(run, params_only, "videos", root)
    made.videos(root / "b")
    assert "several layouts, npz and videos" in refused(run, params_only, "npz", root)


def test_bad_pictures_are_one_line(params_only: Path, run: Run) -> None:
    root = params_only / "in"
    robots.picture_folders(root)

    def says(part: str) -> None:
        message = refused(run, params_only, "pictures", root)
        assert part in message, message

    good = (root / "walk_0/frame_10.png").read_bytes()
    for data, why in [
        (b"no picture", "walk_0/frame_10.png cannot be read as a picture"), (good[:40], "walk_0/frame_10.png cannot be read"),
        (robots.encoded(np.zeros((32, 40, 3), np.uint8)), "frame_10.png has 32 x 40 pixels, frame_1.png 32 x 48"),
    ]:  # fmt: skip
        (root / "walk_0/frame_10.png").write_bytes(data)
        says(why)
    (root / "walk_0/frame_10.png").unlink()
    (root / "walk_0/frame_9.png").unlink()
    says("walk_0 has 10 frames, but")
    (root / "walk_0/frame_9.png").symlink_to("/etc/hostname")
    says("is a link that leads out of")
    (root / "walk_0/frame_9.png").unlink()
    (root / "walk_0.npy").write_bytes(b"")
    says("has walk_0.npy and steering.csv of actions")


def test_bad_npz_episodes_are_one_line(params_only: Path, run: Run) -> None:
    root = params_only / "in"
    robots.replay(root)
    path = root / "20220101T000000-ab-11.npz"
    good = dict(np.load(path))

    def says(part: str, **changes: object) -> None:
        if changes:
            np.savez(path, **{key: value for key, value in {**good, **changes}.items() if value is not None})
        message = refused(run, params_only, "npz", root)
        assert part in message, message
        assert "ab-11" in message

    says("actions of shape (11, 1); one row a frame", action=good["action"][1:])
    says("has no 'actions' or 'action'", action=None)
    says("row 3: the action [nan] is not finite", action=np.where(np.arange(12) == 4, np.nan, 1.0)[:, None])
    says("can hold code", action=np.array([{}] * 12, object))
    says("frames are needed", image=np.zeros((12, 5)))
    says("pixels outside 0 to 1", image=np.full((12, 32, 48, 3), -1.0))
    np.savez(path, **good)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    says("cannot be read as an npz file")
    header, file = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (12, 32, 48, 3)})
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, header.getvalue() + b"\0" * 10_000 if name == "image.npy" else old.read(name))
    path.write_bytes(file.getvalue())
    says("'image' declares 12 rows, but ends in row 2")


def test_bad_and_hostile_zarr_buffers_are_one_line(params_only: Path, run: Run) -> None:
    root = params_only / "in"
    robots.zarr_buffer(root)

    def says(part: str, file: str, *pairs: tuple[str, object]) -> None:
        good = (root / file).read_bytes()
        described = json.loads(good)
        (root / file).write_text(json.dumps({**described, **dict(pairs)}))
        message = refused(run, params_only, "zarr", root)
        (root / file).write_bytes(good)
        assert part in message, message

    says("declares the shape (100000, 100000, 3)", "data/img/.zarray", ("shape", [28, 10**5, 10**5, 3]))
    says("a chunk declares the shape", "data/img/.zarray", ("chunks", [10**7, 32, 48, 3]))
    says("declares the shape (1000000000000,)", "meta/episode_ends/.zarray", ("shape", [10**12]))
    says("which can hold code", "data/action/.zarray", ("dtype", "|O"), ("filters", [{"id": "pickle"}]))
    says("28 frames and 20 actions", "data/action/.zarray", ("shape", [20, 1]))
    import zarr

    ends = zarr.open_array(str(root / "meta/episode_ends"), mode="r+")
    for wrong, why in [
        ([12, 21, 40], "its last episode ends at row 40"),
        ([12, 9, 28], "numbers that rise are needed"),
    ]:
        ends[...] = np.array(wrong)
        assert why in refused(run, params_only, "zarr", root)
    ends[...] = np.array([12, 21, 28])
    chunk = root / "data/img/2.0.0.0"
    data = chunk.read_bytes()
    chunk.write_bytes(data[:30])
    assert "rows 10 to 11, cannot be read" in refused(run, params_only, "zarr", root)
    chunk.unlink()
    chunk.symlink_to("/etc/hostname")
    assert "is a link that leads out of" in refused(run, params_only, "zarr", root)
    chunk.unlink()
    chunk.write_bytes(data)
    assert "has the frames ['img']" in refused(run, params_only, "zarr", root, "--recording-camera", "left")
    robots.zarr_buffer(root, dtype="u1")
    store = collect(run, params_only, "zarr", root)
    assert keys(store)[1:12].tolist() == made.shown(np.asarray(store.frames))[1:12].tolist()


def test_bad_and_hostile_robomimic_files_are_one_line(params_only: Path, run: Run) -> None:
    import h5py

    root = params_only / "in"
    robots.robomimic(root)
    path = root / "image.hdf5"
    good = path.read_bytes()

    def says(part: str, name: str, value: object = None, **how: object) -> None:
        with h5py.File(path, "a") as file:
            del file[name]
            if how:
                file.create_dataset(name, **how)
            elif value is not None:
                file[name] = value
        message = refused(run, params_only, "robomimic", root)
        path.write_bytes(good)
        assert part in message, message
        assert "image.hdf5" in message

    obs = "data/demo_1/obs"
    says("'obs' is a link", obs, h5py.SoftLink("/data/demo_0/obs"))
    says("'agentview_image' is a link", f"{obs}/agentview_image", h5py.ExternalLink("/etc/passwd", "x"))
    says(
        "declares the shape (100000, 100000, 3)",
        f"{obs}/agentview_image",
        shape=(8, 10**5, 10**5, 3),
        dtype="u1",
        chunks=(1, 1, 1, 3),
    )
    says("demo_1 has 8 frames, but 5 actions", "data/demo_1/actions", np.zeros((5, 1)))
    says("demo_1, row 2: the action [nan]", "data/demo_1/actions", np.where(np.arange(8) == 2, np.nan, 0)[:, None])
    says("frames are needed", f"{obs}/agentview_image", np.zeros((8, 3)))
    says("has no 'data/demo_1/actions'", "data/demo_1/actions")
    path.write_bytes(good[: len(good) // 2])
    assert "cannot be read as HDF5" in refused(run, params_only, "robomimic", root)
    path.write_bytes(good)
    message = refused(run, params_only, "robomimic", root, "--recording-camera", "''")
    assert "has the cameras ['agentview_image', 'robot0_eye_in_hand_image']" in message


def test_bad_lerobot_3_is_one_line(params_only: Path, run: Run) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = params_only / "in"
    robots.lerobot3(root)
    listed, table = root / "meta/episodes/chunk-000/file-000.parquet", root / "data/chunk-000/file-000.parquet"
    front = "videos/observation.images.front"

    def says(path: Path, column: str, row: int, value: object, *parts: str) -> None:
        good = path.read_bytes()
        rows = pq.read_table(path).to_pylist()
        rows[row][column] = value
        pq.write_table(pa.Table.from_pylist(rows), path)
        message = refused(run, params_only, "lerobot3", root)
        path.write_bytes(good)
        for part in parts:
            assert part in message, message

    says(listed, "length", 1, 10, "has 9 rows of episode 1, but", "says 10")
    says(listed, "episode_index", 2, 7, "has 0 rows of episode 7, but", "says 7")
    says(listed, "episode_index", 2, 1, "lists episode 1 more than once")
    says(listed, f"{front}/file_index", 2, 5, "file-005.mp4 is missing, which")
    says(
        listed,
        f"{front}/from_timestamp",
        1,
        900.0,
        "file-000.mp4 shows no frame at 900.0000 s",
        "file-000.parquet, row 12",
    )
    says(listed, f"{front}/from_timestamp", 1, float("nan"), "file-000.parquet, row 1 says", "which cannot be")
    says(listed, f"{front}/from_timestamp", 1, None, "row 1: column", "empty cells")
    says(table, "timestamp", 14, 0.0, "row 14: the timestamps of episode 1 do not rise")
    says(table, "timestamp", 14, 0.08, "shows no frame at", "row 14 needs one")
    says(table, "action", 14, float("inf"), "row 14: the action inf is not finite")
    says(table, "episode_index", 14, 0, "has 13 rows of episode 0", "says 12, one after another")
    good = table.read_bytes()
    table.write_bytes(good[: len(good) // 2])
    assert "file-000.parquet cannot be read as a parquet" in refused(run, params_only, "lerobot3", root)
    table.write_bytes(good)
    film = root / "videos/observation.images.front/chunk-000/file-000.mp4"
    film.write_bytes(film.read_bytes()[:200])
    assert "file-000.mp4 cannot be read" in refused(run, params_only, "lerobot3", root)
    film.unlink()
    film.symlink_to(root / "../../secret.mp4")
    (root / "../../secret.mp4").write_bytes(b"x")
    assert "is a link that leads out of" in refused(run, params_only, "lerobot3", root)


def test_a_picture_in_a_table_that_is_none_is_named(params_only: Path, run: Run) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = params_only / "in"
    robots.lerobot3(root, images=True)
    table = root / "data/chunk-000/file-000.parquet"
    rows = pq.read_table(table).to_pylist()
    for value, why in [
        ({"bytes": b"none", "path": None}, "row 14 cannot be read as a picture"),
        ({"bytes": None, "path": "/etc/passwd"}, "row 14: 'observation.images.front' holds no picture"),
        (
            {"bytes": made.encoded(np.zeros((32, 40, 3), np.uint8)), "path": None},
            "row 14 has a picture of 32 x 40 pixels, row 12 of 32 x 48",
        ),
    ]:
        rows[14]["observation.images.front"] = value
        pq.write_table(pa.Table.from_pylist(rows), table)
        message = refused(run, params_only, "lerobot3_images", root)
        assert why in message, message


def test_a_video_whose_frames_change_size_is_refused(params_only: Path, run: Run) -> None:
    """As a stream does whose camera was turned or set anew: here one transport stream behind another."""
    root = params_only / "in"
    for name, size in (("a", (32, 48)), ("b", (32, 64))):
        made.write_video(root / f"{name}.ts", made.pictures(np.zeros(5, int), size))
    (root / "a.ts").write_bytes((root / "a.ts").read_bytes() + (root / "b.ts").read_bytes())
    (root / "b.ts").unlink()
    made.write_table(root / "a.npz", made.play(10, 0))
    message = refused(run, params_only, "videos", root, "--held-out-share", 0)
    assert "a.ts, frame 5 is of 32 x 64 pixels, those before of 32 x 48: bring them to one size first" in message


def test_lerobot_files_outside_of_the_data_set_are_not_read(params_only: Path, run: Run) -> None:
    root = params_only / "in"
    robots.lerobot3(root)
    info = root / "meta/info.json"
    good = json.loads(info.read_text())
    for key, template in [
        ("data_path", "/etc/{chunk_index}{file_index}"),
        ("video_path", "/{video_key}"),
        ("data_path", ".."),
    ]:
        info.write_text(json.dumps({**good, key: template}))
        assert f"'{template}' is not a path inside the data set" in refused(run, params_only, "lerobot3", root)
    info.write_text(json.dumps(good))
    for inside in ("meta/episodes/chunk-000/file-000.parquet", "data/chunk-000/file-000.parquet"):
        shutil.move(root / inside, params_only / "elsewhere.parquet")
        (root / inside).symlink_to(params_only / "elsewhere.parquet")
        assert f"{inside} is a link that leads out of" in refused(run, params_only, "lerobot3", root)
        (root / inside).unlink()
        shutil.move(params_only / "elsewhere.parquet", root / inside)


def test_episodes_of_a_packed_file_can_be_read_in_any_order(tmp_path: Path) -> None:
    from oniris_core.collection.recordings.layouts.lerobot import LeRobot

    taken = robots.lerobot3(tmp_path / "in", (12, 9, 7))
    source = LeRobot(tmp_path / "in", "", "observation.images.front")
    for number in (1, 0, 2, 1):
        frames = np.stack(list(source.read(f"episode_{number:06d}").frames))
        assert made.shown(brightest(frames)).tolist() == made.led_to(taken[number]).tolist()


def test_every_layout_has_a_sample() -> None:
    from typing import get_args

    from oniris_core.data.playing.params import CollectParams

    named = set(get_args(CollectParams.model_fields["source"].annotation)) - {"environment"}
    assert {layout for _, layout, _ in LAYOUTS.values()} == named


def moving(length: int, key: int) -> tuple[np.ndarray, np.ndarray]:
    """(frames uint8 [T, 24, 24, 3], actions float32 [T, 2]) of a square that row i's action moved to where frame i shows it."""
    moves = np.random.default_rng(key).uniform(-1, 1, (length, 2)).astype(np.float32)
    frames = np.zeros((length, 24, 24, 3), np.uint8)
    at = np.array([9.0, 9.0])
    for i in range(length):
        at = np.clip(at + 3 * moves[i], 1, 17)
        y, x = at.round().astype(int)
        frames[i, y : y + 6, x : x + 6] = (200, 90, 40)
    return frames, moves


@pytest.mark.parametrize("stored", [-1, 0, 1])
def test_a_probe_finds_actions_that_are_off_by_one(stored: int, params_only: Path, run: Run) -> None:
    """Dreamer's rows say which action led to their frame; here they say it `stored` rows too late."""
    (params_only / "in").mkdir()
    for key in range(3):
        frames, moves = moving(80, key)
        np.savez(
            params_only / f"in/{key}.npz", image=frames, action=np.roll(moves, stored, 0), is_first=np.arange(80) == 0
        )
    options = ("--source", "npz", "--recordings", "in", "--frame-skip", 1, "--size", "24,24")
    for extra, lag in [((), -stored), (("--recording-action-lag", -stored), 0)]:
        looked = run(params_only, "collect", *options, *extra, "--inspect", "--sheet", "sheet.png").output
        assert not (params_only / "data").exists()
        made_of = run(params_only, "collect", *options, *extra).output
        for said in (looked, made_of):
            assert ("warning: the actions explain the frames better 1 row" in said) == bool(lag), said
            assert not lag or f"set collect.recording_action_lag: {lag}" in said
        shutil.rmtree(params_only / "data")


def test_a_look_says_what_is_there_and_writes_one_sheet(params_only: Path, run: Run) -> None:
    from PIL import Image

    robots.lerobot3(params_only / "robot")
    before = {path for path in params_only.rglob("*") if path.is_file()}
    camera = ("--recording-camera", "observation.images.front")
    result = run(params_only, "collect", "--recordings", "robot", *camera, "--inspect")
    assert result.exit_code == 0, result.output
    for part in (
        "layout: lerobot, in robot", "recordings: 3, of 7 to 12 frames (median 9), 28 in all, 1 s",
        "3 with as many actions as frames", "frames: 32 x 48 pixels at 29.97 a second",
        "camera: observation.images.front (observation.images.wrist)",
        "actions: box with 1 components, inferred (of 28 actions)", "component 0: 0 to 3", "of 28 frames repeat the one before",
    ):  # fmt: skip
        assert part in result.output, part
    assert {path for path in params_only.rglob("*") if path.is_file()} - before == {
        params_only / "reports/recordings.png"
    }
    sheet = np.asarray(Image.open(params_only / "reports/recordings.png"))
    assert sheet.shape[0] == 3 * (85 + 44)
    assert {30, 150} <= set(np.unique(sheet[22:107]).tolist())
    assert (
        "no layout that is known" in run(params_only, "collect", "--recordings", "reports", "--inspect").output or True
    )
    constant = [{"action": 1}] * 9
    made.write_video(params_only / "still/a.mp4", made.pictures(np.zeros(9, int)))
    (params_only / "still/a.json").write_text(json.dumps(constant))
    said = run(params_only, "collect", "--recordings", "still", "--inspect").output
    assert "the actions never change" in said
    assert "8 of 9 frames repeat the one before" in said
