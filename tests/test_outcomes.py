"""Rewards and ends: the law holds for them, they see no future, they disturb nothing else, and they are measured right."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oniris_core.common.errors import UserError
from oniris_core.data.episodes.groups import group_outcomes
from oniris_core.evaluation.measures.outcomes import Told, _ends, _returns, calibration_error, truth
from oniris_core.evaluation.scores.intervals import Bootstrap
from oniris_core.training.fit.optimiser.muon import Muon
from oniris_core.training.world.trainer import WorldBatch, WorldObjective, _groups, outcome_config
from oniris_core.world.denoiser import Denoiser, DenoiserConfig, Frames, told_of
from oniris_core.world.generation_form import GenerationForm
from oniris_core.world.outcomes import OutcomeConfig, Outcomes
from oniris_core.world.store import FORMAT, load_world
from tests.test_world import data, doubled, entered, make, relative

EARNS = OutcomeConfig(3, 0.5, 20.0)


def with_heads(seed=0, seen=(1, 2, 4), window=4):
    denoiser = make(seed, window, (1,), video=(True,), frame=(False,), seen=seen, outcomes=EARNS)
    with torch.no_grad():
        denoiser.outcomes.head_gain.fill_(0.3)
    return denoiser


def whole(denoiser, clean) -> Outcomes:
    return denoiser.outcomes.outcomes(denoiser.find_outcomes(clean, clean.x.shape[1]))


def dense(denoiser, clean) -> Outcomes:
    """The reference: each frame by itself, what it reads written out; before the first frame stand copies of it."""
    heads, told = denoiser.outcomes, told_of(clean.actions, clean.has_action)
    nothing = told_of(torch.zeros_like(clean.actions[:, 0]), torch.zeros_like(clean.has_action[:, 0]))
    found = []
    for t in range(clean.x.shape[1]):
        frames = [heads.read(clean.x[:, max(t + 1 - age, 0)]) for age in heads.ages]
        actions = [told[:, t - ago] if ago <= t else nothing for ago in range(heads.actions)]
        sigma = clean.sigma[:, t : t + 1]
        found.append(heads.tell(torch.stack(frames, 1)[:, None], torch.stack(actions, 1)[:, None], sigma))
    return heads.outcomes(torch.cat(found, dim=1))


def stepwise(denoiser, clean) -> Outcomes:
    form = GenerationForm(denoiser)
    told = [form.outcomes(entered(form, clean, upto=t + 1)) for t in range(clean.x.shape[1])]
    return Outcomes(*(torch.stack(part, dim=1) for part in zip(*told, strict=True)))


@torch.no_grad()
@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 99),
    older=st.sets(st.integers(2, 6), min_size=1),
    T=st.integers(1, 7),
    B=st.integers(1, 2),
)
def test_whole_clips_frame_by_frame_and_the_reference_agree(seed, older, T, B):
    denoiser, batch = with_heads(seed, (1, *sorted(older))), data(B, T, seed)
    for close in (1e-5, 1e-9):
        expected = dense(denoiser, batch[0])
        for form in (whole, stepwise):
            for found, wanted in zip(form(denoiser, batch[0]), expected, strict=True):
                assert found.shape == (B, T, 3)
                assert relative(found, wanted) < close
        denoiser, batch = doubled(denoiser, batch)


def test_frames_and_actions_up_to_its_own_are_read_and_no_later_ones():
    denoiser, T = with_heads(seen=(1, 2, 4)), 6
    clean, _, _ = data(B=1, T=T)
    clean.x.requires_grad_()
    clean.actions.requires_grad_()
    found = denoiser.find_outcomes(clean, T)
    for i in range(T):
        gradients = torch.autograd.grad(found[0, i].square().sum(), [clean.x, clean.actions], retain_graph=True)
        frames, actions = (g[0].flatten(1).abs().amax(1) > 0 for g in gradients)
        assert frames.tolist() == [j in {max(i, 0), max(i - 1, 0), max(i - 3, 0)} for j in range(T)]
        assert actions.tolist() == [max(i - 2, 0) < j <= i for j in range(T)]  # ages[-1] - 2 of them; frame 0 has none


def test_a_frame_that_was_drawn_is_read_in_place_of_its_own_and_is_nobodys_past():
    denoiser, T = with_heads(seen=(1, 2, 4)), 6
    clean, noise, _ = data(B=2, T=T)
    drawn = denoiser.expect(clean, T).drawn(noise)
    assert not drawn.requires_grad
    found = denoiser.find_outcomes(clean, T)
    assert torch.allclose(denoiser.find_outcomes(clean, T, clean.x), found, atol=1e-6)
    seen = denoiser.find_outcomes(clean, T, drawn)
    assert not torch.allclose(seen, found, atol=1e-3)
    for i in range(
        T
    ):  # one frame after the other as a rollout has it: true ones, and at the end the one that was drawn
        clip = Frames(torch.cat([clean.x[:, :i], drawn[:, i : i + 1]], dim=1), *(part[:, : i + 1] for part in (
            clean.sigma, clean.actions, clean.has_action
        )))  # fmt: skip
        if i:
            assert torch.allclose(denoiser.find_outcomes(clip, 1)[:, 0], seen[:, i], atol=1e-5)


def a_batch(seed: int, forecast_only: bool) -> WorldBatch:
    clean, noise, sigma = data(B=2, T=6, seed=seed)
    g = torch.Generator().manual_seed(seed)
    return WorldBatch(
        clean.x, clean.actions, clean.has_action, sigma, noise, clean.sigma[:, 0], noise.flip(0), forecast_only,
        20 * torch.randn(2, 6, 3, generator=g), torch.rand(2, 6, 3, generator=g) < 0.3,
    )  # fmt: skip


def test_the_rest_trains_to_the_bit_as_without_heads_and_the_heads_learn_in_every_step():
    def trained(outcomes):
        denoiser = make(mult=(1,), video=(True,), frame=(False,), outcomes=outcomes)
        objective, optimizer, losses = WorldObjective(denoiser, torch.ones_like), Muon(_groups(denoiser), lr=0.02), []
        for step in range(6):
            optimizer.zero_grad()
            found = objective(a_batch(step % 2, step % 3 > 0))
            found.loss.backward()
            assert outcomes is None or all(p.grad is not None for p in denoiser.outcomes.parameters())
            optimizer.step()
            losses.append(float(found.logs.get("outcomes", 0)))
        return denoiser.state_dict(), losses

    (plain, _), (beside, losses) = trained(None), trained(EARNS)
    assert all(torch.equal(value, beside[name]) for name, value in plain.items())
    assert set(beside) - set(plain) == {name for name in beside if name.startswith("outcomes.")} != set()
    assert losses[-1] < losses[0]


def test_rewards_and_ends_of_an_easy_world_are_learned():
    """A frame's brightness is its reward, the sum of its action its end."""
    denoiser = make(mult=(1,), video=(False,), frame=(False,), outcomes=OutcomeConfig(3, 0.0, 10.0))
    heads = denoiser.outcomes
    with torch.no_grad():
        heads.head_gain.zero_()
    optimizer = Muon(heads.parameters(), lr=0.03)

    def clip(seed):
        clean, _, _ = data(B=16, T=4, seed=seed)
        x = clean.x + 2 * torch.randn(16, 4, 1, 1, 1, generator=torch.Generator().manual_seed(seed))
        rewards = 5 * x.mean((2, 3, 4))[..., None] * torch.tensor([0.0, 1.0, 2.0])
        ended = (clean.actions.sum(-1) > 0)[..., None].expand(-1, -1, 3) & clean.has_action[..., None]
        return Frames(x, clean.sigma, clean.actions, clean.has_action), rewards, ended

    for step in range(300):
        clean, rewards, ended = clip(step)
        optimizer.zero_grad()
        heads.loss(denoiser.find_outcomes(clean, 4), rewards, ended).mean().backward()
        optimizer.step()
    clean, rewards, ended = clip(1000)
    with torch.no_grad():
        told = whole(denoiser, clean)
    assert np.corrcoef(told.rewards.flatten(), rewards.flatten())[0, 1] > 0.9
    assert float(((told.ends > 0.5) == ended).float().mean()) > 0.8


