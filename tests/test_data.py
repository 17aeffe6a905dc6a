"""The contracts of the stores: alignment, grouping, determinism, and what survives a kill."""

import contextlib
import itertools
import json
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st

from oniris_core.common.errors import UserError
from oniris_core.common.seeds import numpy_rng, torch_generator
from oniris_core.data.episodes.clips import FrameClips, cut_out
from oniris_core.data.episodes.groups import group_actions, group_count, group_rows, read_groups
from oniris_core.data.episodes.store import open_episodes
from oniris_core.data.latents.clips import LatentClips
from oniris_core.data.latents.store import LatentStatistics, RunningStatistics, open_latents
from oniris_core.data.playing.environments import fit_screen, make_env, screen_of
from oniris_core.data.playing.rollouts import episode_seed, held_out, play_episode
from oniris_core.data.rows.actions import ActionSpec, action_spec
from oniris_core.data.rows.clips import index_clips
from oniris_core.data.rows.sharded import sharded
from oniris_core.data.rows.zarrs import (
    LEAST_CHUNK_BYTES,
    MOST_SHARD_BYTES,
    MOST_SHARDS,
    ROWS_PER_SHARD,
    RowWriter,
    add_rows,
    preload,
    rows_per_chunk,
    rows_per_shard,
)
from oniris_core.vae.store import load_vae, save_vae
from tests.conftest import Run, collect_params, start, tree

PARAMS = collect_params(
    episodes=6, max_frames=30, size=(32, 48), heuristic_share=0.5, random_actions=0.3,
    held_out_share=0.2, workers=1,
)  # fmt: skip


