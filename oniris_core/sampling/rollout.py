"""Autoregressive rollouts: one latent frame after another, each denoised against a cache of all before it.

Axes: B rollouts side by side, T latent frames, C channels, H, W; A features of an action.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from oniris_core.common.seeds import torch_generator
from oniris_core.sampling.schedule import sigma_schedule
from oniris_core.sampling.solver import heun
from oniris_core.world.context import Cache, FrameOnly, Step
from oniris_core.world.denoiser import Denoiser


@dataclass(frozen=True)
class Sampler:
    """How a frame is generated; see `oniris_core.config.render.RenderParams` for the meanings."""

    steps: int
    sigma_max: float
    sigma_min: float
    rho: float
    churn: float
    guidance: float
    context_sigma: float


@torch.no_grad()
def prefill(
    denoiser: Denoiser, context_BTCHW: Tensor, actions_BTA: Tensor, has_action_BT: Tensor, sigma: float
) -> Cache:
    """The cache after true standardised latent frames, declared to have noise level `sigma`."""
    x = context_BTCHW[:, None]
    sigmas = torch.full(x.shape[:3], sigma, device=x.device)
    _, cache = denoiser(x, sigmas, actions_BTA, has_action_BT, Step())
    return cache


@torch.no_grad()
def rollout(
    denoiser: Denoiser, cache: Cache, actions: Iterable[Tensor], sampler: Sampler, seeds: list[int]
) -> Iterator[Tensor]:
    """Generate latent frames, one for each entry of `actions`, for as long as there are any, in constant memory.

    Args:
        denoiser: the model.
        cache: the past, from `prefill`; its position must be above 0.
        actions: [B, A] each: the features of the actions that lead to the next latent frame.
        sampler: how to generate.
        seeds: one per rollout; a rollout's noise depends on its own seed only, not on its neighbours in the batch.

    Yields:
        [B, C, H, W]: standardised latent frames.
    """
    if cache.last is None:
        raise ValueError("a rollout needs at least one frame of context")
    sigmas = sigma_schedule(sampler.steps, sampler.sigma_max, sampler.sigma_min, sampler.rho)
    shape, device = cache.last.shape, cache.last.device
    for actions_BA in actions:
        actions_BTA = actions_BA[:, None]
        has_action = torch.ones(actions_BTA.shape[:2], dtype=torch.bool, device=device)
        generators = [torch_generator(seed, "rollout", cache.position) for seed in seeds]

        def noise() -> Tensor:
            return torch.stack([torch.randn(shape[1:], generator=g) for g in generators]).to(device)  # noqa: B023

        def denoise(x: Tensor, sigma: float) -> Tensor:
            x_BSTCHW = x[:, None, None]
            level = torch.full(x_BSTCHW.shape[:3], sigma, device=device)
            full = denoiser(x_BSTCHW, level, actions_BTA, has_action, Step(cache))[0]  # noqa: B023
            if sampler.guidance != 1:
                weak = denoiser(x_BSTCHW, level, actions_BTA, has_action, FrameOnly())[0]  # noqa: B023
                full = torch.lerp(weak, full, sampler.guidance)
            return full[:, 0, 0]

        # The flow starts around the last frame when the model predicts the change from it: sigma_max is small then.
        center = cache.last if denoiser.config.precondition == "past" else torch.zeros_like(cache.last)
        x = heun(denoise, center + sampler.sigma_max * noise(), sigmas, sampler.churn, noise)
        level = torch.full((len(x), 1, 1), sampler.context_sigma, device=device)
        _, cache = denoiser(x[:, None, None], level, actions_BTA, has_action, Step(cache))
        yield x