def test_what_an_end_brings_is_learned_where_one_came_and_what_goes_on_elsewhere():
    heads, g = with_heads().outcomes, torch.Generator().manual_seed(0)
    found = torch.randn(4, 6, 3, 3, generator=g).requires_grad_()
    ended = torch.rand(4, 6, 3, generator=g).cumsum(-1) > 1
    heads.loss(found, torch.randn(4, 6, 3, generator=g), ended).sum().backward()
    within = ended[..., -1]
    assert 0 < int(within.sum()) < within.numel()
    learns = found.grad.abs().sum(-1) > 0
    assert torch.equal(learns[..., 0], ~within)
    assert torch.equal(learns[..., 1], within)
    assert bool(learns[..., 2].all())
    told = heads.outcomes(found.detach())
    share = told.ends[..., -1:]
    assert torch.allclose(told.rewards, (1 - share) * told.lasting + share * told.ending, atol=1e-4)


def test_groups_stand_still_without_rewards_after_an_end():
    rewards = np.array([9, 1, 2, 3, 4, 5], np.float32)  # that of the reset is no reward
    won, ended = group_outcomes(rewards, True, 4, 3)
    assert won.tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 0], [0, 0, 0]]
    assert ended.tolist() == [[False] * 3, [False] * 3, [False, True, True], [True] * 3]
    won, ended = group_outcomes(rewards, False, 2, 3)
    assert won.tolist() == [[0, 0, 0], [1, 2, 3]]
    assert not ended.any()


