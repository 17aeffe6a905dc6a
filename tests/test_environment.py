"""The world model and its simulator as Gymnasium environments: seeds, resets, spaces, and what is refused."""

import copy
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import oniris_core.environment  # noqa: F401  (registers)
from oniris_core.common.errors import UserError
from oniris_core.data.rows.actions import action_spec
from oniris_core.environment import dreams
from oniris_core.environment.comparison import compare
from oniris_core.environment.decisions import DecisionVectorEnv
from oniris_core.environment.dreams import WorldVectorEnv, _bytes_of
from oniris_core.environment.spaces import checked, each_frame, space_of
from oniris_core.environment.truth import TrueVectorEnv
from oniris_core.sampling.autoregressive import Sampler
from oniris_core.sampling.stepper import Moment, Stepper
from oniris_core.world.outcomes import Outcomes
from tests.conftest import ROOT, one_thread
from tests.toys import C, codec, starts, teach, world
from tests.worlds import SPACES

QUICK = Sampler(steps=1)


def parts(**others: Any) -> dict[str, Any]:
    return {"world": world(), "vae": codec(), "starts": starts(), **others}


def dreamt(num_envs: int = 2, **others: Any) -> WorldVectorEnv:
    return WorldVectorEnv(num_envs, **{"sampler": QUICK, "rewards": "none", "context_latents": 1, **parts(), **others})


