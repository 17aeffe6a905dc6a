"""The sampler: second order, right marginals, and rollouts that depend on their own seed only."""

import itertools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from oniris_core import sampling, vae, world
from oniris_core.data.episodes import open_episodes
from oniris_core.data.groups import group_rows
from oniris_core.sampling.autoregressive import Past, Sampler, generate, prefill, settle
from oniris_core.sampling.schedule import sigma_schedule
from oniris_core.sampling.solver import heun
from oniris_core.vae.codec import Codec
from oniris_core.world.context import Cache
from oniris_core.world.denoiser import Denoiser
from tests.conftest import ROOT, one_thread
from tests.test_world import data, make

SAMPLER = Sampler(steps=3, sigma_max=3, sigma_min=0.1, rho=3, churn=0, guidance=1, context_sigma=0.05)


def test_schedule_runs_from_max_to_min_and_then_zero() -> None:
    sigmas = sigma_schedule(5, 80, 0.02, 7)
    assert sigmas[[0, -2, -1]].tolist() == pytest.approx([80, 0.02, 0])
    assert (sigmas.diff() < 0).all()
    assert sigma_schedule(1, 5, 0.1, 3).tolist() == pytest.approx([5, 0])


def gaussian(std: float, mean: float = 0.0):
    """The exact denoiser of N(mean, std^2)."""
    return lambda x, sigma: (x * std**2 + mean * sigma**2) / (std**2 + sigma**2)


def euler(denoise, x: torch.Tensor, sigmas: torch.Tensor, *_) -> torch.Tensor:
    """The first-order solver, to show that the test can tell."""
    for sigma, below in itertools.pairwise(sigmas.tolist()):
        x = x + (below - sigma) * (x - denoise(x, sigma)) / sigma
    return x


@pytest.mark.parametrize(("solver", "order"), [(heun, 2), (euler, 1)])
@pytest.mark.parametrize(("top", "low", "rho"), [(4.0, 1e-3, 3), (5.0, 0.1, 3), (80.0, 0.01, 7)])
def test_heun_is_of_second_order_on_a_gaussian(solver, order: int, top: float, low: float, rho: float) -> None:
    x, std, mean = torch.tensor([3.0], dtype=torch.float64), 0.5, 0.7
    exact = mean + (x - mean) * ((std**2 + low**2) / (std**2 + top**2)) ** 0.5  # the flow keeps (x - mean) / spread
    counts, errors = (32, 64, 128, 256), []
    for steps in counts:
        sigmas = sigma_schedule(steps, top, low, rho)[:-1]
        errors.append(float((solver(gaussian(std, mean), x, sigmas, 0, lambda: x) - exact).abs()))
    # Measured: 2.03 to 2.05, and 1.00 to 1.01 for Euler.
    assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(order, abs=0.15), errors


@pytest.mark.parametrize("churn", [2, 10, 40])
def test_churn_keeps_the_marginal(churn: float) -> None:
    g, std, mean, top = torch.Generator().manual_seed(0), 0.5, 0.7, 4.0
    x = mean + (std**2 + top**2) ** 0.5 * torch.randn(40_000, generator=g, dtype=torch.float64)
    noise = lambda: torch.randn(x.shape, generator=g, dtype=x.dtype)  # noqa: E731
    sigmas = sigma_schedule(64, top, 0.01, 3)
    still, churned = (heun(gaussian(std, mean), x, sigmas, amount, noise) for amount in (0, churn))
    for made in (still, churned):
        assert float(made.mean()) == pytest.approx(mean, abs=0.01)  # four standard errors
        assert float(made.std()) == pytest.approx(std, abs=0.01)
    assert float((still - churned).abs().mean()) > 0.05  # noise was renewed


def test_the_observer_sees_every_level() -> None:
    seen = []
    sigmas = sigma_schedule(4, 2, 0.1, 2)
    heun(
        gaussian(1),
        torch.ones(1),
        sigmas,
        0,
        lambda: torch.ones(1),
        lambda step, sigma, _x, _d: seen.append((step, sigma)),
    )
    assert seen == [(i, float(s)) for i, s in enumerate(sigmas[:-1])]