def test_returns_are_counted_up_to_the_end():
    told = Told(np.array([[1.0, 2, 4, 8]]), np.array([[0.1, 0.6, 0.2, 0.9]]))
    assert [float(told.returns(h)[0]) for h in (1, 2, 4)] == [1, 3, 3]
    assert told.first_end().tolist() == [1]
    assert Told(told.rewards, 0 * told.ends).first_end().tolist() == [4]


def test_calibration_is_told_from_confidence():
    rng = np.random.default_rng(0)
    chance = rng.random((40, 1, 50))
    came, known = rng.random((40, 50)) < chance[:, 0], np.ones((40, 50), bool)
    honest = calibration_error(chance, came, known, Bootstrap(40, 50, 0))
    sure = calibration_error((chance > 0.5).astype(float), came, known, Bootstrap(40, 50, 0))
    assert honest.value < 0.05 < 0.15 < sure.value


def test_the_pipeline_tells_rewards_and_ends(tiny_pipeline):
    from oniris_core.data.latents.store import open_latents
    from oniris_core.sampling.autoregressive import Sampler
    from oniris_core.sampling.stepper import Stepper
    from oniris_core.vae import load as load_vae

    store, world = open_latents(tiny_pipeline / "data/latents.zarr"), load_world(tiny_pipeline / "models/world")
    assert world.has_outcomes
    assert json.loads((tiny_pipeline / "models/world/config.json").read_text())["format"] == FORMAT
    c = store.actions.shape[1]
    stepper = Stepper(world, load_vae(tiny_pipeline / "models/vae"), Sampler(2, 5.0, 0.1, 3.0, 0.07))
    features = torch.zeros(2, 3, world.form.config.action_features)
    moment, _ = stepper.begin_latents(torch.from_numpy(np.stack([store.standardised(0, 3)] * 2)), features)
    after, _ = stepper.step_features(moment, features[:, 0], [0, 1])
    for told in (stepper.outcomes(moment), stepper.outcomes(after)):
        assert told.rewards.shape == told.ends.shape == (2, c)
        assert told.rewards.dtype == told.ends.dtype == torch.float32
        assert ((told.ends > 0) & (told.ends < 1)).all()
    metrics = json.loads((tiny_pipeline / "reports/render/metrics.json").read_text())
    for name in (
        "vae/return_error@4",
        "rollout/return_error@4",
        "floor/return_error@4",
        "floor/end_calibration_error",
        "mean_reward/return_error@4",
        "rollout/end_calibration_error",
    ):
        assert name in metrics


