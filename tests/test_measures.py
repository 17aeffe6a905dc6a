"""The test of the test: baselines fed as if they were models. What is measured must tell them apart, in the right order."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from oniris_core.common.errors import UserError
from oniris_core.data.episodes.store import EpisodeStore, open_episodes
from oniris_core.data.playing.environments import make_env
from oniris_core.data.playing.rollouts import Replay, play_episode, replay
from oniris_core.data.rows.actions import ActionSpec, action_spec
from oniris_core.evaluation.fidelity.positions import violet
from oniris_core.evaluation.measures.control import Control, confusion_table, measure_control
from oniris_core.evaluation.measures.drift import grain
from oniris_core.evaluation.measures.futures import compare_spread, constant_actions, spread
from oniris_core.evaluation.measures.horizons import Curves, LearnedQuantity, flat_metrics, measure
from oniris_core.evaluation.measures.learned_states import learn
from oniris_core.evaluation.probes.inverse_dynamics import ActionProbe, targets, train_probe
from oniris_core.evaluation.probes.small_cnn import SmallCnn, crops, shrink
from oniris_core.evaluation.probes.states.registry import reader_for
from oniris_core.evaluation.rollouts.evaluation_set import EvaluationSet, evaluation_set
from oniris_core.evaluation.rollouts.rollouts import Rollouts, foreign_actions
from oniris_core.evaluation.rollouts.simulator import Play, Simulator
from oniris_core.evaluation.scores.frechet import frechet_distance
from oniris_core.evaluation.scores.intervals import Bootstrap
from tests.conftest import Run, one_thread, run_stage
from tests.project import write_defaults
from tests.test_data import PARAMS

CPU = torch.device("cpu")
LANDER = reader_for("LunarLander-v3")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of short LunarLander episodes at 64 x 64, thirty of them held out."""
    folder = tmp_path_factory.mktemp("flights")
    write_defaults(folder)
    options = {
        "episodes": 300, "max-frames": 33, "size": "64,64", "held-out-share": 0.1, "random-actions": 0.5,
        "heuristic-share": 0.6, "workers": 2,
    }  # fmt: skip
    result = run_stage(folder, "collect", *(f"--{name}={value}" for name, value in options.items()))
    assert result.exit_code == 0, result.output
    return folder / "data/episodes.zarr"


@pytest.fixture(scope="module")
def store(flights: Path) -> EpisodeStore:
    return open_episodes(flights)


@pytest.fixture(scope="module")
def chosen(store: EpisodeStore) -> EvaluationSet:
    return evaluation_set(store, 30, 3, 6, 4)


@pytest.fixture(scope="module")
def floors(store: EpisodeStore, chosen: EvaluationSet) -> list[np.ndarray]:
    """The truth again, the simulator with other noise four times over, and under other actions."""
    simulator = Simulator.of(store, import_code=False)
    row, seeds = chosen.last_context_row, chosen.seeds.tolist()
    foreign = foreign_actions(chosen)[:, np.searchsorted(chosen.rows, np.arange(chosen.rows[-1] + 1))]
    plays = [Play(s, chosen.row_actions[k]) for k, s in enumerate(seeds)]
    for i in range(4):
        plays += [Play(s, chosen.row_actions[k], (row, 1 + i * 10**6 + s)) for k, s in enumerate(seeds)]
    plays += [Play(s, foreign[k], (row, 1 + s)) for k, s in enumerate(seeds)]
    ticks = []
    played = simulator.play(plays, lambda: ticks.append(1))
    assert len(ticks) == len(plays)
    for x, episode in zip(played, chosen.episodes, strict=False):  # the truth again, with what it earned
        start, end = store.bounds(int(episode))
        rows = min(len(x.rewards), end - start)
        assert np.array_equal(x.rewards[:rows], store.rewards[start : start + rows])
        assert x.ended[-1] == (store.terminated[episode] and rows == end - start)
    frames = np.stack([chosen.frames_of(x.frames) for x in played])
    return np.split(frames, 6)


@pytest.fixture(scope="module")
def probe(store: EpisodeStore) -> ActionProbe:
    found = train_probe(store, LANDER, 4, probes=1, steps=300, seed=0, device=CPU, tick=lambda: None)
    assert found is not None
    return found