def test_a_row_holds_the_frame_its_action_led_to() -> None:
    """Replays the recorded actions from the recorded seed: frames, states and rewards must come out row for row."""
    episode = play_episode(make_env(PARAMS.env_id, {}, False), PARAMS, seed=3, index=1)
    env = gym.make(PARAMS.env_id, render_mode="rgb_array")
    observation, _ = env.reset(seed=episode.seed)
    assert episode.seed == episode_seed(3, 1)
    assert np.array_equal(fit_screen(screen_of(env), 32, 48), episode.frames[0])
    assert np.array_equal(observation, episode.states[0])
    for row in range(1, len(episode.frames)):
        total = 0.0
        for _ in range(PARAMS.frame_skip):
            observation, reward, ends, cut, _ = env.step(episode.actions[row])
            total += float(reward)
            if ends or cut:
                break
        assert np.array_equal(fit_screen(screen_of(env), 32, 48), episode.frames[row])
        assert np.array_equal(observation, episode.states[row])
        assert episode.rewards[row] == pytest.approx(total)
        assert episode.terminated[row] == ends
    held = episode.actions[1:].reshape(-1)[: (len(episode.actions) - 1) // 4 * 4].reshape(-1, 4)
    assert (held == held[:, :1]).all()  # an action is held for frames_per_action rows


def test_a_random_action_is_held_for_some_decisions() -> None:
    """Continuous actions, so that no two decisions are alike."""
    params = PARAMS.model_copy(
        update={"env_id": "Pendulum-v1", "heuristic_share": 0.0, "max_frames": 121, "random_held": 3}
    )
    actions = play_episode(make_env("Pendulum-v1", {}, False), params, seed=0, index=0).actions[1:, 0]
    changes = np.flatnonzero(np.diff(actions)) + 1
    assert set(np.diff([0, *changes]).tolist()) == {4, 8, 12}


def test_playing_twice_gives_the_same_bytes_whatever_was_played_before() -> None:
    env = make_env(PARAMS.env_id, {}, False)
    first = play_episode(env, PARAMS, seed=0, index=2)
    play_episode(env, PARAMS, seed=0, index=3)
    again = play_episode(env, PARAMS, seed=0, index=2)
    for name in ("frames", "actions", "rewards", "states", "terminated", "truncated"):
        assert np.array_equal(getattr(first, name), getattr(again, name))


@pytest.mark.parametrize(
    ("env_id", "kind"), [("CartPole-v1", "discrete"), ("Pendulum-v1", "box"), ("BipedalWalker-v3", "box")]
)
def test_other_environments_record(env_id: str, kind: str) -> None:
    params = PARAMS.model_copy(update={"env_id": env_id, "heuristic_share": 1.0, "max_frames": 9})
    env = make_env(env_id, {}, False)
    episode = play_episode(env, params, seed=0, index=0)
    assert episode.frames.shape[1:] == (32, 48, 3)
    assert episode.frames.std() > 0
    spec = action_spec(env.action_space)
    assert spec.kind == kind
    assert spec.encode(episode.actions).shape == (len(episode.frames), spec.features)


def test_the_filler_is_an_action_even_where_zero_is_none() -> None:
    env = gym.wrappers.TransformAction(
        make_env("CartPole-v1", {}, False), lambda action: action - 5, gym.spaces.Discrete(2, start=5)
    )
    params = PARAMS.model_copy(update={"env_id": "CartPole-v1", "heuristic_share": 0.0})
    episode = play_episode(env, params, seed=0, index=0)
    assert episode.actions[0] == 5
    assert set(episode.actions.tolist()) <= {5, 6}
    assert action_spec(env.action_space).encode(episode.actions).shape == (len(episode.frames), 2)


def test_environments_without_pictures_or_with_odd_actions_are_refused() -> None:
    class Blind(gym.Env):
        metadata = {"render_modes": ["human"]}
        observation_space = action_space = gym.spaces.Discrete(2)

        def __init__(self, render_mode: str | None = None):
            self.render_mode = render_mode

    class Odd(Blind):
        metadata = {"render_modes": ["rgb_array"]}
        action_space = gym.spaces.Dict(a=gym.spaces.Text(2))

    gym.register("Blind-v0", Blind, disable_env_checker=True)
    gym.register("Odd-v0", Odd, disable_env_checker=True)
    try:
        with (
            pytest.warns(UserWarning, match="render"),
            pytest.raises(UserError, match="'Blind-v0' cannot render to rgb_array"),
        ):
            make_env("Blind-v0", {}, False)
        with pytest.raises(
            UserError, match=r"'Odd-v0': unsupported action space .* Discrete, Box, MultiDiscrete, MultiBinary"
        ):
            make_env("Odd-v0", {}, False)
    finally:
        del gym.registry["Blind-v0"], gym.registry["Odd-v0"]


def test_action_features() -> None:
    discrete = action_spec(gym.spaces.Discrete(3, start=5))
    assert np.allclose(discrete.encode(np.array([5, 7])), np.sqrt(3) * np.eye(3)[[0, 2]])
    assert ActionSpec.from_json(json.loads(json.dumps(discrete.to_json()))) == discrete
    with pytest.raises(ValueError, match="outside"):
        discrete.encode(np.array([0]))
    box = action_spec(gym.spaces.Box(np.float32([-2, 0]), np.float32([2, np.inf])))
    assert np.allclose(box.encode(np.float32([[-2, -1], [1, 1]])), [[-1, -1], [0.5, 1]])
    multi = action_spec(gym.spaces.MultiDiscrete([2, 3]))
    assert multi.encode(np.array([[1, 2]])).tolist() == [[0, np.float32(2**0.5), 0, 0, np.float32(3**0.5)]]
    assert action_spec(gym.spaces.MultiBinary(3)).encode(np.array([1, 0, 1])).tolist() == [1, -1, 1]
    with pytest.raises(ValueError, match="do not fit 2 components"):
        multi.encode(np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"shape \(1, 2\) must be whole numbers, not float64"):
        multi.encode(np.array([[1.0, 2.0]]))
    with pytest.raises(ValueError, match=r"binary actions of shape \(3,\) are not all 0 or 1"):
        action_spec(gym.spaces.MultiBinary(3)).encode(np.array([1, 0, 2]))
    with pytest.raises(ValueError, match=r"actions of shape \(2,\) are not all finite"):
        box.encode(np.float32([0, np.nan]))


@given(st.integers(1, 60), st.integers(1, 6))
def test_groups_start_after_the_reset_and_cover_whole_groups_only(rows: int, c: int) -> None:
    count = group_count(rows, c)
    taken = group_rows(0, count, c)
    assert (taken[:c] == 0).all()
    assert taken[c:].tolist() == list(range(1, (count - 1) * c + 1))
    assert rows - c <= taken[-1] <= rows - 1
    cut = count // 2
    assert np.array_equal(np.concatenate([group_rows(0, cut, c), group_rows(cut, count - cut, c)]), taken)


@given(st.integers(1, 60), st.integers(1, 6), st.integers(1, 3))
def test_an_episode_that_stands_still_shows_its_last_row_and_its_own_actions(rows: int, c: int, still: int) -> None:
    count, frames = group_count(rows, c, still), np.arange(100, 100 + rows)
    shown = read_groups(frames, 0, 0, count, c, rows)
    whole = group_count(rows, c) * c
    assert shown[:whole].tolist() == (100 + group_rows(0, whole // c, c)).tolist()
    assert (shown[-still * c :] == frames[-1]).all()
    assert set(frames) == set(shown)
    assert count == group_count(rows, c) + bool((rows - 1) % c) + still
    actions = group_actions(frames, count, c, np.random.default_rng(0))
    assert actions.shape == (count, c)
    assert actions.ravel()[:whole].tolist() == shown[:whole].tolist()
    assert set(actions.ravel()) <= set(frames)
    again = np.concatenate([read_groups(frames, 0, g, 1, c, rows) for g in range(count)])
    assert np.array_equal(again, shown)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 9))
def test_clip_index_lists_every_clip_once_and_none_across_episodes(lengths: list[int], units: int) -> None:
    episodes = np.arange(len(lengths)) * 10
    if max(lengths) < units:
        with pytest.raises(
            UserError, match=f"clips of {units}, but the longest of {len(lengths)} episodes has {max(lengths)}"
        ):
            index_clips(episodes, np.array(lengths), units, "x")
        return
    index = index_clips(episodes, np.array(lengths), units, "x")
    found = set(zip(index.episode.tolist(), index.offset.tolist(), strict=True))
    assert found == {(10 * e, o) for e, n in enumerate(lengths) for o in range(n - units + 1)}
    assert len(found) == len(index)
    assert index.too_short == sum(n < units for n in lengths)
    assert np.array_equal(index.draw(5, 1, "a", 2), index.draw(5, 1, "a", 2))
    assert np.array_equal(index.draw(5, 1, "a", 2, 0.5), index.draw(5, 1, "a", 2, 0.5))
    assert not index.offset[index.draw(50, 1, "a", 2, 1.0)].any()
    last = {(10 * e, n - units) for e, n in enumerate(lengths)}
    ends = index.draw(50, 1, "a", 2, 0.0, 1.0)
    assert set(zip(index.episode[ends].tolist(), index.offset[ends].tolist(), strict=True)) <= last
    both = index.draw(50, 1, "a", 2, 0.5, 0.5)
    assert all(
        o == 0 or (e, o) in last for e, o in zip(index.episode[both].tolist(), index.offset[both].tolist(), strict=True)
    )


def test_randomness_is_keyed() -> None:
    draws = {float(numpy_rng(s, p, i).random()) for s in (0, 1) for p in ("a", "b") for i in (0, 1)}
    assert len(draws) == 8
    assert torch_generator(0, "a", 5).initial_seed() == torch_generator(0, "a", 5).initial_seed()
    assert torch_generator(0, "a", 5).initial_seed() != torch_generator(0, "a", 6).initial_seed()


def test_no_episodes_at_all_is_said_as_such() -> None:
    with pytest.raises(
        UserError, match=r"no episodes to take clips from for train\.clip_latents = 3: is collect\.held_out"
    ):
        index_clips(np.zeros(0, int), np.zeros(0, int), 3, "train.clip_latents = 3")


def test_held_out_episodes() -> None:
    split = held_out(PARAMS.model_copy(update={"episodes": 50}), 0)
    assert split.sum() == 10
    assert held_out(PARAMS.model_copy(update={"episodes": 2, "held_out_share": 0.01}), 0).sum() == 1
    assert held_out(PARAMS.model_copy(update={"held_out_share": 1.0}), 0).sum() == 5  # one is left to learn from
    assert held_out(PARAMS.model_copy(update={"held_out_share": 0.0}), 0).sum() == 0


@pytest.mark.parametrize("rows", [1, ROWS_PER_SHARD - 1, ROWS_PER_SHARD, 2 * ROWS_PER_SHARD + 5])
def test_rows_come_back_whatever_the_pieces(rows: int, tmp_path: Path) -> None:
    values = np.arange(rows * 6, dtype=np.uint8).reshape(rows, 2, 3)
    writer = RowWriter(add_rows(zarr.open_group(tmp_path / "z", mode="w-"), "x", values.shape, np.uint8))
    for piece in np.array_split(values, 7):
        writer.append(piece)
    writer.close()
    assert np.array_equal(zarr.open_group(tmp_path / "z", mode="r")["x"][...], values)


@pytest.mark.parametrize("row_bytes", [1, 192, 64 * 64 * 3, 720 * 1280 * 3, 2**40])
@pytest.mark.parametrize("rows", [1, 200_000, 5_000_000, 80_000_000])
def test_a_large_store_has_hundreds_of_files(rows: int, row_bytes: int) -> None:
    """As many rows as there may be: shards are few, or as large as can be held while one is written."""
    shard = rows_per_shard(rows, row_bytes)
    assert shard % ROWS_PER_SHARD == 0
    assert shard == ROWS_PER_SHARD or shard * row_bytes <= MOST_SHARD_BYTES
    assert rows <= MOST_SHARDS * shard or (shard + ROWS_PER_SHARD) * row_bytes > MOST_SHARD_BYTES
    if rows <= MOST_SHARDS * ROWS_PER_SHARD:
        assert shard == ROWS_PER_SHARD  # the same bytes as ever


def test_chunks_of_tiny_rows_have_more_of_them_and_all_others_the_same_bytes_as_ever(tmp_path: Path) -> None:
    """A chunk takes 20 us to read however small it is: 5 million frames of 8 x 8 pixels took 8 s, 16 at a time."""
    array = add_rows(zarr.open_group(tmp_path / "z", mode="w-"), "x", (5000, 8, 8, 3), np.uint8)
    assert array.chunks[0] * 8 * 8 * 3 >= LEAST_CHUNK_BYTES
    for row_bytes in (1, 7, 192, LEAST_CHUNK_BYTES // 16):
        assert ROWS_PER_SHARD % rows_per_chunk(row_bytes) == 0
    for row_bytes in (LEAST_CHUNK_BYTES // 16, 32 * 32 * 3, 16 * 8 * 8 * 2, 64 * 64 * 3, 2**40):
        assert rows_per_chunk(row_bytes) == 16


def test_larger_shards_hold_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oniris_core.data.rows.zarrs.MOST_SHARDS", 2)
    values = np.arange(9000 * 2, dtype=np.int32).reshape(9000, 2)
    array = add_rows(zarr.open_group(tmp_path / "z", mode="w-"), "x", values.shape, np.int32)
    writer = RowWriter(array)
    for piece in np.array_split(values, 1000):
        writer.append(piece)
    writer.close()
    assert array.shards == (5 * ROWS_PER_SHARD, 2)
    assert len([path for path in (tmp_path / "z/x/c").rglob("*") if path.is_file()]) == 2
    assert np.array_equal(zarr.open_group(tmp_path / "z", mode="r")["x"][...], values)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((3000, 8, 128), np.uint8), ((3000, 4, 4, 3), np.uint8), ((3000, 2, 5), np.float16), ((20,), np.int64)],
)
def test_shards_are_read_as_zarr_reads_them(shape: tuple[int, ...], dtype: type, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    group = zarr.open_group(tmp_path / "z", mode="w-")
    writer = RowWriter(add_rows(group, "data/x", shape, dtype))
    writer.append(values)
    writer.close()
    array = zarr.open_group(tmp_path / "z", mode="r")["data/x"]
    rows = sharded(array)
    assert rows is not None
    assert (rows.shape, rows.dtype, rows.nbytes, len(rows)) == (array.shape, array.dtype, values.nbytes, len(values))
    ends = [0, 1, 15, 16, 17, 1023, 1024, 1025, 2047, 2048, len(values) - 1, len(values), len(values) + 9]
    for first, end in itertools.product(ends, ends):
        assert np.array_equal(rows[first:end], array[first:end]), (first, end)
    assert rows[:].dtype == dtype
    assert np.array_equal(rows[:], values)
    assert np.array_equal(rows[-3:], values[-3:])


def test_what_is_laid_out_in_another_way_is_read_by_zarr(tmp_path: Path) -> None:
    group, values = zarr.open_group(tmp_path / "z", mode="w-"), np.arange(64).reshape(32, 2)
    others = {
        "whole": {"chunks": (32, 2)}, "columns": {"chunks": (16, 1), "shards": (32, 2)},
        "plain": {"chunks": (16, 2), "shards": (32, 2), "compressors": None},
    }  # fmt: skip
    for name, layout in others.items():
        group.create_array(name, data=values, **layout)
        assert sharded(group[name]) is None
        assert np.array_equal(preload(group[name]), values)
    assert sharded(zarr.create_array(zarr.storage.MemoryStore(), data=values, chunks=(16, 2), shards=(32, 2))) is None


def test_a_shard_that_has_changed_since_it_was_checked_is_told_in_a_line(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (2000, 8), dtype=np.uint8)
    array = add_rows(zarr.open_group(tmp_path / "z", mode="w-"), "x", values.shape, np.uint8)
    array[...] = values
    file, rows = tmp_path / "z/x/c/0/0", sharded(array)
    assert rows is not None
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    for damaged in (bytes(data), data[:2000], b""):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"c/0/0 is damaged"):
            sharded(array)[:]  # type: ignore[index]
    assert np.array_equal(rows[1024:], values[1024:])


def test_statistics_equal_those_of_the_whole() -> None:
    episodes = [np.random.default_rng(i).normal(i, 2, size=(4 + i, 3, 2, 2)) for i in range(3)]
    statistics = RunningStatistics(3)
    for episode in episodes:
        statistics.add(episode)
    found = statistics.result()
    mean, std, change = found.mean, found.std, found.change_std
    whole = np.concatenate(episodes)
    assert np.allclose(mean, whole.mean((0, 2, 3)))
    assert np.allclose(std, whole.std((0, 2, 3)))
    changes = np.concatenate([np.diff(e, axis=0) for e in episodes]) / std[:, None, None]
    assert change == pytest.approx(np.sqrt(np.square(changes).mean()))


def test_identical_clips_are_refused_and_the_background_is_the_episodes_median(tiny_pipeline: Path) -> None:
    store = open_episodes(tiny_pipeline / "data/episodes.zarr")
    clips = FrameClips(store, 0, 8, 4)
    clips.refuse_constant()
    episode = int(clips.index.episode[3])
    rows = store.frames[slice(*store.bounds(episode))]
    assert np.array_equal(clips.background(3), np.median(rows, axis=0).astype(np.uint8))
    assert np.array_equal(clips.background(3, most=2), np.median(rows[[0, -1]], axis=0).astype(np.uint8))
    still = FrameClips(replace(store, frames=np.full_like(store.frames[:], 7)), 0, 8, 4)
    with pytest.raises(
        UserError, match=rf"all {len(still.index)} clips show the same frames: there is nothing to learn"
    ):
        still.refuse_constant()


def test_parts_of_clips_follow_what_moves() -> None:
    clip = np.zeros((4, 24, 40, 3), np.uint8)
    clip[:, 20:] = 255  # the ground
    clip[2, 3, 37] = 90  # what moves
    clip[0, 20, 0] = 250  # hardly anything: 25 against 8100
    rng = np.random.default_rng(0)
    following, anywhere = (
        np.mean([(cut_out(clip, 8, share, rng) == 90).any() for _ in range(300)]) for share in (1.0, 0.0)
    )
    assert following > 0.97
    assert anywhere < 0.2  # it lies in 12 of 561 places
    parts = [cut_out(clip, 8, 1.0, rng) for _ in range(50)]
    assert all(part.shape == (4, 8, 8, 3) for part in parts)
    assert len({part.tobytes() for part in parts}) > 5  # it is not always at the same place of the part
    still = np.arange(24 * 40 * 3, dtype=np.uint32).astype(np.uint8).reshape(1, 24, 40, 3).repeat(4, 0)
    assert len({cut_out(still, 8, 1.0, rng).tobytes() for _ in range(50)}) > 20  # nothing moves: anywhere
    assert cut_out(still, 24, 1.0, rng).shape == (4, 24, 24, 3)


def test_only_the_rows_of_the_groups_asked_for_are_read() -> None:
    class Rows:
        def __getitem__(self, rows: slice) -> np.ndarray:
            read.append((rows.start, rows.stop))
            return np.arange(rows.start, rows.stop)

    read: list[tuple[int, int]] = []
    assert read_groups(Rows(), 100, 0, 2, 4).tolist() == [100, 100, 100, 100, 101, 102, 103, 104]
    assert read_groups(Rows(), 100, 3, 1, 4).tolist() == [109, 110, 111, 112]
    assert read == [(100, 105), (109, 113)]


def test_collapsed_channels_are_named() -> None:
    found = LatentStatistics(np.zeros(4), np.array([1.0, 0.049, 0.051, 0.0]), 0.3)
    assert found.collapsed(0.05) == [1, 3]
    assert found.collapsed(0) == []


@pytest.mark.pipeline
def test_encode_reports_a_collapsed_channel(pipeline: Path, run: Run) -> None:
    vae, _ = load_vae(pipeline / "models/vae")
    with torch.no_grad():  # the second latent channel says nothing any more
        vae.encoder.head.weight[1], vae.encoder.head.bias[1] = -vae.encoder.head.shortcut[1], 0.5
    save_vae(pipeline / "models/vae", vae, {})
    result = run(pipeline, "encode")
    assert "latent channels [1] have collapsed" in " ".join(result.output.split())
    assert json.loads((pipeline / "reports/encode/metrics.json").read_text())["collapsed_channels"] == 1
    rows = (pipeline / "reports/encode/channels.csv").read_text().splitlines()
    assert rows[0] == "channel,mean,std,collapsed"
    assert [row.split(",")[3] for row in rows[1:]] == ["0", "1", "0", "0"]


@pytest.mark.pipeline
def test_collect_and_encode_give_the_same_bytes_with_any_number_of_workers(
    tiny_pipeline: Path, pipeline: Path, run: Run
) -> None:
    for workers in (1, 3):
        out = pipeline / f"again_{workers}.zarr"
        assert run(pipeline, "collect", "--workers", workers, "--out", out).exit_code == 0
        assert tree(out) == tree(tiny_pipeline / "data/episodes.zarr")
    assert run(pipeline, "encode", "--out", "again.zarr").exit_code == 0
    assert tree(pipeline / "again.zarr") == tree(tiny_pipeline / "data/latents.zarr")


def test_the_stores_are_laid_out_as_agreed(tiny_pipeline: Path) -> None:
    episodes = zarr.open_group(tiny_pipeline / "data/episodes.zarr", mode="r")
    N, E = episodes["data/frames"].shape[0], 8
    assert episodes["data/frames"].shape == (N, 32, 32, 3)
    assert episodes["data/frames"].dtype == np.uint8
    layout = {
        "actions": ((N,), "i"),
        "rewards": ((N,), "f"),
        "terminated": ((N,), "b"),
        "truncated": ((N,), "b"),
        "states": ((N, 8), "f"),
    }
    for name, (shape, kind) in layout.items():
        assert episodes[f"data/{name}"].shape == shape
        assert episodes[f"data/{name}"].dtype.kind == kind
    for name, dtype in (("episode_ends", np.int64), ("episode_seed", np.int64), ("split", np.uint8)):
        assert episodes[f"meta/{name}"].shape == (E,)
        assert episodes[f"meta/{name}"].dtype == dtype
    ends = episodes["meta/episode_ends"][...]
    starts = np.concatenate([[0], ends[:-1]])
    assert (episodes["data/rewards"][...][starts] == 0).all()
    assert (episodes["data/terminated"][...] | episodes["data/truncated"][...])[ends - 1].all()
    assert set(episodes.attrs) >= {
        "env_id",
        "env_kwargs",
        "versions",
        "params",
        "frame_rate",
        "action_meaning",
        "complete",
    }

    latents = zarr.open_group(tiny_pipeline / "data/latents.zarr", mode="r")
    M = int(latents["meta/episode_ends"][-1])
    assert latents["data/latents"].shape == (M, 4, 4, 4)
    assert latents["data/latents"].dtype == np.float16
    assert latents["data/actions"].shape == (M, 4)
    still = latents.attrs["params"]["encode"]["still_latents"] * episodes["data/terminated"][...][ends - 1]
    assert sum(group_count(int(n), 4, int(more)) for n, more in zip(ends - starts, still, strict=True)) == M


def test_latent_actions_are_those_of_their_frames(tiny_pipeline: Path) -> None:
    episodes, latents = (
        open_episodes(tiny_pipeline / "data/episodes.zarr"),
        open_latents(tiny_pipeline / "data/latents.zarr"),
    )
    for e in range(len(episodes.episode_ends)):
        (start, end), (first, last) = episodes.bounds(e), latents.bounds(e)
        for g in range(last - first):
            if g >= group_count(end - start, 4):
                assert episodes.terminated[e]
                assert set(latents.actions[first + g]) <= set(episodes.actions[start + 1 : end])
                continue
            rows = [0] * 4 if g == 0 else range((g - 1) * 4 + 1, g * 4 + 1)
            assert latents.actions[first + g].tolist() == [episodes.actions[start + r] for r in rows]
    clips = LatentClips(latents, 0, 3, "x")
    batch = clips[np.arange(len(clips.index))]
    assert (batch.has_action[:, 0] == (clips.index.offset > 0)).all()
    assert batch.has_action[:, 1:].all()
    longer = LatentClips(latents, 0, 3, "x", before=2)[np.arange(len(clips.index))]
    assert longer.latents.shape[1] == longer.actions.shape[1] == 5
    for name in ("latents", "actions", "has_action"):
        assert np.array_equal(getattr(longer, name)[:, 2:], getattr(batch, name))
    for clip, (episode, offset) in enumerate(zip(clips.index.episode, clips.index.offset, strict=True)):
        first = latents.bounds(episode)[0]
        for age in (1, 2):  # before its first frame an episode stood still
            row = first + max(offset - age, 0)
            assert np.array_equal(longer.latents[clip, 2 - age], latents.standardised(row, row + 1)[0])
            assert longer.has_action[clip, 2 - age] == (offset - age > 0)


@pytest.mark.pipeline
def test_rendering_twice_gives_the_same_bytes(tiny_pipeline: Path, pipeline: Path, run: Run) -> None:
    assert run(pipeline, "render", "--out", "again", "--report", "report").exit_code == 0
    assert tree(pipeline / "again") == tree(tiny_pipeline / "renders")
    assert tree(pipeline / "report") == tree(tiny_pipeline / "reports/render")


@pytest.mark.pipeline
def test_another_environment_by_hand(params_only: Path, run: Run) -> None:
    options = ("--env-id", "Acrobot-v1", "--episodes", 4, "--out", params_only / "else/where.zarr")
    result = run(params_only, "collect", *options)
    assert result.exit_code == 0, result.output
    assert "note: collect.env_id = Acrobot-v1 (params.yaml has LunarLander-v3)" in result.output
    assert "there is no heuristic for Acrobot-v1" in result.output
    store = open_episodes(params_only / "else/where.zarr")
    assert len(store.episode_ends) == 4
    assert store.attributes["env_id"] == "Acrobot-v1"


SIXTY = ("--episodes", "60", "--workers", "2")


@pytest.fixture(scope="module")
def undisturbed(tiny_params: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a store that was collected without a stop."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copy(tiny_params / "params.yaml", folder)
    with start(folder, "collect", *SIXTY, "--out", "a.zarr") as process:
        process.communicate()
    assert process.returncode == 0
    return tree(folder / "a.zarr")


@pytest.mark.pipeline
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_stopped_collect_keeps_its_episodes_and_leaves_no_worker(
    number: int, exit_code: int, params_only: Path, undisturbed: dict[str, bytes]
) -> None:
    with start(params_only, "collect", *SIXTY, "--out", "b.zarr") as process:
        while len(waiting := list(params_only.glob("runs/collect/*/*/episode_*.npz"))) < 5:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    assert process.returncode == exit_code
    assert "Traceback" not in said
    assert not (params_only / "b.zarr").exists()
    times = {file: file.stat().st_mtime_ns for file in waiting}
    with start(params_only, "collect", *SIXTY, "--out", "b.zarr") as process:
        while process.poll() is None:  # what was finished is not played again
            for file, when in times.items():
                with contextlib.suppress(FileNotFoundError):  # success removes them
                    assert file.stat().st_mtime_ns == when
            time.sleep(0.05)
        assert process.returncode == 0
    assert tree(params_only / "b.zarr") == undisturbed


@pytest.mark.pipeline
def test_collect_goes_on_where_it_was_killed(tiny_pipeline: Path, pipeline: Path, run: Run) -> None:
    """Leaves some finished episodes and a torn one behind, as a kill does; only the missing ones are played again."""
    from unittest.mock import patch

    from oniris_core.collection import collection
    from oniris_core.common.artefacts import runs
    from oniris_core.data.episodes import store as episodes

    with patch.object(episodes, "add_small", side_effect=KeyboardInterrupt):  # stops while the store is written
        result = run(pipeline, "collect", "--out", "again.zarr")
    assert result.exit_code == 130
    assert not (pipeline / "again.zarr").exists()
    assert not list(pipeline.glob("again.zarr.*"))
    waiting = sorted((pipeline / "runs/collect").rglob("episode_*.npz"))
    assert len(waiting) == 8
    for file in waiting[:2]:
        file.unlink()
    waiting[0].with_name(waiting[0].name + ".partial").write_bytes(b"torn")
    kept = {file.name: file.stat().st_mtime_ns for file in waiting[2:]}
    with patch.object(runs.shutil, "rmtree"):  # keep the files, to see which were played again
        assert run(pipeline, "collect", "--out", "again.zarr").exit_code == 0
    left = {file.name: file for file in (pipeline / "runs/collect").rglob("episode_*.npz")}
    assert kept == {name: left[name].stat().st_mtime_ns for name in kept}
    assert len(left) == 8
    assert tree(pipeline / "again.zarr") == tree(tiny_pipeline / "data/episodes.zarr")
    assert collection.load_episode(left[waiting[0].name]).frames.dtype == np.uint8
