"""Recordings instead of an environment: every layout gives the same store, row by row with the action that led there."""

import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from oniris_core.collection.recordings.conversion import convert
from oniris_core.collection.recordings.files.decoder import decoded
from oniris_core.collection.recordings.files.spaces import given_space, inferred_space, numbers
from oniris_core.collection.recordings.sources import agreed_space, open_source
from oniris_core.common.errors import Interrupted
from oniris_core.common.process import StopRequest
from oniris_core.config.reader import build, read_yaml
from oniris_core.data.episodes.store import EpisodeStore, open_episodes
from oniris_core.data.playing.params import CollectParams
from tests import recordings as made
from tests.conftest import ROOT, Run, start, tree
from tests.layouts import LAYOUTS, RATES, brightest, collect, keys, refused
from tests.project import defaults

TAKEN: dict[str, list[np.ndarray]] = {}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small source of each layout. Look, do not touch."""
    root = tmp_path_factory.mktemp("recordings")
    for name, (make, _, _) in LAYOUTS.items():
        TAKEN[name] = make(root / name)
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_row_holds_the_action_that_led_to_its_frame(layout: str, sources: Path, params_only: Path, run: Run) -> None:
    taken = TAKEN[layout]
    store = collect(run, params_only, layout, sources / layout)
    frames = brightest(np.asarray(store.frames))
    assert len(store.episode_ends) == len(taken)
    for episode, actions in enumerate(taken):
        rows = slice(*store.bounds(episode))
        # The truth is in the frames; a shift by one either way fails here.
        assert made.shown(frames[rows]).tolist() == made.led_to(actions).tolist()
        assert keys(store)[rows][1:].tolist() == actions[:-1].tolist()
        assert not np.asarray(store.actions[rows][0]).any()
    assert store.frame_size == (16, 24)
    assert set(store.split.tolist()) == {0, 1}
    assert "env_id" not in store.attributes
    assert store.attributes["frame_rate"] == RATES.get(layout, 30)


@pytest.mark.parametrize("layout", ["counter_strike", "lerobot3", "zarr"])
def test_the_same_source_gives_the_same_bytes_wherever_it_lies(layout: str, params_only: Path, run: Run) -> None:
    stores = []
    for place in ("here", "there"):
        LAYOUTS[layout][0](params_only / place)
        collect(run, params_only, layout, params_only / place)
        stores.append(tree(params_only / "data/episodes.zarr"))
    assert stores[0] == stores[1]
    collect(run, params_only, layout, params_only / "there")
    assert tree(params_only / "data/episodes.zarr") == stores[1]


def test_what_a_source_says_beyond_frames_and_actions(sources: Path, params_only: Path, run: Run) -> None:
    import zarr

    def arrays(layout: str) -> tuple[EpisodeStore, dict[str, np.ndarray]]:
        store = collect(run, params_only, layout, sources / layout)
        group = zarr.open_group(params_only / "data/episodes.zarr", mode="r")
        return store, {
            name: np.asarray(group[f"data/{name}"][...]) for name in ("rewards", "states", "terminated", "truncated")
        }

    store, found = arrays("counter_strike")
    assert not np.asarray(store.frames)[..., :2].any()  # blue is last here; the files have it first
    assert found["rewards"].tolist() == [float(k == 2) for k in made.shown(brightest(np.asarray(store.frames)))]
    assert np.flatnonzero(found["truncated"]).tolist() == (store.episode_ends - 1).tolist()

    store, found = arrays("minari")
    assert found["rewards"].tolist() == keys(store).tolist()
    assert np.flatnonzero(found["terminated"]).tolist() == (store.episode_ends - 1).tolist()
    assert not found["truncated"].any()

    store, found = arrays("lerobot")
    assert found["rewards"].tolist() == keys(store).tolist()
    assert found["states"][:, 0].tolist() == [i for length in (12, 9, 7) for i in range(length)]
    assert np.flatnonzero(found["terminated"]).tolist() == (store.episode_ends - 1).tolist()


def test_long_recordings_become_episodes_that_hold_every_step_once(sources: Path, params_only: Path, run: Run) -> None:
    whole = collect(run, params_only, "videos", sources / "videos")
    store = collect(run, params_only, "videos", sources / "videos", "--max-frames", 6)
    lengths = np.diff(store.episode_ends, prepend=0)
    assert lengths.tolist() == [6, 6, 6, 5, 6, 6, 3, 6, 4]
    assert store.attributes["recordings"] == {"walk_0": 4, "walk_1": 3, "walk_2": 2}
    assert len(set(store.episode_seed.tolist())) == len(lengths)
    # Pieces of one recording are on one side.
    sides = np.split(store.split, [4, 7])
    assert [set(side.tolist()) for side in sides] == [{int(side[0])} for side in sides]
    steps = {"whole": [], "pieces": []}
    for name, found in (("whole", whole), ("pieces", store)):
        for episode in range(len(found.episode_ends)):
            start, end = found.bounds(episode)
            steps[name] += [
                (found.frames[i - 1].tobytes(), int(found.actions[i]), found.frames[i].tobytes())
                for i in range(start + 1, end)
            ]
            assert found.actions[start] == 0
    assert steps["whole"] == steps["pieces"]


def test_a_last_episode_of_two_frames_is_one_too(params_only: Path, run: Run) -> None:
    """What is left of a recording may be a single step; no step at all is left where its end is that of an episode."""
    taken = made.videos(params_only / "in", (7, 11, 2))
    store = collect(run, params_only, "videos", params_only / "in", "--max-frames", 6)
    assert np.diff(store.episode_ends, prepend=0).tolist() == [6, 2, 6, 6, 2]
    assert store.attributes["recordings"] == {"walk_0": 2, "walk_1": 2, "walk_2": 1}
    steps = list[int]()
    for episode in range(5):
        rows = slice(*store.bounds(episode))
        assert made.shown(np.asarray(store.frames[rows]))[1:].tolist() == keys(store)[rows][1:].tolist()
        steps += keys(store)[rows][1:].tolist()
    assert steps == [action for actions in taken for action in actions[:-1].tolist()]


@pytest.mark.parametrize("kept", ["last", "all"])
def test_skipped_frames_keep_the_actions_they_are_told_to(
    kept: str, sources: Path, params_only: Path, run: Run
) -> None:
    store = collect(
        run, params_only, "videos", sources / "videos", "--frame-skip", 3, "--recording-skipped-actions", kept
    )
    assert store.attributes["frame_rate"] == pytest.approx(20 / 3)
    for episode, actions in enumerate(made.play(n, key) for key, n in enumerate((20, 13, 9))):
        rows = slice(*store.bounds(episode))
        found = store.actions[rows]
        steps = (len(actions) - 1) // 3
        assert len(found) == steps + 1
        assert made.shown(np.asarray(store.frames[rows])).tolist() == made.led_to(actions)[::3].tolist()
        between = actions[: steps * 3].reshape(steps, 3)
        assert found[1:].tolist() == (between if kept == "all" else between[:, -1]).tolist()
    assert store.action_spec.sizes == ((4,) if kept == "last" else (4, 4, 4))
    assert store.action_spec.kind == ("discrete" if kept == "last" else "multi_discrete")
    assert np.isfinite(store.action_spec.encode(store.actions)).all()


def test_an_action_may_belong_to_its_own_row(params_only: Path, run: Run) -> None:
    for number in range(2):
        led = made.led_to(made.play(9, number))
        made.write_video(params_only / f"in/{number}.mp4", made.pictures(led))
        made.write_table(params_only / f"in/{number}.npz", led)
    store = collect(run, params_only, "videos", params_only / "in", "--recording-action-lag", -1)
    assert keys(store).tolist() == made.shown(np.asarray(store.frames)).tolist()


def test_frames_of_a_variable_rate_are_taken_as_they_come(tmp_path: Path) -> None:
    """Decoded at a constant rate, a pause of half a second would become ten more frames."""
    led = made.led_to(made.play(12, 0))
    late = ("-vf", "setpts=PTS+gte(N\\,6)*0.5/TB", "-fps_mode", "passthrough")
    made.write_video(tmp_path / "pause.mp4", made.pictures(led), output_params=late)
    assert made.shown(np.stack([frame for _, frame in decoded(tmp_path / "pause.mp4")])).tolist() == led.tolist()


def test_a_killed_run_goes_on_and_gives_the_same_bytes(params_only: Path, run: Run) -> None:
    made.counter_strike(params_only / "in", (60,) * 6)
    options = ("--source", "counter_strike", "--recordings", "in", "--frame-skip", "1", "--max-frames", "20")
    assert run(params_only, "collect", *options, "--out", "undisturbed.zarr").exit_code == 0
    with start(params_only, "collect", *options) as process:
        patience = time.monotonic() + 60
        while len(list(params_only.glob("runs/collect/*/*/recording_??????.json"))) < 2 and time.monotonic() < patience:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.kill()
    assert not (params_only / "data/episodes.zarr").exists()
    with start(params_only, "collect", *options) as process:
        assert process.communicate()[1] is not None
        assert process.returncode == 0
    assert tree(params_only / "data/episodes.zarr") == tree(params_only / "undisturbed.zarr")


def test_finished_recordings_are_not_converted_again(sources: Path, tmp_path: Path) -> None:
    content = defaults()["collect"]
    changed = {"source": "counter_strike", "recordings": str(sources / "counter_strike"), "size": [8, 8]}
    params = build(CollectParams, "collect", {**content, **changed, "max_frames": 9}, "test")
    source, stop = open_source(params), StopRequest()
    spec, names = agreed_space(source, params), list(source.files.of)
    half = convert(source, spec, params, tmp_path, stop)
    assert next(half) == names[0]
    stop.signal_number = 2
    with pytest.raises(Interrupted):
        next(half)
    assert list(convert(source, spec, params, tmp_path, StopRequest())) == names[1:]
    assert list(convert(source, spec, params, tmp_path, StopRequest())) == []


def test_spaces_are_inferred_or_given() -> None:
    ints, reals = numbers(np.array([0, 2, 1]), "a"), numbers(np.array([[0.5, 1.0], [-2, 1.0]]), "a")
    assert inferred_space([("a", ints), ("b", ints + 1)]).sizes == (4,)
    box = inferred_space([("a", reals)])
    assert (box.kind, box.low, box.high) == ("box", (-2.0, -1.0), (0.5, 1.0))  # a constant gets bounds that differ
    assert inferred_space([("a", numbers(np.eye(3, dtype=bool), "a"))]).kind == "multi_binary"
    assert inferred_space([("a", numbers(np.array([[0, 5], [1, 2]]), "a"))]).sizes == (2, 6)
    assert given_space({"kind": "discrete", "sizes": [7], "start": [1]}).start == (1,)
    assert given_space({"kind": "box", "low": [0], "high": [2.5]}).high == (2.5,)
    for wrong, why in [
        ({"kind": "discreet"}, "one of discrete"), ({"size": [3]}, "did you mean 'sizes'"),
        ({"kind": "box", "low": [1], "high": [1]}, "each low below its high"), ({"kind": "discrete"}, "needs sizes"),
        ({"kind": "multi_discrete", "sizes": ["x"]}, "a list of numbers"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=why):
            given_space(wrong)


def copy_of(sources: Path, layout: str, folder: Path) -> Path:
    return Path(shutil.copytree(sources / layout, folder / "in"))


def test_bad_folders_of_videos_are_one_line(sources: Path, params_only: Path, run: Run, tmp_path: Path) -> None:
    root = copy_of(sources, "videos", tmp_path)

    def says(*parts: str, options: tuple[object, ...] = ()) -> None:
        message = refused(run, params_only, "videos", root, *options)
        for part in parts:
            assert part in message, message

    says("kind is 'bax'", options=("--recording-action-space", "{kind: bax}"))
    says(
        "walk_0, row", "outside the action space", options=("--recording-action-space", "{kind: discrete, sizes: [3]}")
    )
    says("has no 'keys', but 'actions'", options=("--recording-action-key", "keys"))
    says("no cameras", options=("--recording-camera", "front"))
    says("need at least 2", options=("--max-frames", 1))

    good = (root / "walk_0.npz").read_bytes()
    made.write_table(root / "walk_0.npz", made.play(18, 0))
    says("walk_0.mp4 has 20 frames, but", "walk_0.npz has 18 actions")
    made.write_table(root / "walk_0.npz", np.array([[0.5]] * 7 + [[np.nan]] + [[1.0]] * 12))
    says("walk_0.npz, row 7", "[nan] is not finite")
    made.write_table(root / "walk_0.npz", np.full((20, 2), 0.5))
    says("the action space changes", "walk_0 has 2 real numbers a row", "walk_1 has one whole number a row")
    np.savez(root / "walk_0.npz", actions=np.array([{"a": 1}] * 20, object))
    says("walk_0.npz", "can hold code")
    made.write_table(root / "walk_0.npz", np.array(["left"] * 20))
    says("walk_0.npz", "whole or real numbers")
    (root / "walk_0.npz").write_bytes(good[:100])
    says("walk_0.npz cannot be read as an npz file")
    (root / "walk_0.npz").write_bytes(absurd_npz())
    says("walk_0.npz", "declares the shape (1000000000000000,)")
    (root / "walk_0.npz").write_bytes(good)

    jsonl = (root / "walk_2.jsonl").read_text()
    for line, why in [
        ('{"actions": [1, 2]}', "another number of components"), ("nonsense", "is not JSON"), ("[" * 5000, "is not JSON"),
        ("[1]", "not a JSON object"), ('{"a": 1}', "has no 'actions' or 'action'"),
    ]:  # fmt: skip
        (root / "walk_2.jsonl").write_text("".join([*jsonl.splitlines(keepends=True)[:4], line + "\n"]))
        says("walk_2.jsonl, row 4", why)
    (root / "walk_2.jsonl").write_text(jsonl)
    (root / "walk_2.npz").write_bytes(good)
    says("walk_2.mp4 has walk_2.jsonl and walk_2.npz of actions")
    (root / "walk_2.npz").unlink()

    parquet = (root / "walk_1.parquet").read_bytes()
    (root / "walk_1.parquet").write_bytes(parquet[:50])
    says("walk_1.parquet cannot be read as a parquet")
    (root / "walk_1.parquet").unlink()
    says("walk_1.mp4 has no file of actions beside it")
    (root / "walk_1.parquet").write_bytes(parquet)

    video = (root / "walk_1.mp4").read_bytes()
    for damaged in (
        b"",
        b"not a video at all",
        b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n",
        video[: len(video) // 3],
    ):
        (root / "walk_1.mp4").write_bytes(damaged)
        says("walk_1.mp4", "cannot be read as a .mp4 video")
    made.write_video(root / "walk_1.mp4", made.pictures(made.led_to(made.play(13, 1)), (32, 64)))
    says("walk_0.mp4 has frames of 32 x 48", "walk_1.mp4 of 32 x 64")
    made.write_video(root / "walk_1.mp4", made.pictures(made.led_to(made.play(13, 1))), rate=25)
    says("the frame rates [20.0, 25.0]")
    (root / "walk_1.mp4").unlink()
    says("walk_1.parquet has no video walk_1.mp4")
    (root / "walk_1.doc").write_bytes(video)
    says("walk_1.doc: videos end in .mp4")


def absurd_npz() -> bytes:
    """An array that declares 10^15 numbers in a few bytes."""
    import io
    import zipfile

    header, file = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (10**15,)})
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("actions.npy", header.getvalue())
    return file.getvalue()


def test_folders_that_are_none_are_one_line(params_only: Path, run: Run, sources: Path) -> None:
    (params_only / "empty").mkdir()
    for layout, why in [
        ("videos", "holds no videos"), ("counter_strike", "holds no .hdf5"), ("minari", "metadata.json is missing"),
        ("lerobot", "info.json is missing"),
    ]:  # fmt: skip
        assert why in refused(run, params_only, layout, "empty")
        assert "does not exist" in refused(run, params_only, layout, "nowhere")
        assert "is a file" in refused(run, params_only, layout, "params.yaml")
        assert "set collect.recordings" in refused(run, params_only, layout, "''")
    made.write_video(params_only / "one/a.mp4", made.pictures(made.play(5, 0)))
    made.write_table(params_only / "one/a.npz", made.play(5, 0))
    assert "held_out_share: 0" in refused(run, params_only, "videos", "one")


def test_hostile_hdf5_is_refused(sources: Path, params_only: Path, run: Run, tmp_path: Path) -> None:
    import h5py

    root = copy_of(sources, "counter_strike", tmp_path)
    path = root / "hdf5_dm_july2021_2.hdf5"
    good = path.read_bytes()

    def says(part: str) -> None:
        message = refused(run, params_only, "counter_strike", root)
        assert part in message, message
        assert "hdf5_dm_july2021_2.hdf5" in message
        path.write_bytes(good)

    def edit(name: str, value: object = None, **how: object) -> None:
        with h5py.File(path, "a") as file:
            del file[name]
            if how:
                file.create_dataset(name, **how)
            elif value is not None:
                file[name] = value

    path.write_bytes(b"not HDF5")
    says("cannot be read as HDF5")
    edit("frame_3_y", h5py.ExternalLink(str(root / "hdf5_dm_july2021_1.hdf5"), "frame_3_y"))
    says("'frame_3_y' is a link")
    edit("frame_3_x", h5py.SoftLink("/frame_0_x"))
    says("'frame_3_x' is a link")
    edit("frame_3_y", shape=(10**15,), dtype="f8", chunks=(10,))
    says("declares the shape (1000000000000000,)")
    edit("frame_3_y", shape=(51,), dtype=h5py.string_dtype())
    says("can hold code")
    edit("frame_0_x", shape=(51, 3), dtype="u1")
    says("[H, W, 3] is needed")
    edit("frame_3_x", shape=(150, 281, 3), dtype="u1")
    says("'frame_3_x' is uint8 of shape (150, 281, 3)")
    edit("frame_3_y", np.full(51, np.nan))
    says("row 3")
    edit("frame_3_y", np.zeros(50))
    says("(51,) is needed")
    edit("frame_3_y")
    says("has no 'frame_3_y'")
    edit("frame_8_x")
    says("'frame_8_y' has no frame")
    edit("frame_3_x", shape=(150, 280, 3), dtype="u1", external=[("/etc/hostname", 0, 150 * 280 * 3)])
    says("kept in another file")


def test_bad_lerobot_data_is_one_line(sources: Path, params_only: Path, run: Run, tmp_path: Path) -> None:
    root = copy_of(sources, "lerobot", tmp_path)
    info, good = root / "meta/info.json", json.loads((root / "meta/info.json").read_text())

    def says(part: str, options: tuple[object, ...] = (), **changes: object) -> None:
        info.write_text(json.dumps({**good, **changes}))
        message = refused(run, params_only, "lerobot", root, *options)
        assert part in message, message

    says("versions 2.0, 2.1 and 3.0 are read", codebase_version="v1.6")
    says("not a path inside", data_path="../../{episode_index:06d}.parquet")
    says("not a path inside", video_path="{episode_index.__class__}")
    says("not a path inside", video_path="{episode_index:0999999999d}")
    says("has no camera 'left'", ("--recording-camera", "left"))
    says("choose one with collect.recording_camera", ("--recording-camera", "''"))
    info.write_text("{")
    assert "does not describe a LeRobot" in refused(run, params_only, "lerobot", root)
    info.write_text(json.dumps(good))
    lines = (root / "meta/episodes.jsonl").read_text()
    (root / "meta/episodes.jsonl").write_text(lines.replace('"length": 9', '"length": 8'))
    says("episode_000001.parquet has 9 rows of episode 1, but")
    (root / "meta/episodes.jsonl").write_text(lines)
    (root / "data/chunk-000/episode_000001.parquet").unlink()
    says("episode_000001.parquet is missing")


def test_bad_minari_data_is_one_line(sources: Path, params_only: Path, run: Run, tmp_path: Path) -> None:
    import h5py

    root = copy_of(sources, "minari", tmp_path)
    file, metadata = root / "data/main_data.hdf5", root / "data/metadata.json"
    good, described = file.read_bytes(), json.loads(metadata.read_text())
    metadata.write_text(
        json.dumps({k: v for k, v in described.items() if k != "action_space"} | {"env_spec": "os:system"})
    )
    assert "does not say its observation_space" in refused(run, params_only, "minari", root)
    metadata.write_text(json.dumps({**described, "minari_version": "99"}))
    assert "cannot be read as a Minari data set" in refused(run, params_only, "minari", root)
    metadata.write_text(json.dumps(described))
    assert "has the frames ['pixels']" in refused(run, params_only, "minari", root, "--recording-camera", "speed")
    with h5py.File(file, "a") as data:
        del data["episode_1/actions"]
        data["episode_1/actions"] = h5py.ExternalLink("/etc/passwd", "x")
    assert "'actions' is a link" in refused(run, params_only, "minari", root)
    file.write_bytes(good)
    with h5py.File(file, "a") as data:
        del data["episode_1/actions"]
        data["episode_1/actions"] = np.zeros(5, np.int64)
    assert "5 actions, 8 rewards" in refused(run, params_only, "minari", root)


def test_a_missing_package_is_named_with_its_extra(
    sources: Path, params_only: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for layout, module, package in [("counter_strike", "h5py", "h5py"), ("minari", "minari", "minari"),
                                    ("videos", "pyarrow.parquet", "pyarrow")]:  # fmt: skip
        monkeypatch.setitem(sys.modules, module, None)
        message = refused(run, params_only, layout, sources / layout)
        assert f"needs the package {package}: pip install '.[recordings]'" in message
        monkeypatch.undo()


def test_the_counter_strike_preset_trains(params_only: Path, run: Run) -> None:
    """Files in the published layout through the preset's own architecture: each network takes a step."""
    import torch

    from oniris_core.data.episodes.clips import FrameClips
    from oniris_core.data.latents.clips import LatentClips
    from oniris_core.data.latents.store import open_latents, write_latents
    from oniris_core.data.rows.clips import TRAIN
    from oniris_core.training.fit.trainer import Trainer
    from oniris_core.training.vae.params import TrainVaeParams
    from oniris_core.training.vae.trainer import VaeTrainer
    from oniris_core.training.world.params import TrainParams
    from oniris_core.training.world.trainer import WorldTrainer, denoiser_config

    def takes_a_step(trainer: Trainer) -> None:
        model, optimizer = trainer.state.model, trainer.state.optimizer
        before = [parameter.detach().sum() for parameter in model.parameters()]
        outcome = trainer.objective(trainer.batch(0, 0))
        assert torch.isfinite(outcome.loss)
        outcome.loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = trainer.lr(10, 0.1)
        optimizer.step()
        trainer.after_step([outcome.kept])
        after = [parameter.detach().sum() for parameter in model.parameters()]
        changed = sum(bool(a != b) for a, b in zip(before, after, strict=True))
        assert changed > len(before) / 4  # in the first step gains of zero hold the others back

    made.counter_strike(params_only / "data/counter_strike", (9, 9))
    assert run(params_only, "preset", "csgo").exit_code == 0
    # The preset compiles for a GPU; on two cores that would take minutes and change nothing that is looked at here.
    assert run(params_only, "collect").exit_code == 0
    played, content = open_episodes(params_only / "data/episodes.zarr"), read_yaml(params_only / "params.yaml")
    content["fit"]["compile"] = False
    cpu = torch.device("cpu")

    vae_params = build(
        TrainVaeParams, "train_vae", {**content["fit"], **content["train_vae"], "batch": 1, "clip_frames": 4}, "test"
    )
    vae = VaeTrainer(vae_params, FrameClips(played, TRAIN, 4, 4), 0, cpu)
    takes_a_step(vae)
    with torch.no_grad():
        latents, _, _ = vae.vae.encoder(torch.zeros(1, 8, 3, 128, 128))
    assert latents.shape == (1, 2, 8, 32, 32)

    random = np.random.default_rng(0).normal(size=(2, 3, *latents.shape[2:])).astype(np.float16)
    actions = played.actions.reshape(2, 9, -1)[:, [[0] * 4, [1, 2, 3, 4], [5, 6, 7, 8]]]
    attributes = {**played.attributes, "vae_identity": "made", "compression": 24.0, "frames_per_latent": 4}
    write_latents(
        params_only / "data/latents.zarr", zip(random, actions, *[np.zeros((2, 3, 4))] * 2, strict=True),
        np.array([3, 6]), played.episode_seed, played.split, attributes,
    )  # fmt: skip
    section = {**content["fit"], **content["train"], "batch": 1, "clip_latents": 2, "ema_widths": [0.05]}
    params, store = build(TrainParams, "train", section, "test"), open_latents(params_only / "data/latents.zarr")
    config = denoiser_config(params, store)
    assert (config.unet.channels, config.unet.channel_mult, config.action_features) == (128, (1, 2, 4, 4), 4 * 51)
    clips = LatentClips(store, TRAIN, params.clip_latents, "test")
    takes_a_step(WorldTrainer(params, config, clips, 0, cpu, params_only / "kept"))


def test_the_document_reads_what_it_shows(sources: Path, tmp_path: Path, run: Run) -> None:
    """Every layout's lines for params.yaml in docs/recordings.md, on the data that the tests make."""
    from ruamel.yaml import YAML

    text = (ROOT / "docs/recordings.md").read_text()
    blocks = [
        YAML(typ="safe").load(block) for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ]
    assert {block["source"] for block in blocks} == {layout for _, layout, _ in LAYOUTS.values()}
    for block in blocks:
        folder = tmp_path / block["source"]
        folder.mkdir()
        (folder / block["recordings"]).symlink_to(sources / block["source"])
        content = defaults()
        content["collect"].update({**block, "size": [16, 24]})
        with (folder / "params.yaml").open("w") as file:
            YAML().dump(content, file)
        result = run(folder, "collect")
        assert result.exit_code == 0, result.output
    for command in re.findall(r"^    python -m (.*)$", text, re.MULTILINE):
        module, *options = command.split()
        result = run(tmp_path, module.removeprefix("stages."), "--help")
        for option in options[::2]:
            assert option in result.output, command