def as_model(chosen: EvaluationSet, *samples: np.ndarray, other: np.ndarray | None = None) -> Rollouts:
    """A model that gives these samples of every episode; one is given twice."""
    return Rollouts(
        chosen.truth, chosen.truth, np.stack(samples * (2 if len(samples) == 1 else 1), axis=1), np.arange(len(chosen.seeds)),
        samples[0] if other is None else other, chosen.actions, chosen.seeds, chosen.context, chosen.alive,
        np.ones(len(chosen.seeds), bool),
    )  # fmt: skip


def judge(chosen: EvaluationSet, samples: list[np.ndarray], redrawn: list[np.ndarray]) -> Curves:
    floor = np.stack(redrawn, axis=1)
    return measure(as_model(chosen, *samples), floor, LANDER, [], Bootstrap(len(chosen.seeds), 300, 0))


def with_context(chosen: EvaluationSet, future: np.ndarray) -> np.ndarray:
    return np.concatenate([chosen.truth[:, : chosen.context], future], axis=1)


def carried_on(chosen: EvaluationSet) -> np.ndarray:
    """Constant velocity as a picture: the lander of the last frame cut out and moved."""
    before = LANDER.position(chosen.truth[:, chosen.context - 3 : chosen.context])
    last = chosen.truth[:, chosen.context - 1]
    made = []
    for image, (then, _, now) in zip(last, before, strict=True):
        mask = violet(image) > 0
        rows, columns = np.nonzero(mask)
        empty = np.where(mask[..., None], 0, image).astype(np.uint8)
        for h in range(1, chosen.truth.shape[1] - chosen.context + 1):
            frame = empty.copy()
            shift = (now - then) / 2 * h * (64 / 600, 64 / 400)
            if np.isfinite(shift).all():
                to = np.rint(np.stack([rows + shift[1], columns + shift[0]])).astype(int)
                inside = ((to >= 0) & (to < 64)).all(0)
                frame[to[0, inside], to[1, inside]] = image[rows[inside], columns[inside]]
            made.append(frame)
    return with_context(chosen, np.stack(made).reshape(len(last), -1, 64, 64, 3))


def test_no_evaluation_seed_is_in_the_training_split(store: EpisodeStore, chosen: EvaluationSet) -> None:
    assert len(set(chosen.seeds.tolist())) == 30
    assert not set(chosen.seeds.tolist()) & set(store.episode_seed[store.split == 0].tolist())
    leaked = replace(store, episode_seed=np.zeros_like(store.episode_seed))
    with pytest.raises(UserError, match="is in the training data too"):
        evaluation_set(leaked, 30, 3, 6, 4)


def test_the_truth_can_be_made_again_from_what_the_set_says(
    store: EpisodeStore, chosen: EvaluationSet, floors: list[np.ndarray]
) -> None:
    said = json.loads(json.dumps(chosen.to_json(store.attributes)))
    cadence = said["cadence"]
    for k in (0, 7):
        env = make_env(said["env_id"], said["env_kwargs"], False)
        played = replay(
            env, said["seeds"][k], np.array(said["actions"][k]), cadence["frame_skip"], tuple(cadence["size"]),
            cadence["resize"],
        )  # fmt: skip
        assert chosen.digest(k, chosen.frames_of(played.frames)) == said["truth_sha256"][k]
    assert np.array_equal(floors[0][chosen.alive], chosen.truth[chosen.alive])
    context = slice(None, chosen.context)
    assert np.array_equal(floors[1][:, context], chosen.truth[:, context])  # noise is redrawn after it only
    assert not np.array_equal(floors[1], floors[2])
    assert chosen.digest(0, chosen.truth[0] ^ 1) != said["truth_sha256"][0]


