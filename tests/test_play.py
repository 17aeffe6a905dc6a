"""The dream as it is played: what is shown is what a rollout gives, and what was dreamt can be gone back to, byte for byte."""

import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oniris_core import sampling, vae, world
from oniris_core.common.errors import UserError
from oniris_core.config.reader import load_section, read_yaml
from oniris_core.data.episodes.store import open_episodes
from oniris_core.data.playing.rollouts import replay
from oniris_core.data.rows.actions import ActionSpec
from oniris_core.environment.dreams import Told
from oniris_core.environment.starts import (
    MOST_ROWS,
    Start,
    Starts,
    fitting,
    of_store,
    open_starts,
    write_starts,
)
from oniris_core.play.controls import controls, resting
from oniris_core.play.house import measured
from oniris_core.play.opening import open_house
from oniris_core.play.player import played
from oniris_core.play.recording import Played, collect_command, save
from oniris_core.play.session import Session, inflated
from oniris_core.play.truth import Truth, position_error, reader_of
from oniris_core.play.web import protocol
from oniris_core.sampling.params import RenderParams
from oniris_core.sampling.stepper import Stepper
from tests.conftest import Run, one_thread
from tests.players import STARTS, C, ToyStepper, demo_starts, play_params
from tests.project import ROOT


@pytest.fixture(scope="module")
def demo():
    """The demo's world and VAE, and its sampler with a single step."""
    how = sampling.sampler(ROOT / "demo/params.yaml")
    return world.load(ROOT / "demo/world"), vae.load(ROOT / "demo/vae"), replace(how, steps=1)


def toy_session(**values: int) -> Session:
    steppers = {name: ToyStepper(name) for name in ("fast", "fine")}
    return Session(steppers, demo_starts().starts[0], 4, 7, **{"moments": 8, "history": 1000, **values})  # type: ignore[arg-type]


def acts(value: int) -> np.ndarray:
    return np.full(C, value)


def test_what_is_shown_is_what_a_rollout_gives(demo) -> None:
    model, codec, how = demo
    start, rng = demo_starts().starts[0], np.random.default_rng(0)
    actions = np.concatenate([start.actions[:9], rng.integers(0, 4, 4 * C)])
    with one_thread():
        truth = list(sampling.rollout(Stepper(model, codec, how), start.frames[None, :9], actions[:, None], seed=7))
        session = Session({"fine": Stepper(model, codec, how)}, start, 2, 7, moments=8, history=100)
        shown = [session.step(actions[i : i + C], "fine") for i in range(9, 9 + 4 * C, C)]
    assert [one.tobytes() for one in shown] == [one.tobytes() for one in truth]
    assert [session.frames(i).tobytes() for i in range(4)] == [one.tobytes() for one in truth]
    session.rewind(0)
    session.branch(4)
    with one_thread():
        futures = session.step(actions[9 : 9 + C], "fine").astype(int)
        four = next(
            sampling.rollout(
                Stepper(model, codec, how), start.frames[None, :9].repeat(4, 0), actions[:, None].repeat(4, 1), 7
            )
        )
    # A context computed once or four times side by side is rounded otherwise; the noise is another whole matter.
    assert np.abs(futures - four).max() <= 2
    assert np.abs(futures[1] - futures[0]).max() > 3  # of the very first latent frame


def catch_up(session: Session) -> int:
    """Bring the model to the present; returns the steps that it took."""
    steps = 0
    while session.is_behind:
        session.catch_up()
        steps += 1
    return steps


def test_rewinding_gives_the_same_bytes_and_another_action_or_noise_others() -> None:
    session = toy_session()
    made = [session.step(acts(i % 4), "fine" if i % 3 else "fast").tobytes() for i in range(40)]
    assert len(session.moments()) <= 8
    assert len(session.rewind(21)) == 19
    assert session.is_behind
    with pytest.raises(ValueError, match="catch up"):
        session.step(acts(0), "fine")
    assert 0 < catch_up(session) < 21  # from a moment in between, not from the start
    again = [session.step(acts(i % 4), "fine" if i % 3 else "fast").tobytes() for i in range(21, 40)]
    assert again == made[21:]
    session.rewind(38)
    catch_up(session)
    assert session.step(acts(3), "fine").tobytes() != made[38]
    session.rewind(38)
    session.renew_noise(8)
    assert session.step(acts(38 % 4), "fine").tobytes() != made[38]


