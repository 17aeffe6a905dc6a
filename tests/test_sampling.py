"""The sampler: second order, right marginals, and rollouts that depend on their own seed only."""

import itertools

import numpy as np
import pytest
import torch

from oniris_core.sampling.rollout import Sampler, prefill, rollout
from oniris_core.sampling.schedule import sigma_schedule
from oniris_core.sampling.solver import heun
from oniris_core.world.context import Cache
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
    cache = prefill(denoiser, x[:, :2], actions[:, :2], has_action[:, :2], 0.05)
    seeds = list(range(100, 103))[batch]
    return torch.stack(list(rollout(denoiser, cache, actions[:, 2 : 2 + frames].unbind(1), sampler, seeds)), dim=1)


@pytest.mark.parametrize("precondition", ["past", "plain"])
def test_rollouts_do_not_depend_on_their_neighbours(precondition: str) -> None:
    together = dream(slice(0, 3), precondition=precondition)
    assert together.shape == (3, 3, 3, 4, 4)
    for i in range(3):
        torch.testing.assert_close(dream(slice(i, i + 1), precondition=precondition)[0], together[i], atol=1e-4, rtol=0)
    assert torch.equal(together, dream(slice(0, 3), precondition=precondition))
    assert not torch.allclose(together[0], together[1])


def test_guidance_one_is_the_full_model_and_others_differ() -> None:
    full = dream(slice(0, 1))
    assert torch.isfinite(full).all()
    for guidance in (0.0, 1.5):
        assert not torch.allclose(
            full, dream(slice(0, 1), Sampler(**{**SAMPLER.__dict__, "guidance": guidance})), atol=1e-3
        )


def test_a_rollout_is_endless_and_its_cache_is_not() -> None:
    denoiser = make(window=3)
    x, _, actions, has_action = data(B=1, T=2)
    cache = prefill(denoiser, x[:, 0], actions, has_action, 0.05)
    sizes = []
    forward = denoiser.forward

    def watched(*args):
        y, cache = forward(*args)
        sizes.append(
            sum(b.attention.keys.numel() + b.conv.frames.numel() for b in cache.blocks if b.attention and b.conv)
        )
        return y, cache

    denoiser.forward = watched
    for frame in itertools.islice(rollout(denoiser, cache, itertools.repeat(actions[:, 0]), SAMPLER, [0]), 20):
        assert torch.isfinite(frame).all()
    assert len(set(sizes[-60:])) == 1


def test_a_rollout_needs_context() -> None:
    with pytest.raises(ValueError, match="at least one frame of context"):
        next(rollout(make(), Cache(), [torch.zeros(1, 5)], SAMPLER, [0]))