def test_baselines_fed_as_models_come_out_in_order(chosen: EvaluationSet, floors: list[np.ndarray]) -> None:
    again, *redrawn, other = floors
    last = np.broadcast_to(
        chosen.truth[:, chosen.context - 1 : chosen.context], chosen.truth[:, chosen.context :].shape
    )
    without = np.where((violet(chosen.truth) > 0)[..., None], 0, chosen.truth)
    found = {
        name: judge(chosen, samples, redrawn[:2])
        for name, samples in {
            "truth": [again], "simulator": redrawn[2:], "wrong": [other], "constant_velocity": [carried_on(chosen)],
            "copy_last": [with_context(chosen, last)], "nothing": [with_context(chosen, without[:, chosen.context :])],
        }.items()
    }  # fmt: skip
    skill = {name: curves.skill for name, curves in found.items() if curves.skill is not None}
    for h in (8, 16, 24):
        at = {name: float(one.value[h - 1]) for name, one in skill.items()}
        # Errors have long tails, and thirty episodes show few of them: the interval is a little too narrow.
        assert skill["simulator"].low[h - 1] - 0.03 <= 1 <= skill["simulator"].high[h - 1] + 0.03
        assert 1 < at["truth"] < 1.2  # no noise at all: better than the simulator can know
        assert 0 < at["wrong"] < at["simulator"] - 0.1
        assert abs(at["constant_velocity"]) < 0.25  # its pixels are whole
        assert at["nothing"] - 1e-6 <= at["copy_last"] < at["constant_velocity"]
        curves = found["simulator"].by_measure["position_px"]
        floor_px, cv_px, copy_px = (curves[n].value[h - 1] for n in ("floor", "constant_velocity", "copy_last"))
        assert floor_px < cv_px < copy_px
        assert found["truth"].by_measure["found"]["rollout"].value[h - 1] == 1
        assert found["nothing"].by_measure["found"]["rollout"].value[h - 1] == 0
        worst = found["nothing"].by_measure["position_px"]
        assert all(worst["rollout"].value[h - 1] >= worst[n].value[h - 1] - 1e-6 for n in worst)
    metrics = flat_metrics(found["simulator"])
    assert metrics["rollout/skill@8_low"] <= metrics["rollout/skill@8"] <= metrics["rollout/skill@8_high"]
    assert metrics["alive@16"] == chosen.alive[:, chosen.context + 15].sum()
    assert found["truth"].by_measure["psnr"]["rollout"].value[7] == pytest.approx(100)
    assert found["truth"].by_measure["still_iou"]["rollout"].value[7] > 0.99


def test_wrong_actions_lose_on_control(chosen: EvaluationSet, floors: list[np.ndarray], probe: ActionProbe) -> None:
    bootstrap = Bootstrap(len(chosen.seeds), 300, 0)
    again, redrawn, other = floors[0], floors[2], floors[-1]

    def control(generated: np.ndarray) -> Control:
        found, reason = measure_control(probe, as_model(chosen, generated, other=other), 4, bootstrap)
        assert found is not None, reason
        return found

    scores = {name: float(e.value) for name, e in control(again).scores.items()}
    assert scores["truth"] == scores["rollout"] >= 0.88  # 0.96 with thirty times as many episodes to learn from
    assert float(control(redrawn).scores["rollout"].value) > scores["truth"] - 0.05
    assert scores["other_actions"] < 0.5
    nothing = control(np.zeros_like(again))
    assert float(nothing.scores["rollout"].value) == 0
    assert nothing.confusion is not None
    assert nothing.confusion[:, -1].sum() == nothing.confusion.sum() > 100
    rows = confusion_table(nothing.confusion, nothing.names).splitlines()
    assert rows[0] == "actual,predicted"
    assert rows[1] == "0,not found"
    assert len(rows) == 1 + nothing.confusion.sum()
    features = control(other).features
    assert frechet_distance(features["truth"], features["truth"]) == pytest.approx(0, abs=1e-6)


def test_the_outputs_of_several_networks_are_averaged(store: EpisodeStore) -> None:
    nets = [SmallCnn(15, (8, 8), 4).eval() for _ in range(3)]
    groups = np.random.default_rng(0).integers(0, 256, (6, 5, 8, 8, 3), np.uint8)
    alone = [ActionProbe([net], store.action_spec, None, CPU)(groups) for net in nets]
    together = ActionProbe(nets, store.action_spec, None, CPU)(groups)
    np.testing.assert_allclose(together.outputs, np.mean([a.outputs for a in alone], axis=0), rtol=1e-5)
    assert np.abs(together.outputs - alone[0].outputs).max() > 1e-3
    assert np.array_equal(together.features, alone[0].features)  # a distance needs the same features for all


def test_a_probe_that_knows_nothing_is_refused(store: EpisodeStore, chosen: EvaluationSet) -> None:
    blind = train_probe(store, LANDER, 4, probes=2, steps=1, seed=0, device=CPU, tick=lambda: None)
    assert blind is not None
    found, reason = measure_control(blind, as_model(chosen, chosen.truth), 4, Bootstrap(30, 10, 0))
    assert found is None
    assert reason is not None
    assert "raise render.probe_steps" in reason