def test_going_back_twice_before_the_model_has_caught_up() -> None:
    session = toy_session()
    made = [session.step(acts(1), "fine").tobytes() for _ in range(30)]
    session.rewind(25)
    session.catch_up() if session.is_behind else None
    session.rewind(23)
    catch_up(session)
    assert session.step(acts(1), "fine").tobytes() == made[23]


@pytest.mark.parametrize("back_to", [7, 9, 12, 14])
def test_a_chosen_future_is_gone_back_to_as_it_was(back_to: int) -> None:
    def dream(session: Session) -> list[bytes]:
        made = [session.step(acts(1), "fine").tobytes() for _ in range(6)]
        session.branch(4)
        made += [session.step(acts(2), "fast")[2].tobytes() for _ in range(5)]  # at 11 the third is chosen
        session.choose(2)
        return made + [session.step(acts(0), "fine").tobytes() for _ in range(6)]

    session = toy_session()
    made = dream(session)
    assert [session.frames(i).tobytes() for i in range(17)] == made
    stepper, start = ToyStepper("fast"), session.start
    moment = stepper.begin(start.frames[None, :17], start.actions[None, :17])[0]
    for i, quality in enumerate(["fine"] * 6 + ["fast"] * 5 + ["fine"]):  # the same without a session
        stepper.quality = quality
        moment = moment.repeat(4) if i == 6 else moment.select([2]) if i == 11 else moment
        rows = len(moment.states)
        told = np.tile(acts(1 if i < 6 else 2 if i < 11 else 0), (rows, 1))
        moment, frames = stepper.step(moment, told, [7 * 2**32 + row for row in range(rows)])
        assert frames[2 if rows == 4 else 0].tobytes() == made[i]
    session.rewind(back_to)
    catch_up(session)
    fresh = toy_session(moments=1000)
    dream(fresh)
    fresh.rewind(back_to)  # here every moment was kept
    assert not fresh.is_behind
    assert session.step(acts(3), "fine").tobytes() == fresh.step(acts(3), "fine").tobytes()
    if back_to > 11:  # a single dream again: the same action gives the same
        session.rewind(back_to)
        assert session.step(acts(0), "fine").tobytes() == made[back_to]


