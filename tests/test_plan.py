"""Planning: the cross-entropy method, in branches of one past, and true frames that a rollout takes in."""

from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from oniris_core.common.errors import UserError
from oniris_core.data.rows.actions import ActionSpec, action_spec
from oniris_core.environment.plan import cross_entropy, dreamt_returns, plan
from oniris_core.environment.spaces import space_of
from oniris_core.sampling.autoregressive import Sampler
from oniris_core.sampling.stepper import Moment, Stepper
from oniris_core.world.outcomes import Outcomes
from oniris_core.world.rollout_state import tensors
from tests.conftest import one_thread
from tests.toys import C, codec, starts, teach, world
from tests.worlds import SPACES

RIGHT = {"discrete": 5, "box": (0.5, -0.25, 0.75), "multi_discrete": (1, 3, 0), "multi_binary": (1, 0, 1)}


@pytest.fixture
def stepper(monkeypatch: pytest.MonkeyPatch) -> Stepper:
    """A model that rewards the action 1, but ends the episode where it was taken twice running."""
    found = Stepper(world(), codec(), Sampler(steps=1))

    def outcomes(_: Stepper, moment: Moment) -> Outcomes:
        # Features are one-hot of 2 choices times its root: of the c actions, each in two columns.
        ones = moment.world.told[:, :, 1 : 2 * C : 2] > 0
        twice = ones[:, -1] & ones[:, -2]
        before = torch.cat([torch.zeros_like(twice[:, :1]), twice[:, :-1]], dim=1)
        rewards = (ones[:, -1] & ~before).float()  # after the end there is nothing
        return Outcomes(rewards, twice.float(), rewards, rewards)

    teach(monkeypatch, outcomes)
    return found


def begun(stepper: Stepper) -> Moment:
    start = starts().starts[0]
    return stepper.begin(start.frames[None, :5], np.zeros((1, 5), np.int64))[0]


@pytest.mark.parametrize("name", SPACES)
def test_the_method_finds_what_is_best(name: str) -> None:
    """The reward falls with the distance to one action; that of a discrete space by choices that are wrong."""
    spec = action_spec(SPACES[name])
    right = np.array(RIGHT[name])

    def returns(actions: np.ndarray) -> np.ndarray:
        flat = actions.reshape(*actions.shape[:2], -1)
        wrong = flat - right if name == "box" else (flat != right).astype(float)
        return -np.square(wrong).sum((1, 2))

    found = cross_entropy(spec, returns, 3, 128, 8)
    assert found in space_of(spec)
    np.testing.assert_allclose(found, right, atol=0.1 if name == "box" else 0)
    assert np.array_equal(found, cross_entropy(spec, returns, 3, 128, 8))


def test_rewards_after_the_end_do_not_count(stepper: Stepper) -> None:
    with one_thread():
        got = dreamt_returns(stepper, begun(stepper).repeat(3), np.array([[1, 0, 1], [1, 1, 1], [0, 0, 1]]), [0] * 3)
    assert got.tolist() == [2 * C, C + 1, C]  # it ends with the first of the four frames


def test_a_plan_looks_beyond_the_next_reward(stepper: Stepper) -> None:
    """1 0 1 brings more than 1 1, which ends it; and after a 1 a 0 is best."""
    with one_thread():
        past = begun(stepper)
        first = plan(stepper, past, 3 * C, 16)
        assert first == 1
        past, _ = stepper.step(past, np.full((1, C), first), [0])
        assert plan(stepper, past, 2 * C, 16) == 0


def test_a_true_frame_is_taken_in_as_a_generated_one(stepper: Stepper) -> None:
    """The state that comes of it is the same to the bit."""
    with one_thread():
        past, actions = begun(stepper), np.array([[0, 1, 1, 0]])
        made, frames = stepper.step(past, actions, [3])
        taken, shown = stepper.take_in(past, made.world.clean[:, -1], actions)
        # With nobody looking all is the same, but that it cannot be looked at later.
        imagined = stepper.imagine(past.unseen(), actions, [3])
        observed = stepper.observe(past, made.world.clean[:, -1], actions)
    assert all(torch.equal(a, b) for a, b in zip(tensors(made.world), tensors(taken.world), strict=True))
    assert np.array_equal(frames, shown)
    for moment in (imagined, observed):
        assert all(torch.equal(a, b) for a, b in zip(tensors(made.world), tensors(moment.world), strict=True))
        with pytest.raises(ValueError, match="`imagine` alone"):
            stepper.step(moment, actions, [3])
    with pytest.raises(ValueError, match="nothing to show frames with"):
        made.replace_rows([0], imagined)
    with pytest.raises(ValueError, match=r"latents \[1, 3, 4\] do not fit \[1, 3, 4, 4\]"):
        stepper.take_in(past, made.world.clean[:, -1, :, 0], actions)


@pytest.mark.parametrize(
    "wrong", [{"horizon": 6}, {"horizon": 0}, {"candidates": 0}, {"rounds": 0}, {"past": "several"}]
)
def test_what_cannot_be_planned_is_told_in_a_line(stepper: Stepper, wrong: dict[str, Any]) -> None:
    past = begun(stepper)
    given = {"past": past, "horizon": 8, "candidates": 2, "rounds": 1, **wrong}
    if wrong.get("past"):
        given["past"] = past.repeat(2)
    with pytest.raises(ValueError, match="planning needs one rollout, a horizon that is a multiple of 4"):
        plan(stepper, **given)


def test_a_model_without_rewards_is_told_which_parameter_to_set() -> None:
    model = Stepper(world(), codec(), Sampler(steps=1))
    with pytest.raises(UserError, match=r"train\.outcome_weight"):
        plan(model, begun(model), 8, 2)


def test_the_example_plays(
    stepper: Stepper, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from examples.planning.__main__ import play
    from oniris_core import TrueVectorEnv

    truth = TrueVectorEnv(
        1, world=world(), vae=codec(), starts=starts(), observations="latents", autoreset_mode="Disabled"
    )
    with one_thread():
        got = play(stepper, truth, 5, 4, 8, 4, 1)
    assert 1 <= got <= 16
    assert "seed 5: return" in capsys.readouterr().out


def test_the_example_refuses_in_a_line() -> None:
    import typer

    from examples.planning.__main__ import main

    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, ["--world", "demo/nowhere"])
    assert result.exit_code == 2
    assert "error: demo/nowhere is missing" in result.output
    assert "Traceback" not in result.output


def test_a_spec_of_a_space_that_starts_elsewhere() -> None:
    spec = ActionSpec("discrete", (2,), start=(3,))
    assert cross_entropy(spec, lambda actions: (actions == 4).sum(1).astype(float), 2, 16, 3) == 4