def dream(batch: slice, sampler: Sampler = SAMPLER, precondition: str = "past", frames: int = 3) -> torch.Tensor:
    denoiser = make(precondition=precondition)
    x, _, actions, has_action = data(B=3, T=6)
    x, actions, has_action = x[batch, 0], actions[batch], has_action[batch]
    past = prefill(
        denoiser, x[:, :2], actions[:, :2], has_action[:, :2], sampler, make(seed=1, precondition=precondition)
    )
    seeds = list(range(100, 103))[batch]
    return torch.stack(list(generate(denoiser, past, actions[:, 2 : 2 + frames].unbind(1), sampler, seeds)), dim=1)


@pytest.mark.parametrize("precondition", ["forecast", "past", "plain"])
def test_rollouts_do_not_depend_on_their_neighbours(precondition: str) -> None:
    with one_thread():
        together = dream(slice(0, 3), precondition=precondition)
        alone = [dream(slice(i, i + 1), precondition=precondition)[0] for i in range(3)]
        again = dream(slice(0, 3), precondition=precondition)
    assert together.shape == (3, 3, 3, 4, 4)
    torch.testing.assert_close(torch.stack(alone), together, atol=1e-4, rtol=0)
    assert torch.equal(together, again)
    assert not torch.allclose(together[0], together[1])


def test_guidance_of_every_kind_is_the_stated_mixture() -> None:
    """One first-order step, so that the result is D itself."""
    denoiser, early = (make(seed=seed, precondition="plain") for seed in (0, 1))  # all start at the same noise
    x, _, actions, has_action = data(B=2, T=3)
    x, made = x[:, 0], {}
    for weights in ((1.0, 1.0, 1.0), (0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0), (1.5, 3.0, 2.0)):
        g, a, e = weights
        sampler = replace(SAMPLER, steps=1, guidance=g, action_guidance=a, autoguidance=e)
        past = prefill(denoiser, x[:, :2], actions[:, :2], has_action[:, :2], sampler, early)
        (made[weights],) = generate(denoiser, past, [actions[:, 2]], sampler, [0, 1])
    full, frame_only, without, earlier = made[1, 1, 1], made[0, 1, 1], made[1, 0, 1], made[1, 1, 0]
    for one, other in itertools.combinations((full, frame_only, without, earlier), 2):
        assert (one - other).abs().max() > 1e-3
    expected = torch.lerp(frame_only, torch.lerp(without, torch.lerp(earlier, full, 2.0), 3.0), 1.5)
    torch.testing.assert_close(made[1.5, 3, 2], expected, atol=1e-5, rtol=0)