def true(num_envs: int = 2, **others: Any) -> TrueVectorEnv:
    return TrueVectorEnv(num_envs, **parts(**others))


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the world model had learned rewards and ends."""
    teach(monkeypatch)


def played(envs: DecisionVectorEnv, steps: int, seed: Any = 5, actions: Any = None) -> list[tuple[np.ndarray, ...]]:
    """What each step gave: observations, rewards, terminated, truncated."""
    with one_thread():
        made = [(envs.reset(seed=seed)[0],)]
        for step in range(steps):
            taken = np.full(envs.action_space.shape, step % 2) if actions is None else actions[step]
            made.append(envs.step(taken)[:4])
    return made


def same(a: list[tuple[np.ndarray, ...]], b: list[tuple[np.ndarray, ...]], rows: Any = slice(None)) -> bool:
    return all(
        np.array_equal(x[rows], y[rows]) for one, two in zip(a, b, strict=True) for x, y in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("kind", ["World", "True"])
@pytest.mark.parametrize("arguments", [{}, {"observations": "latents", "actions_per_step": "all"}])
def test_gymnasiums_own_checks_pass(kind: str, arguments: dict[str, Any]) -> None:
    given = {"sampler": QUICK, "rewards": "none", "context_latents": 1} if kind == "World" else {}
    env = gym.make(f"Oniris/{kind}-v0", render_mode="rgb_array", **parts(**given, **arguments))
    with one_thread():
        check_env(env.unwrapped)
    assert env.unwrapped.render().shape == (16, 16, 3)
    env.close()
    envs = gym.make_vec(f"Oniris/{kind}-v0", num_envs=3, **parts(**given, **arguments))
    observations, infos = envs.reset(seed=1)
    assert observations in envs.observation_space
    assert envs.single_observation_space.shape == ((3, 4, 4) if arguments else (16, 16, 12))
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert set(infos) == {"start", "frame", "seed", "_start", "_frame", "_seed"}
    observations, rewards, terminated, truncated, _ = envs.step(envs.action_space.sample())
    assert observations in envs.observation_space
    assert (rewards.dtype, terminated.dtype, truncated.dtype) == (np.float64, bool, bool)
    envs.close()
    envs.close()


def test_it_is_found_by_the_name_of_its_module() -> None:
    envs = gym.make_vec(
        "oniris_core.environment:Oniris/World-v0", num_envs=1, rewards="none", context_latents=1, **parts()
    )
    assert isinstance(envs, WorldVectorEnv)


def test_equal_seeds_and_actions_are_equal_bytes(learned: None) -> None:
    for observations in ("pixels", "latents"):
        first, again = (dreamt(3, observations=observations, rewards="model", horizon=8) for _ in range(2))
        assert same(played(first, 5), played(again, 5))
        assert not same(played(first, 5), played(again, 5, seed=6))


def test_neighbours_their_ages_and_their_resets_do_not_matter() -> None:
    """Row 1 has the same seed in both; its neighbours others, and of other horizons."""
    options = {"horizon": np.array([4, 400, 12])}
    one, two = (dreamt(3, observations="latents", horizon=None, world=world(40)) for _ in range(2))
    rng = np.random.default_rng(0)
    actions = rng.integers(2, size=(16, 3))
    others = actions.copy()
    others[:, [0, 2]] = rng.integers(2, size=(16, 2))
    with one_thread():
        one.reset(seed=[1, 2, 3], options=options)
        two.reset(seed=[7, 2, 8], options={"horizon": np.array([16, 400, 4]), "start": np.array([0, 1, 1])})
        # The same beginning for row 1.
        for envs in (one, two):
            envs.reset(
                seed=[4, 2, 4], options={"start": 1, "horizon": 400, "reset_mask": np.array([False, True, False])}
            )
        for step in range(16):
            a, b = one.step(actions[step]), two.step(others[step])
            assert np.array_equal(a[0][1], b[0][1])
            assert not np.array_equal(a[0], b[0])
            if not step:
                first = a[0][1]
    alone = dreamt(1, observations="latents", horizon=None, world=world(40))
    with one_thread():
        alone.reset(seed=2, options={"start": 1})
        # In a batch of another size to rounding, which this network, which has learned nothing, soon makes much of.
        np.testing.assert_allclose(alone.step(actions[0, 1:2])[0][0], first, atol=1e-4)


def test_next_step_resets_after_the_end_and_same_step_with_it(learned: None) -> None:
    after = dreamt(2, rewards="model", horizon=12, context_latents=1)
    within = dreamt(2, rewards="model", horizon=12, context_latents=1, autoreset_mode=AutoresetMode.SAME_STEP)
    a = played(after, 4)
    within.reset(seed=5)
    with one_thread():
        for step in range(3):
            *got, infos = within.step(np.full(2, step % 2))
    assert a[3][3].all()
    assert got[3].all()
    assert not a[2][3].any()
    final = np.stack(infos["final_obs"])
    assert np.array_equal(final, a[3][0])  # the last frames of the episode, which the other shows one step longer
    assert infos["_final_obs"].all()
    assert np.array_equal(got[0], a[4][0])
    assert not a[4][1].any()
    assert not a[4][3].any()


def test_rewards_are_those_of_whole_latent_frames_up_to_the_end(learned: None) -> None:
    envs = dreamt(1, rewards="model", context_latents=1, observations="latents", horizon=None)
    made = played(envs, 10)  # the reset and one latent frame of context, then nine more: the eleventh ends it
    seen = [observation.mean() for observation, *_ in made]
    assert made[1][1][0] == pytest.approx(4 * seen[1] + 6, abs=1e-4)
    assert made[9][1][0] == pytest.approx(4 * seen[9] + 6, abs=1e-4)  # it ends within these four frames
    assert [bool(terminated[0]) for _, _, terminated, _ in made[1:]] == [False] * 8 + [True, False]
    assert made[10][1][0] == 0  # NEXT_STEP: a reset


def test_a_reset_of_some_leaves_the_others() -> None:
    envs = dreamt(3, observations="latents", autoreset_mode=AutoresetMode.DISABLED, horizon=8)
    with one_thread():
        envs.reset(seed=1)
        before = envs.step(np.zeros(3, int))[0]
        after, infos = envs.reset(options={"reset_mask": np.array([False, True, False]), "start": 2, "frame": 8})
        assert np.array_equal(after[[0, 2]], before[[0, 2]])
        assert not np.array_equal(after[1], before[1])
        assert (infos["start"][1], infos["frame"][1]) == (2, 8)
        assert infos["_start"].tolist() == [False, True, False]
        truncated = envs.step(np.zeros(3, int))[3]
        assert truncated.tolist() == [True, False, True]
        with pytest.raises(ResetNeeded, match=r"environments \[0, 2\] have ended"):
            envs.step(np.zeros(3, int))


def test_dreams_begin_early_or_anywhere_after_all_the_past_that_the_forecast_sees() -> None:
    early, anywhere = (
        dreamt(8, observations="latents", begin=begin, starts=starts(15)) for begin in ("early", "anywhere")
    )
    with one_thread():
        assert set(early.reset(seed=0)[1]["frame"]) == {C}
        seen, infos = anywhere.reset(seed=0)
        assert set(infos["frame"]) == {C, 2 * C, 3 * C}
        assert np.array_equal(anywhere.reset(seed=0)[0], seen)
        # What is remembered is at least as much as the forecast looks back to.
        assert anywhere.moment is not None
        assert anywhere.parts.world.form.config.forecast_ages[-1] == 4
        assert np.array_equal(anywhere.moment.world.position, infos["frame"] // C + 1)
        row = int(infos["frame"].argmax())
        start = starts(15).starts[infos["start"][row]]
        z, _ = anywhere.stepper.latents_of(start.frames[None, :13], start.actions[None, :13])
        np.testing.assert_allclose(anywhere.moment.world.clean[row, -2:], z[0, -2:], atol=1e-5)


@pytest.mark.parametrize("observations", ["pixels", "latents"])
def test_moments_that_dreams_begin_from_are_kept_as_far_as_memory_allows(
    observations: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forgotten or not: the same dreams."""
    with one_thread():
        envs = dreamt(8, observations=observations, begin="anywhere", starts=starts(15))
        seen = envs.reset(seed=0)[0]
        kept = envs._kept
        entries = envs._begun.values()
        shown = observations == "pixels"
        assert kept == sum(_bytes_of(moment) + shown * frames.nbytes for moment, frames in entries)
        assert not shown or all(frames.base is None for _, frames in entries)
        assert len(envs._begun) > 2
        monkeypatch.setattr("oniris_core.environment.dreams.KEPT_BYTES", kept // 2)
        few = dreamt(8, observations=observations, begin="anywhere", starts=starts(15))
        assert np.array_equal(few.reset(seed=0)[0], seen)
        assert 0 < few._kept <= kept // 2
        assert len(few._begun) < len(envs._begun)


def test_frames_after_the_last_whole_group_begin_no_dream() -> None:
    whole, more = (dreamt(2, starts=starts(rows), begin="anywhere") for rows in (13, 15))
    with one_thread():
        for envs in (whole, more):
            assert set(envs.reset(seed=0)[1]["frame"]) <= {C, 2 * C, 3 * C}


def test_pixels_and_latents_are_seen_of_the_same_dreams() -> None:
    """Whoever sees latents alone needs no decoder; the dreams are the same."""
    seen, unseen = dreamt(2, observations="latents", render_mode="rgb_array"), dreamt(2, observations="latents")
    assert same(played(seen, 4), played(unseen, 4))
    assert seen.frames.any()
    assert unseen.moment is not None
    assert unseen.moment.decoder is None


def test_an_action_for_every_frame_is_told_as_such() -> None:
    with one_thread():
        one, each = dreamt(1, observations="latents"), dreamt(1, observations="latents", actions_per_step="all")
        assert each.single_action_space == gym.spaces.MultiDiscrete([2] * C)
        held = played(one, 1, actions=[np.array([1])])
        assert same(held, played(each, 1, actions=[np.array([[1, 1, 1, 1]])]))
        assert not same(held, played(each, 1, actions=[np.array([[1, 0, 1, 1]])]))


def test_the_moment_of_the_dreams_can_be_branched_from() -> None:
    envs = dreamt(2, observations="latents")
    played(envs, 2)
    kept = envs.moment
    assert kept is not None
    a = envs.step(np.array([1, 1]))[0]
    branched = envs.stepper.imagine(kept, np.ones((2, C), int), envs._noise)
    assert np.array_equal(branched.world.clean[:, -1].numpy(), a)


def test_what_breaks_is_truncated_and_does_not_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    envs = dreamt(2, observations="latents", horizon=None)
    played(envs, 1)
    assert envs.moment is not None
    clean = envs.moment.world.clean.clone()
    clean[0, -1] = torch.nan
    envs.moment = replace(envs.moment, world=envs.moment.world._replace(clean=clean))
    with one_thread():
        observation, _, terminated, truncated, _ = envs.step(np.zeros(2, int))
        assert (terminated.tolist(), truncated.tolist()) == ([False, False], [True, False])
        assert np.isfinite(observation).all()
        observation, _, _, truncated, _ = envs.step(np.zeros(2, int))
    assert not truncated.any()
    assert observation[0].any()


def test_true_and_dreamt_begin_alike() -> None:
    """A policy moves from one to the other unchanged: spaces, cadence, and what is seen after equal resets."""
    for observations, difference in (("latents", 1e-4), ("pixels", 255)):
        dream, truth = dreamt(3, observations=observations), true(3, observations=observations)
        found = compare(dream, truth, 12)
        assert found["first/difference"] <= difference
        assert found["truth/reward"] == pytest.approx(4, abs=1.5)  # one for each frame of a group
        assert found["truth/terminated"] == 1
        assert found["truth/length"] < found["dream/length"] == 12
        assert found["dream/reward"] == 0
    with pytest.raises(UserError, match="single_action_space"):
        compare(dream, true(3, actions_per_step="all"), 2)


def test_the_truth_is_gymnasiums_own() -> None:
    """A new episode is that of the environment under the same seed and actions, c steps a decision, up to its end."""
    envs, plain = true(2, autoreset_mode="SameStep"), gym.make("CartPole-v1")
    with one_thread():
        envs.reset(seed=11)
        plain.reset(seed=12)
        ended, decisions = False, 0
        while not ended:
            decisions += 1
            rewards, alive = 0.0, 0
            for _ in range(C):
                if not ended:
                    _, reward, ended, _, _ = plain.step(1)
                    rewards, alive = rewards + float(reward), alive + 1
            _, got, terminated, truncated, infos = envs.step(np.ones(2, int))
            assert (got[1], bool(terminated[1])) == (rewards, ended)
    assert not truncated.any()
    last = infos["final_obs"][1].reshape(16, 16, C, 3)
    for frame in range(alive, C):
        assert np.array_equal(last[:, :, frame], last[:, :, alive - 1])  # it stands still
    assert decisions < 10


@pytest.mark.parametrize("name", SPACES)
def test_spaces_are_those_of_the_specs(name: str) -> None:
    space = SPACES[name]
    assert space_of(action_spec(space)) == space
    many = each_frame(space, C)
    many.seed(0)
    sampled = many.sample()
    assert all(np.asarray(one, space.dtype)[()] in space for one in sampled)
    assert checked(many, sampled[None], 1).shape == (1, *many.shape)


@pytest.mark.parametrize(
    ("actions", "said"),
    [
        ([0, 2], r"action 2 of environment 1 is outside of Discrete\(2\)"),
        ([0], r"actions of shape \[1\] .* do not fit \[2\]"),
        ([[0], [1]], r"do not fit \[2\]"),
        ([0.5, 0.0], "whole numbers"),
        ([np.nan, 0.0], "must be finite"),
        (["left", "right"], "do not fit"),
    ],
)
def test_wrong_actions_are_told_in_a_line(actions: Any, said: str) -> None:
    for envs in (dreamt(), true()):
        envs.reset(seed=0)
        with pytest.raises(ValueError, match=said):
            envs.step(actions)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"rewards": "model"}, "train.outcome_weight"),
        ({"rewards": "some"}, "'model', 'none'"),
        ({"observations": "sounds"}, "observations = 'sounds' must be one of 'pixels', 'latents'"),
        ({"actions_per_step": "two"}, "'one', 'all'"),
        ({"render_mode": "human"}, "render_mode"),
        ({"begin": "late"}, "begin = 'late' must be one of 'early', 'anywhere'"),
        ({"horizon": 6}, "horizon = 6 frames must be a multiple of 4"),
        (
            {"context_latents": 9},
            "the longest start has 3 latent frames after the reset, fewer than context_latents = 9",
        ),
        ({"num_envs": 0}, "num_envs = 0"),
        ({"vae": replace(codec(), identity="another")}, "belongs to VAE toy, this one is another"),
        ({"world": "nowhere"}, "nowhere is missing"),
        ({"starts": str(ROOT / "demo/starts.npz")}, "other actions"),
        ({"starts": "nothing.npz"}, "is missing"),
    ],
)
def test_wrong_arguments_are_told_in_a_line(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        dreamt(**arguments)


@pytest.mark.parametrize(
    ("seed", "options", "said"),
    [
        (None, {"strat": 1}, "unknown option 'strat'; did you mean 'start'"),
        (None, {"start": 3}, "has the starts 0 to 2"),
        (None, {"frame": 3, "start": 0}, "frame = 3 of start 0 must be a multiple of 4 from 0 to 12"),
        (None, {"start": [0, 1, 2]}, "option start must be a whole number, or 2 of them"),
        (None, {"horizon": 2}, "horizon"),
        (None, {"reset_mask": [True]}, "reset_mask"),
        ([1], None, "seeds must be 2 whole numbers"),
        (-3, None, None),
    ],
)
def test_wrong_resets_are_told_in_a_line(seed: Any, options: Any, said: str | None) -> None:
    for envs in (dreamt(), true()):
        with pytest.raises(UserError if said else gym.error.Error, match=said):
            envs.reset(seed=seed, options=copy.copy(options))


def test_order_is_kept() -> None:
    for envs in (dreamt(), true()):
        with pytest.raises(ResetNeeded, match="step before reset"):
            envs.step([0, 0])
        with pytest.raises(ResetNeeded, match="leave reset_mask out"):
            envs.reset(options={"reset_mask": np.array([True, False])})
        envs.reset()
        envs.close()
        with pytest.raises(ClosedEnvironmentError, match="closed"):
            envs.step([0, 0])
        with pytest.raises(ClosedEnvironmentError, match="closed"):
            envs.reset()


def test_more_than_memory_holds_is_refused_with_what_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    row = 3 * dreamt(1)._row_bytes
    monkeypatch.setattr(dreams, "available_memory", lambda: 5 * row)
    dreamt(5)
    with pytest.raises(UserError, match=r"num_envs = 6 needs .* at most 5 fit"):
        dreamt(6)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"env_id": None}, "were not recorded from a simulator"),
        ({"env_id": "CartPol-v1"}, "unknown environment id"),
        ({"env_id": "Acrobot-v1"}, "has other actions here"),
        ({"params": {}}, "does not say how its episodes were played"),
    ],
)
def test_a_simulator_that_cannot_be_made_is_told_in_a_line(record: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        true(starts=replace(starts(), record={**starts().record, **record}))


def test_a_simulator_that_plays_otherwise_than_recorded_is_refused() -> None:
    envs = true(starts=replace(starts(), record={**starts().record, "params": {"frame_skip": 2}}))
    with pytest.raises(UserError, match="gives other frames than recorded"):
        envs.reset(options={"start": 0, "frame": 8})
    with pytest.raises(UserError, match="option frame needs the option start"):
        envs.reset(options={"frame": 8})


def test_the_default_sampler_is_that_of_the_parameters() -> None:
    from oniris_core.config.reader import build
    from oniris_core.sampling.params import RenderParams
    from tests.project import defaults

    assert Sampler() == Sampler.of(build(RenderParams, "render", defaults()["render"], "test"))


def test_an_end_is_drawn_and_brings_all_that_ends_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    """As likely as the model holds it to be, and for each environment as if it were alone."""

    def even(_: Stepper, moment: Moment) -> Outcomes:
        ones = torch.ones(len(moment), C)
        return Outcomes(-2 * ones, 0.5 * ones, ones, -5 * ones)

    teach(monkeypatch, even)

    def play(seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        envs = dreamt(len(seeds), rewards="model", autoreset_mode="Disabled")
        envs.reset(seed=seeds)
        _, rewards, terminated, _, _ = envs.step(np.zeros(len(seeds), np.int64))
        return rewards, terminated

    rewards, terminated = play([*range(64)])
    assert 16 < terminated.sum() < 48
    assert np.array_equal(rewards, np.where(terminated, -5 * C, C))
    assert play([7])[1][0] == terminated[7]
    assert play([8])[1][0] == terminated[8]