def test_rewards_add_up_along_the_futures_that_were_chosen_until_the_episode_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every step brings 1, in future 2 more likely than not the end, with 11; without rewards nothing is told."""
    monkeypatch.setattr(ToyStepper, "has_outcomes", True)

    def told(_: ToyStepper, moment: Any) -> Told:
        ones = np.ones(len(moment.states))
        return Told(5 * ones, ones, 11 * ones, np.where(np.arange(len(ones)) == 2, 0.6, 0.4))

    monkeypatch.setattr("oniris_core.play.session.told", told)
    dream = toy_session()
    assert dream.outcome(0) == {}
    for _ in range(2):
        dream.step(acts(0), "fine")
    assert dream.outcome(2) == {"reward": 2.0, "ended": False}
    dream.branch(4)
    dream.step(acts(0), "fine")
    dream.step(acts(0), "fine")
    assert dream.outcome(4) == {"reward": 4.0, "ended": False}
    dream.choose(2)
    assert dream.outcome(3) == dream.outcome(4) == {"reward": 13.0, "ended": True}
    dream.step(acts(0), "fine")
    assert dream.outcome(5) == {"reward": 13.0, "ended": True}  # nothing counts after the end
    dream.rewind(1)
    assert dream.outcome(1) == {"reward": 1.0, "ended": False}
    monkeypatch.setattr(ToyStepper, "has_outcomes", False)
    dream = toy_session()
    dream.step(acts(0), "fine")
    assert dream.outcome(1) == {}


def test_history_is_bounded_and_what_is_forgotten_is_refused() -> None:
    session = toy_session(history=20)
    for i in range(100):
        session.step(acts(i % 4), "fine")
        assert session.at - session.first <= 20 + 16  # up to a moment that can be gone on from
        assert len(session.moments()) <= 8
        assert session.moments()[0] == session.first
    assert session.first > 60
    with pytest.raises(ValueError, match="not among"):
        session.frames(session.first - 1)
    with pytest.raises(ValueError, match="not among"):
        session.rewind(session.first - 1)
    session.rewind(session.first)
    assert not session.is_behind
    assert sum(step.frames is not None for step in session.dreamt) == 0


def test_truth_is_the_simulator_under_the_same_actions() -> None:
    starts = demo_starts()
    start, truth = starts.starts[1], Truth(starts, False, C)
    actions = np.concatenate([start.actions[:17], np.repeat([1, 2, 0, 3, 2], C)])
    for _ in range(2):  # and once more after a way back
        truth.begin(start, 4)
        frames = np.concatenate([truth.step(actions[i : i + C]) for i in range(17, len(actions), C)])
    from oniris_core.data.playing.environments import make_env

    want = replay(make_env("LunarLander-v3", {}, False), start.seed, actions, 2, (64, 64), "stretch").frames
    assert np.array_equal(frames, want[17:])
    assert np.array_equal(np.concatenate([truth.frames(i) for i in range(5)]), frames)
    assert position_error(reader_of(starts), frames[:C], frames[:C]) == 0
    assert position_error(reader_of(starts), frames[:C], frames[-C:]) > 5
    truth.close()


def test_truth_that_has_ended_takes_no_more_room() -> None:
    """A page may stay open for hours after the lander has crashed."""
    starts = demo_starts()
    truth, known = Truth(starts, False, C), 0
    truth.begin(starts.starts[0], 4)
    while not truth.ended:
        truth.step(np.full(C, 0))
    truth.step(np.full(C, 0))
    known = len(truth.steps)
    last = [truth.step(np.full(C, 2)) for _ in range(50)]
    assert len(truth.steps) == known + 50
    assert len({id(step) for step in truth.steps}) <= known
    assert all(np.array_equal(frames, last[0]) for frames in last)
    assert truth.reward == pytest.approx(sum(float(step.rewards.sum()) for step in truth.steps), rel=1e-6)
    truth.close()


def test_a_start_that_the_simulator_does_not_repeat_is_said() -> None:
    starts = demo_starts()
    start = starts.starts[0]
    with pytest.raises(UserError, match="not deterministic"):
        Truth(starts, False, C).begin(replace(start, frames=255 - start.frames), 4)
    without = replace(starts, record={**starts.record, "env_id": None})
    with pytest.raises(UserError, match="not recorded from a simulator"):
        Truth(without, False, C)
    with pytest.raises(UserError, match="other actions"):
        Truth(replace(starts, record={**starts.record, "env_id": "CartPole-v1"}), False, C)


def test_without_its_environment_it_plays_on_and_says_so(demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oniris_core.play.house.MEASURED_S", 0.0)
    model, codec, _ = demo
    params, file = ROOT / "demo/params.yaml", read_yaml(ROOT / "demo/params.yaml")
    rendering = load_section(RenderParams, "render", {"render": {**file["render"], "solver_steps": 1}}, params, {})
    starts = demo_starts()
    for record, said in (
        ({"env_id": None}, "not recorded from a simulator"),
        ({"env_id": "Gone-v1"}, "unknown environment"),
        ({"params": {}}, "does not say how"),
        ({"env_kwargs": {"gravity": -5.0}}, "not deterministic"),
        ({}, None),
    ):
        of = replace(starts, record={**starts.record, **record})
        found = open_house(model, codec, rendering, of, play_params(), tmp_path, "here")
        assert (found.no_truth is None) if said is None else said in str(found.no_truth)
        assert len(found.controls[0]["choices"]) == 4
        found.close()


def test_starts_are_read_as_written(tmp_path: Path) -> None:
    starts = demo_starts()
    assert STARTS.stat().st_size < 2**19
    assert len(starts.starts) >= 5
    write_starts(tmp_path / "starts.npz", starts)
    assert (tmp_path / "starts.npz").read_bytes() == STARTS.read_bytes()
    (tmp_path / "bad.npz").write_bytes(STARTS.read_bytes()[:2000])
    with pytest.raises(UserError, match="no file of starts"):
        open_starts(tmp_path / "bad.npz", 4, 2)
    with pytest.raises(UserError, match="longest episode"):
        open_starts(STARTS, 4, 1000)
    with pytest.raises(UserError, match="is missing"):
        open_starts(tmp_path / "none.zarr", 4, 2)


def test_starts_of_a_store_are_its_held_out_episodes(tiny_pipeline: Path) -> None:
    store = open_episodes(tiny_pipeline / "data/episodes.zarr")
    starts = of_store(store, MOST_ROWS)
    assert [start.episode for start in starts.starts] == list(store.episodes(1))
    first, end = store.bounds(starts.starts[0].episode)
    assert np.array_equal(starts.starts[0].frames, store.frames[first:end])
    Truth(starts, False, C).begin(starts.starts[0], 2)


SPECS = {
    "discrete": ActionSpec("discrete", (5,), start=(2,)),
    "multi_discrete": ActionSpec("multi_discrete", (2, 3), start=(0, 0)),
    "multi_binary": ActionSpec("multi_binary", (1, 1)),
    "box": ActionSpec("box", (1, 1), (-1.0, 0.0), (1.0, 1.0)),
}
GOOD = {"discrete": 6, "multi_discrete": [1, 2], "multi_binary": [0, 1], "box": [0.5, 1]}
BAD = [1, 7, -1, 2.5, True, None, "2", [6], [1, 3], [1, 2, 0], [0.5], [2.0, 0.5], [0, -1], [2, 0], [1e30, 0], [10**30, 0], [],
       {"a": 1}, [[1, 2]]]  # fmt: skip


@pytest.mark.parametrize("kind", SPECS)
def test_actions_are_those_of_the_space_and_nothing_else(kind: str) -> None:
    spec = SPECS[kind]
    found = controls(None, spec)
    assert len(found) == (1 if kind == "discrete" else 2)
    for value in (GOOD[kind], resting(spec, found)):
        message = protocol.parse(json.dumps({"t": "act", "value": value, "press": 1}))
        assert spec.encode(protocol.action_of(message.value, spec)[None]).shape == (1, spec.features)  # type: ignore[union-attr]
    refused = 0
    for value in BAD:
        with pytest.raises(ValueError):  # noqa: PT011 - in words of whoever refuses first
            protocol.action_of(protocol.parse(json.dumps({"t": "act", "value": value, "press": 1})).value, spec)  # type: ignore[union-attr]
        refused += 1
    assert refused == len(BAD)


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["t", "at", "on", "value", "row"]), inner, max_size=4)
    ),
)


@given(st.text() | st.binary().map(lambda b: b.decode("latin-1")) | VALUES.map(json.dumps))
def test_no_text_breaks_the_parser(text: str) -> None:
    said = ""
    try:
        protocol.parse(text)
    except ValueError as error:
        said = str(error)
    assert len(said) <= 100


def test_a_message_is_short() -> None:
    with pytest.raises(ValueError, match="at most"):
        protocol.parse('{"t":"step"}' + " " * 3000)


def test_known_environments_have_the_keys_people_expect() -> None:
    def keys(env_id: str, size: int) -> dict[str, list[str]]:
        found = controls(env_id, ActionSpec("discrete", (size,), start=(0,)))[0]
        return {choice["label"]: choice["keys"] for choice in found["choices"]}

    lander = keys("LunarLander-v3", 4)
    assert "ArrowLeft" in lander["left"]
    assert "ArrowUp" in lander["main engine"]
    assert "ArrowRight" in lander["right"]
    assert "ArrowLeft" in keys("CartPole-v1", 2)["left"]
    meant = controls("ALE/Pong-v5", ActionSpec("discrete", (3,), start=(0,)), ("NOOP", "UP", "DOWN"))[0]
    assert [choice["place"] for choice in meant["choices"]] == ["", "up", "down"]
    assert controls("CartPole-v1", ActionSpec("discrete", (2,), start=(0,)))[0]["stays"]
    slider = controls("BipedalWalker-v3", ActionSpec("box", (1,) * 4, (-1.0,) * 4, (1.0,) * 4))
    assert [part["kind"] for part in slider] == ["slider"] * 4
    assert slider[0]["falls"] == "ArrowLeft"


def test_the_measurement_takes_as_many_steps_as_real_time_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oniris_core.play.house.MEASURED_S", 0.1)
    how = replace(sampling.sampler(ROOT / "demo/params.yaml"), steps=6)
    start = demo_starts().starts[0]

    def chosen(a_step: float, wanted: str = "auto") -> tuple[int, str]:
        def make(sampler: sampling.autoregressive.Sampler) -> ToyStepper:  # type: ignore[name-defined]
            return ToyStepper(seconds=a_step * sampler.steps)

        steppers, qualities, name = measured(make, how, start, 2, wanted, 0.2)  # type: ignore[arg-type]
        assert set(steppers) == set(qualities) == {"fast", "fine"}
        assert qualities["fine"].steps == how.steps
        return qualities["fast"].steps, name

    assert chosen(0.002) == (2, "fine")
    assert chosen(0.002, "fast") == (2, "fast")
    assert chosen(0.045) == (3, "fast")
    assert chosen(0.2) == (1, "fast")


def test_starts_of_another_model_are_refused() -> None:
    starts = demo_starts()
    fitting(starts, starts.action_spec, (64, 64), "here")
    with pytest.raises(UserError, match="frames of 64 x 64 pixels, the model makes 32 x 32"):
        fitting(starts, starts.action_spec, (32, 32), "here")
    with pytest.raises(UserError, match="other actions"):
        fitting(starts, SPECS["box"], (64, 64), "here")


def test_a_recording_is_collected_with_the_very_frames_and_actions(params_only: Path, run: Run) -> None:
    """What a person plays can be trained on: two recordings go through the stages."""
    folder = params_only / "recordings"
    rng = np.random.default_rng(0)
    dreams = []
    for _ in range(4):
        frames = rng.integers(0, 255, (33, 32, 32, 3), np.uint8)
        dreams.append(Played(frames, rng.integers(0, 4, 33)))
        saved = save(folder, dreams[-1], replace(dreams[-1], frames=frames[:9], actions=dreams[-1].actions[:9]), 25.0)
    assert saved.number == "0004"
    assert sorted(path.name for path in folder.iterdir()) == ["dream", "simulator", "videos"]
    spec = ActionSpec("discrete", (4,), start=(0,))
    command = collect_command(Path("recordings"), "dream", spec, (32, 32), 25.0)
    import shlex

    result = run(params_only, "collect", *shlex.split(command)[3:])
    assert result.exit_code == 0, result.output
    store = open_episodes(params_only / "data/episodes.zarr")
    assert store.action_spec == spec
    assert store.attributes["frame_rate"] == 25
    for number, dream in enumerate(dreams):
        first, end = store.bounds(number)
        assert np.array_equal(store.frames[first:end], dream.frames)
        assert np.array_equal(store.actions[first + 1 : end], dream.actions[1:])  # row 0's is a filler
    for stage in ("train_vae", "encode", "train"):
        result = run(params_only, stage)
        assert result.exit_code == 0, result.output


def test_what_is_recorded_of_a_dream_begins_with_its_true_context(tmp_path: Path) -> None:
    session = toy_session()
    made = [session.step(acts(i % 4), "fine")[0] for i in range(3)]
    of = played(session)()
    assert np.array_equal(of.frames, np.concatenate([session.start.frames[:17], *made]))
    assert of.actions.tolist() == [*session.start.actions[:17], *(i % 4 for i in range(3) for _ in range(C))]
    assert inflated(zlib.compress(made[0].tobytes()), made[0].shape).shape == (1, *made[0].shape)


def test_an_episode_too_short_for_the_context_is_refused() -> None:
    start = demo_starts().starts[0]
    short = Start(0, 0, start.frames[:9], start.actions[:9])
    with pytest.raises(ValueError, match="4 latent frames of context from an episode that has 2"):
        Session({"fine": ToyStepper()}, short, 4, 0, moments=8, history=10)  # type: ignore[dict-item]
    with pytest.raises(UserError, match="longest episode"):
        open_starts(STARTS, 1, 34)
    assert isinstance(demo_starts(), Starts)
    assert play_params(port=0).port == 0