def test_autoguidance_has_a_past_of_its_own() -> None:
    """With 0 the rollout is the early model's, also after frames of its own making."""
    x, _, actions, has_action = data(B=1, T=5)
    sampler, early = replace(SAMPLER, autoguidance=0.0), make(seed=1)

    def go(denoiser: Denoiser, sampler: Sampler) -> torch.Tensor:
        past = prefill(denoiser, x[:, 0, :2], actions[:, :2], has_action[:, :2], sampler, early)
        return torch.stack(list(generate(denoiser, past, actions[:, 2:].unbind(1), sampler, [3])))

    torch.testing.assert_close(go(make(), sampler), go(early, SAMPLER), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(go(make(), SAMPLER), go(early, SAMPLER))


def test_at_a_lower_temperature_futures_lie_closer_together_and_at_zero_there_is_one() -> None:
    denoiser, (x, _, actions, has_action) = make(), data(B=1, T=4)
    past = prefill(denoiser, x[:, 0, :2], actions[:, :2], has_action[:, :2], SAMPLER).repeat(6)
    future = [a.expand(6, -1) for a in actions[:, 2:].unbind(1)]

    def spread(temperature: float) -> float:
        frames = list(generate(denoiser, past, future, replace(SAMPLER, temperature=temperature), list(range(6))))
        return float(frames[-1].std(0).mean())

    warm, cool, cold = spread(1.0), spread(0.3), spread(0.0)
    assert warm > 2 * cool
    assert cool > 1e-3
    assert cold < 1e-6


def test_what_hardly_changes_stays_exactly_as_it_was() -> None:
    last = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    x = last + 0.02
    x[1, :, 2, 3] += torch.tensor([0.1, 0.0, 0.0])
    moved = settle(x, last, 0.05) != last
    assert moved.nonzero().tolist() == [[1, c, 2, 3] for c in range(3)]  # a pixel with all its channels
    assert torch.equal(settle(x, last, 0.0), x)


def test_a_rollout_settles_frame_by_frame() -> None:
    denoiser, (x, _, actions, has_action) = make(), data(B=1, T=5)
    past = prefill(denoiser, x[:, 0, :2], actions[:, :2], has_action[:, :2], SAMPLER)
    future = actions[:, 2:].unbind(1)
    still = list(generate(denoiser, past, future, replace(SAMPLER, still_change=1e9), [0]))
    assert all(torch.equal(frame, x[:, 0, 1]) for frame in still)
    free = list(generate(denoiser, past, future, SAMPLER, [0]))
    between = float((free[0] - x[:, 0, 1]).square().mean(1).sqrt().median())
    part = next(generate(denoiser, past, future, replace(SAMPLER, still_change=between), [0]))
    kept = (part == x[:, 0, 1]).all(1)
    assert 0 < int(kept.sum()) < kept.numel()
    assert torch.equal(part[0, :, ~kept[0]], free[0][0, :, ~kept[0]])


def test_guidance_costs_nothing_when_off_and_one_pass_each_when_on() -> None:
    passes = {}
    for g, a, e in ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 2)):
        with patch.object(Denoiser, "forward", autospec=True, side_effect=Denoiser.forward) as forward:
            dream(slice(0, 1), replace(SAMPLER, guidance=g, action_guidance=a, autoguidance=e), frames=1)
        passes[g, a, e] = forward.call_count
    evaluations = 2 * SAMPLER.steps - 1  # Heun's, for one frame; prefill and commit come once per cache
    assert passes == {
        (1, 1, 1): evaluations + 2, (2, 1, 1): 2 * evaluations + 2,
        (1, 2, 1): 2 * evaluations + 4, (1, 1, 2): 2 * evaluations + 4, (2, 2, 2): 4 * evaluations + 6,
    }  # fmt: skip


def test_without_actions_the_whole_past_is_without_them() -> None:
    """With action guidance 0 no action of the context or of the frames to come changes anything."""
    denoiser, (x, _, actions, has_action) = make(), data(B=1, T=5)
    sampler, frames = replace(SAMPLER, action_guidance=0.0), []
    for scale in (1.0, -2.0):
        past = prefill(denoiser, x[:, 0, :3], scale * actions[:, :3], has_action[:, :3], sampler)
        asked = (scale * actions[:, 3:]).unbind(1)
        frames.append(torch.stack(list(generate(denoiser, past, asked, sampler, [0]))))
    assert torch.equal(*frames)


def test_one_past_is_continued_many_times() -> None:
    denoiser, (x, _, actions, has_action) = make(window=2), data(B=1, T=6)
    sampler = replace(SAMPLER, action_guidance=2.0)
    past = prefill(denoiser, x[:, 0, :3], actions[:, :3], has_action[:, :3], sampler)

    def go(past: Past, seeds: list[int]) -> torch.Tensor:
        asked = [actions[:, t].expand(len(seeds), -1) for t in (3, 4, 5)]
        return torch.stack(list(generate(denoiser, past, asked, sampler, seeds)), dim=1)

    first = go(past, [7])
    assert not torch.allclose(first, go(past, [8]))
    assert torch.equal(first, go(past, [7]))  # rollouts did not touch it
    torch.testing.assert_close(go(past.repeat(2), [8, 7])[1:], first, atol=1e-4, rtol=1e-4)  # values reach 50