def test_a_learned_quantity_is_shown_at_every_horizon_beside_the_error_of_its_reader(
    flights: Path, store: EpisodeStore, chosen: EvaluationSet, floors: list[np.ndarray]
) -> None:
    assert LANDER is not None
    (angle,) = LANDER.quantities
    known = learn(angle, LANDER, store, store.states, steps=150, seed=0, device=CPU, tick=lambda: None)
    assert known is not None
    assert known.own_error < 8
    bootstrap = Bootstrap(30, 50, 0)
    rollouts = as_model(chosen, floors[3], floors[4])
    redrawn = np.stack(floors[1:3], axis=1)
    curves = measure(rollouts, redrawn, LANDER, [LearnedQuantity(known.quantity, 1.5)], bootstrap)
    metrics = flat_metrics(curves)
    for h in (4, 8, 16, 24):
        assert metrics[f"reader/angle_deg@{h}"] == 1.5
        assert 0 < metrics[f"rollout/energy_angle_deg@{h}"] < metrics[f"copy_last/energy_angle_deg@{h}"]
        assert metrics[f"copy_last/energy_angle_deg@{h}"] == metrics[f"copy_last/angle_deg@{h}"]
    assert not any("angle" in name for name in curves.left_out)
    no_simulator = measure(rollouts, None, LANDER, [known], bootstrap)
    assert no_simulator.left_out == {"rollout/skill": "there is no simulator to compare with"}
    alone = flat_metrics(no_simulator)
    assert not any("skill" in name or "floor" in name for name in alone)
    assert alone["rollout/energy_px@16"] == metrics["rollout/energy_px@16"]  # scores need none
    assert alone["rollout/spread_over_error@16"] == metrics["rollout/spread_over_error@16"]
    blind = measure(rollouts, redrawn, LANDER, [LearnedQuantity(known.quantity, np.inf)], bootstrap)
    assert "reader/angle_deg@4" not in flat_metrics(blind)


def test_diversity_is_one_for_the_simulator_and_nought_for_a_model_that_always_dreams_the_same(
    chosen: EvaluationSet, floors: list[np.ndarray]
) -> None:
    bootstrap, context = Bootstrap(30, 50, 0), chosen.context
    simulator = spread(np.stack(floors[1:3], axis=1), LANDER)
    same, _ = compare_spread("diversity", simulator, simulator, context, [16], bootstrap)
    assert same["diversity/ratio@16"] == 1
    stuck = spread(np.stack([floors[1]] * 2, axis=1), LANDER)
    assert compare_spread("diversity", stuck, simulator, context, [16], bootstrap)[0]["diversity/ratio@16"] == 0
    for rounding in (0, 1e-13):
        alike = replace(stuck, values=stuck.values + rounding)
        found, reasons = compare_spread("diversity", simulator, alike, context, [16], bootstrap)
        assert "diversity/ratio@16" not in found
        assert "do not differ" in reasons["diversity/ratio@16"]
    points = np.zeros((1, 3, 1, 4, 4, 3), np.uint8)
    points[0, 1], points[0, 2] = 10, 20
    distances = [10, 20, 10]
    assert spread(points, None).values[0, 0] == pytest.approx(np.sqrt(np.mean(np.square(distances))))


@pytest.mark.parametrize(
    ("space", "count"),
    [
        (gym.spaces.Discrete(4), 4), (gym.spaces.Discrete(20, start=3), 8), (gym.spaces.Box(-1, 1, (2,)), 4),
        (gym.spaces.MultiDiscrete([2, 3]), 4), (gym.spaces.MultiBinary(3), 6),
    ],
)  # fmt: skip
def test_constant_actions_are_of_the_space_and_have_targets(space: gym.Space, count: int) -> None:
    spec, actions = action_spec(space), constant_actions(action_spec(space))
    assert len(actions) == count
    for action in actions.values():
        spec.encode(np.asarray(action)[None])
        assert space.contains(np.asarray(action, space.dtype)) or space.contains(np.asarray(action, space.dtype)[()])
        wanted, answered = targets(spec, np.stack([action] * 4)[None])
        assert answered.all()
        assert wanted.shape == (1, len(spec.sizes))


def test_a_group_in_which_the_action_changes_has_no_answer() -> None:
    spec = ActionSpec("discrete", (4,), start=(1,))
    wanted, answered = targets(spec, np.array([[1, 1], [3, 3], [1, 2]]))
    assert answered.tolist() == [True, True, False]
    assert wanted[:2].tolist() == [[0], [2]]


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        found = Bootstrap(60, 300, trial).mean(rng.normal(3, 2, (60, 1)))
        hits += bool(found.low[0] <= 3 <= found.high[0])
    assert 0.88 <= hits / 200 <= 0.99
    one = Bootstrap(1, 10, 0).mean(np.array([[2.0, np.nan]]))
    assert one.value.tolist() == pytest.approx([2, np.nan], nan_ok=True)
    assert one.low[0] == one.high[0] == 2