def test_worlds_of_format_2_are_read_as_without_heads():
    from tests.project import ROOT

    world = load_world(ROOT / "demo/world")
    assert not world.has_outcomes
    assert world.form.outcomes(world.form.begin(torch.zeros(1, *world.form.latent_shape), torch.ones(1))) is None
    assert DenoiserConfig.from_json(world.denoiser.config.to_json()) == world.denoiser.config
    config = make(outcomes=EARNS).config
    assert DenoiserConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_without_rewards_there_are_no_heads():
    class Store:
        episode_ends, split = np.array([2, 3]), np.array([0, 1], np.uint8)
        rewards = np.array([[0, 0], [0, 0], [1, 1]], np.float32)  # the held-out episode's are no use

    class Params:
        outcome_weight = 1.0

    assert outcome_config(Params, Store) is None
    Store.rewards = np.array([[0, 0], [3, 1], [9, 9]], np.float32)
    assert outcome_config(Params, Store) == OutcomeConfig(2, 1.0, float(np.std([0, 0, 3, 1])))
    Params.outcome_weight = 0.0
    assert outcome_config(Params, Store) is None


def test_a_latent_store_without_rewards_is_refused(tmp_path):
    import zarr

    from oniris_core.data.latents.store import open_latents, write_latents

    zeros = np.zeros((2, 3))
    spec = {"kind": "discrete", "sizes": [2], "low": [], "high": [], "start": [0]}
    episode = np.ones((2, 1, 1, 1), np.float16), zeros.astype(int), zeros, zeros
    ends, split = np.array([2]), np.zeros(1, np.uint8)
    write_latents(tmp_path / "new", [episode], ends, ends, split, {"action_spec": spec, "vae_identity": "x"})
    assert open_latents(tmp_path / "new").rewards.tolist() == zeros.tolist()

    import oniris_core.data.latents.store as module

    before, module.FORMAT = module.FORMAT, 1
    try:
        write_latents(tmp_path / "old", [episode], ends, ends, split, {"action_spec": spec, "vae_identity": "x"})
    finally:
        module.FORMAT = before
    assert zarr.open_group(str(tmp_path / "old"), mode="r").attrs["format"] == 1
    with pytest.raises(UserError, match=r"format 1, .* reads format 2: make it again with `dvc repro encode`"):
        open_latents(tmp_path / "old")


def test_the_weights_begin_as_without_heads():
    plain, beside = make(), make(outcomes=EARNS)
    plain, beside = (torch.manual_seed(1) and Denoiser(model.config).state_dict() for model in (plain, beside))
    assert all(torch.equal(value, beside[name]) for name, value in plain.items())


class Chosen:
    """Two episodes of which the context is row 0 and a group of 2: one ends at row 5, one is cut off there."""

    episodes, context, c = np.array([0, 1]), 4, 2
    rows = np.maximum(np.arange(12) - 1, 0)


class Played:
    rewards = np.array([0, 1, 2, 3, 4, 5] * 2, np.float32)
    terminated = np.array([True, False])

    def bounds(self, episode):
        return 6 * episode, 6 * episode + 6


def test_what_came_is_known_up_to_a_limit_of_time_and_for_ever_after_an_end():
    came, known = truth(Chosen, Played())
    assert came.rewards.tolist() == [[3, 4, 5, 0, 0, 0, 0, 0]] * 2
    assert came.first_end().tolist() == [2, 8]
    assert known.sum(1).tolist() == [8, 3]


def test_what_is_foretold_right_is_measured_as_right_and_what_is_wrong_as_wrong():
    rng, bootstrap = np.random.default_rng(0), Bootstrap(30, 50, 0)
    ends = np.arange(8) >= rng.integers(2, 12, (30, 1))
    came, known = Told(rng.normal(size=(30, 8)), ends), np.ones((30, 8), bool)
    late = Told(came.rewards[:, None], (np.roll(ends, 3, axis=1)[:, None] & (np.arange(8) >= 3)) * 1.0)

    def measured(told):
        metrics = {}
        _returns(metrics, "it", 4, told.returns(4), came.returns(4)[:, None], known[:, 3], bootstrap)
        _ends(metrics, "it", told, came, known, bootstrap)
        return metrics

    right = measured(Told(came.rewards[:, None], ends[:, None].astype(float)))
    assert right["it/return_error@4"] == right["it/end_calibration_error"] == 0
    assert right["it/return_correlation@4"] == right["it/end_precision"] == right["it/end_recall"] == 1
    wrong = measured(late)
    assert wrong["it/return_error@4"] > 0.1
    assert wrong["it/end_recall"] == 0
    assert wrong["it/end_calibration_error"] > 0.1