def test_a_rollout_is_endless_and_its_cache_is_not() -> None:
    denoiser = make(window=3)
    x, _, actions, has_action = data(B=1, T=2)
    past = prefill(denoiser, x[:, 0], actions, has_action, SAMPLER)
    places = []
    forward = denoiser.forward

    def watched(*args):
        y, cache = forward(*args)
        places.append([
            (part.data_ptr(), part.numel())
            for block in cache.blocks if block.attention for part in (block.attention.keys, block.attention.values)
        ])  # fmt: skip
        return y, cache

    denoiser.forward = watched
    for frame in itertools.islice(generate(denoiser, past, itertools.repeat(actions[:, 0]), SAMPLER, [0]), 20):
        assert torch.isfinite(frame).all()
    assert places[0]
    assert all(place == places[0] for place in places)  # the same memory from the first frame to the last


def test_what_a_rollout_refuses() -> None:
    denoiser, (x, _, actions, has_action) = make(), data(B=2, T=2)
    past = prefill(denoiser, x[:, 0], actions, has_action, SAMPLER)
    with pytest.raises(ValueError, match="at least one frame of context"):
        next(generate(denoiser, Past(Cache()), [actions[:, 0]], SAMPLER, [0, 1]))
    with pytest.raises(ValueError, match="3 seeds for 2 rollouts"):
        next(generate(denoiser, past, [actions[:, 0]], SAMPLER, [0, 1, 2]))
    with pytest.raises(ValueError, match="prefill with the same sampler"):
        next(generate(denoiser, past, [actions[:, 0]], replace(SAMPLER, action_guidance=2.0), [0, 1]))
    guided = replace(SAMPLER, autoguidance=2.0)
    with pytest.raises(ValueError, match="autoguidance needs a past of the early model"):
        next(generate(denoiser, past, [actions[:, 0]], guided, [0, 1]))
    with pytest.raises(ValueError, match="autoguidance needs the model of early training"):
        prefill(denoiser, x[:, 0], actions, has_action, guided)
    with pytest.raises(ValueError, match=r"actions of shape \[2, 1, 4\]"):
        next(generate(denoiser, past, [actions[:, 0, :4]], SAMPLER, [0, 1]))
    with pytest.raises(ValueError, match=r"latents must be finite: latents of shape \[2, 1, 2, 3, 4, 4\]"):
        prefill(denoiser, x[:, 0] * float("nan"), actions, has_action, SAMPLER)
    for wrong in ({"sigma_min": 0.0}, {"context_sigma": 0.0}, {"sigma_max": 0.01}, {"steps": 0}):
        with pytest.raises(ValueError, match="a sampler needs"):
            replace(SAMPLER, **wrong)


@pytest.fixture(scope="module")
def played(tiny_pipeline: Path):
    """The tiny model, its VAE, and 17 frames of an episode with their actions, for a batch of one."""
    store = open_episodes(tiny_pipeline / "data/episodes.zarr")
    start, end = next(bounds for e in range(8) if (bounds := store.bounds(e))[1] - bounds[0] >= 17)
    model, codec = world.load(tiny_pipeline / "models/world"), vae.load(tiny_pipeline / "models/vae")
    with torch.no_grad():  # six steps have taught it nothing; make it listen to actions, without its noise growing
        model.denoiser.unet.head_gain.fill_(0.1)
        for block in [*model.denoiser.unet.encoder, *model.denoiser.unet.decoder]:
            block.embedding_gain.fill_(1)
    return model, codec, store.frames[start:end][None, :17], store.actions[start:end][:17, None]