def test_frechet_distance_of_gaussians() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (20000, 3)), rng.normal(0, 2, (20000, 3)) + 1
    assert frechet_distance(a, b) == pytest.approx(3 * 1 + 3 * (2 - 1) ** 2, rel=0.05)  # |mean|^2 + sum (s1 - s2)^2
    assert np.isnan(frechet_distance(a, b[:1]))


def test_grain_is_noise_and_not_what_flies_by() -> None:
    frames = np.full((4, 32, 32, 3), 20, np.uint8)
    everywhere = np.ones((32, 32), bool)
    passing = frames.copy()
    passing[:, 10:14, 10:14] = 250
    noisy = frames + np.random.default_rng(0).integers(0, 9, (4, 32, 32, 1), dtype=np.uint8)
    assert grain(frames, everywhere) == grain(passing, everywhere) == 0
    assert grain(noisy, everywhere) > 1
    assert np.isnan(grain(noisy, ~everywhere))


def test_landers_are_counted_and_terrain_is_told_from_sky(chosen: EvaluationSet) -> None:
    assert LANDER is not None
    assert LANDER.count is not None
    assert LANDER.empty is not None
    frames = np.zeros((3, 64, 64, 3), np.uint8)
    frames[1, 10:13, 10:13] = frames[2, 10:13, 10:13] = frames[2, 30:33, 40:43] = (128, 102, 230)
    frames[0, 5, 5, 2] = 60  # too small a thing
    assert LANDER.count(frames).tolist() == [0, 1, 2]
    assert not LANDER.empty(frames[1])[8:15, 8:15].any()
    assert LANDER.empty(frames[1])[20:].all()
    assert LANDER.count(np.zeros_like(frames)).tolist() == [0, 0, 0]
    first = chosen.truth[:, 0]
    assert not (LANDER.still(first) & LANDER.empty(first)).any()


def test_the_cart_and_its_pole_are_read_off_the_frame() -> None:
    reader = reader_for("CartPole-v1")
    assert reader is not None
    params = PARAMS.model_copy(update={"env_id": "CartPole-v1", "size": (64, 64), "frame_skip": 1})
    env = make_env("CartPole-v1", {}, False)
    episodes = [play_episode(env, params, seed=0, index=i) for i in range(6)]
    frames, states = np.concatenate([e.frames for e in episodes]), np.concatenate([e.states for e in episodes])
    assert np.abs(reader.position(frames) - reader.true_position(states)).max() < 2.5  # a pixel is 9.4 of the screen's
    (angle,) = reader.quantities
    assert angle.read is not None
    assert angle.distance(angle.read(frames), angle.from_states(states)).max() < 2.5
    assert np.isnan(reader.position(np.full_like(frames, 255))).all()
    assert np.isnan(angle.read(np.full_like(frames, 255))).all()
    assert angle.distance(np.array([359.0]), np.array([2.0])) == 3
    assert reader_for("Pendulum-v1") is None
    assert reader_for(None) is None


def test_crops_follow_the_object_whatever_the_size_of_the_frame() -> None:
    frames = np.zeros((2, 64, 64, 3), np.uint8)
    frames[0, 20, 30], frames[1, 2, 62] = 200, 200
    centres = np.array([[30 * 600 / 64, 20 * 400 / 64], [62 * 600 / 64, 2 * 400 / 64]])
    found = crops(frames, centres, (600, 400))
    assert found.shape == (2, 20, 20, 3)
    assert (found[:, 10, 10] == 200).all()  # also at the edge
    large = frames.repeat(4, 1).repeat(4, 2)
    assert np.array_equal(crops(large, centres, (600, 400)), found)
    assert shrink(large).shape == (2, 32, 32, 3)