def test_frames_to_frames_is_the_rollout_of_latents(played, tiny_pipeline: Path) -> None:
    model, codec, frames, actions = played
    how = sampling.sampler(tiny_pipeline / "params.yaml")
    made = list(sampling.rollout(model, frames[:, :9], iter(actions), codec, how, seed=3))
    assert [part.shape for part in made] == [(1, 4, 32, 32, 3)] * 2
    assert made[0].dtype == np.uint8

    rows = group_rows(0, 5, 4)
    mean, std = (torch.from_numpy(part)[:, None, None] for part in (model.mean, model.std))
    z = (codec.vae.encode(torch.from_numpy(frames[:, rows]))[0] - mean) / std
    features = torch.from_numpy(model.action_spec.encode(actions[rows, 0])).reshape(1, 5, -1)
    there = torch.arange(5)[None] > 0
    past = prefill(model.denoiser, z[:, :3], features[:, :3], there[:, :3], how, model.early)
    new = list(generate(model.denoiser, past, features[:, 3:].unbind(1), how, [3 * 2**32]))
    whole = codec.vae.decode(torch.cat([z[:, :3], torch.stack(new, dim=1)], dim=1) * std + mean)[0]
    difference = np.concatenate(made, axis=1).astype(int) - whole[:, 12:].numpy()
    assert np.abs(difference).max() <= 1  # grey levels


def test_a_video_rollout_asks_for_actions_when_it_needs_them(played) -> None:
    model, codec, frames, actions = played
    asked = []

    def play() -> Iterator[np.ndarray]:
        for action in itertools.chain(actions[:9], itertools.cycle(actions[9:])):
            asked.append(action)
            yield action

    video = sampling.rollout(model, frames[:, :9], play(), codec, replace(SAMPLER, steps=1))
    for count in range(4):
        assert len(asked) == 9 + 4 * count
        next(video)


def test_what_a_video_rollout_refuses(played) -> None:
    model, codec, frames, actions = played

    def go(frames: np.ndarray, actions: object, codec: Codec = codec, count: int = 1) -> None:
        list(itertools.islice(sampling.rollout(model, frames, actions, codec, SAMPLER), count))

    with pytest.raises(ValueError, match="the model belongs to VAE"):
        go(frames[:, :9], actions, replace(codec, identity="another"))
    with pytest.raises(
        ValueError, match=r"context of shape \[1, 8, 32, 32, 3\] does not fit \[B, 1 \+ k \* 4, H, W, 3\]"
    ):
        go(frames[:, :8], actions)
    with pytest.raises(ValueError, match=r"make latents \[1, 3, 4, 2, 4\], the model knows \[B, T, 4, 4, 4\]"):
        go(frames[:, :9, :16], actions)
    with pytest.raises(ValueError, match=r"context of shape \[1, 9, 32, 32, 3\] needs 9 actions, there are 5"):
        go(frames[:, :9], actions[:5])
    with pytest.raises(ValueError, match=r"actions of shape \[1, 2\] do not fit \[1\]"):
        go(frames[:, :9], np.zeros((17, 1, 2), np.int64))
    with pytest.raises(ValueError, match="must be whole numbers"):
        go(frames[:, :9], actions.astype(np.float32))
    with pytest.raises(ValueError, match=r"actions outside 0\.\.\[3\]"):
        go(frames[:, :9], [*actions[:12], np.array([4])])


def test_the_lines_of_the_readme(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (ROOT / "README.md").read_text()
    section = readme.partition("In a notebook")[2].partition("\n## ")[0]
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ") or not line]
    monkeypatch.chdir(tiny_pipeline)
    found = dict[str, object]()
    exec("\n".join(lines), found)
    assert found["video"].shape == (1, 8, 32, 32, 3)
    assert found["video"].dtype == np.uint8
    assert found["again"].shape == found["played"].frames[1:17].shape == (16, 32, 32, 3)
    assert found["latents"].shape == (4, 4, 4, 4)


@pytest.mark.parametrize("package", ["sampling", "vae", "world"])
def test_the_public_packages_import_nothing(package: str) -> None:
    code = f"import sys, oniris_core.{package}; print([m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