def test_ended_episodes_count_up_to_their_end(store: EpisodeStore) -> None:
    found = evaluation_set(store, 30, 3, 6, 4)
    short = evaluation_set(store, 30, 7, 2, 4)
    assert short.groups.min() >= 8
    for k in range(30):
        start, end = store.bounds(int(found.episodes[k]))
        ends = int(found.alive[k].sum())
        assert ends == min(1 + (end - start - 1) // 4, 9) * 4
        assert np.array_equal(found.truth[k, ends - 1], store.frames[start + (ends // 4 - 1) * 4])
        assert (found.truth[k, ends:] == found.truth[k, ends - 1]).all()
        # Those after the last whole group too: it may be there that the episode ended.
        assert len(found.row_actions[k]) == min(end - start, 33)
        assert np.array_equal(found.row_actions[k], store.actions[start : start + len(found.row_actions[k])])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 3, 60, 4), "render.horizon = 240 is longer than every held-out episode: .* goes on for 24; lower it"),
        ((1, 90, 1, 4), "render.context_latents = 90 leaves nothing to generate"),
    ],
)  # fmt: skip
def test_what_cannot_be_evaluated_is_refused(
    store: EpisodeStore, arguments: tuple[int, int, int, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        evaluation_set(store, *arguments)


def test_an_environment_that_draws_noise_elsewhere_is_said_to_differ(
    pipeline: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oniris_core.evaluation.rollouts import simulator

    def restless(*arguments: object) -> Replay:
        played = replay(*arguments)  # type: ignore[arg-type]
        return played._replace(frames=played.frames ^ 1)

    monkeypatch.setattr(simulator, "replay", restless)
    result = run(pipeline, "render")
    assert result.exit_code == 0, result.output
    assert "left out: floor: replaying 1 of 1 episodes" in result.output
    metrics = json.loads((pipeline / "reports/render/metrics.json").read_text())
    assert "rollout/psnr@8" in metrics
    assert not any(name.startswith("floor") for name in metrics)


def evaluated(folder: Path) -> dict[str, float]:
    return json.loads((folder / "reports/render/metrics.json").read_text())


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_other_environments_evaluate_without_special_flags(params_only: Path, run: Run, env_id: str) -> None:
    """CartPole is deterministic after its reset: its floor is 0. Pendulum has no reader, and actions that are numbers."""
    options: dict[str, list[str]] = {
        "collect": ["--env-id", env_id, "--frame-skip", "1", "--episodes", "12", "--held-out-share", "0.3"],
        "render": ["--episodes", "3", "--context-latents", "1", "--horizon", "4"],
        "train": ["--clip-latents", "2"],
        "train_vae": ["--clip-frames", "4"],
    }
    for stage in ("collect", "train_vae", "encode", "train", "render"):
        result = run(params_only, stage, *options.get(stage, []))
        assert result.exit_code == 0, result.output
    metrics = evaluated(params_only)
    assert metrics["floor/psnr@4"] == 100
    assert metrics["drift/finite"] == 1
    if env_id == "CartPole-v1":
        assert metrics["floor/position_px@4"] == 0
        assert metrics["vae/position_px@4"] >= 0
    else:
        assert not any("position_px" in name for name in metrics)
        assert metrics["diversity/spread_grey@4"] >= 0


def test_the_numbers_do_not_depend_on_the_batch_and_the_same_seed_gives_the_same_file(
    pipeline: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oniris_core.evaluation.rollouts import rollouts

    def report(batch: int) -> dict[str, float]:
        monkeypatch.setattr(rollouts, "side_by_side", lambda *_: batch)
        result = run(pipeline, "render", "--samples", 3, "--dreams", 2)
        assert result.exit_code == 0, result.output
        return evaluated(pipeline)

    once = report(batch=1)
    first = (pipeline / "reports/render/metrics.json").read_bytes()
    set_once = (pipeline / "reports/render/evaluation_set.json").read_bytes()
    report(batch=1)
    assert (pipeline / "reports/render/metrics.json").read_bytes() == first
    assert (pipeline / "reports/render/evaluation_set.json").read_bytes() == set_once
    many = report(batch=8)
    assert once.keys() == many.keys()
    # The order in which a matrix product adds up may change with its size; a grey level here and there follows.
    for name in once:
        assert many[name] == pytest.approx(once[name], rel=1e-3, abs=1e-3), name


def test_what_is_not_finite_is_counted_and_black(pipeline: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from oniris_core.sampling import stepper

    def broken(*arguments: object, real: Callable = stepper.next_frame):
        state, x = real(*arguments)
        return state._replace(clean=state.clean * torch.nan), x * torch.nan

    monkeypatch.setattr(stepper, "next_frame", broken)
    result = run(pipeline, "render")
    assert result.exit_code == 0, result.output
    metrics = evaluated(pipeline)
    assert metrics["rollout/finite"] == metrics["drift/finite"] == 0
    assert metrics["drift/no_object"] == 1
