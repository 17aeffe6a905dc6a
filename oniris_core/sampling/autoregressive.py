"""Autoregressive generation: one latent frame after another, each denoised against a cache of those before it.

Axes: B rollouts side by side, T latent frames, C channels, H, W; A features of an action.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from oniris_core.common.seeds import torch_generator
from oniris_core.config.render import RenderParams
from oniris_core.sampling.schedule import sigma_schedule
from oniris_core.sampling.solver import heun
from oniris_core.world.context import Cache, Context, FrameOnly, Step
from oniris_core.world.denoiser import Denoiser


@dataclass(frozen=True)
class Sampler:
    """How a frame is generated; see `oniris_core.config.render.RenderParams` for the meanings.

    Guidance, one after the other: away from the model as it was early in its training (autoguidance, arXiv 2406.02507),
    then from the model that does not know the actions, then from the one that does not know the past:
    lerp(D_frame_only, lerp(D_without_actions, lerp(D_early, D, autoguidance), action_guidance), guidance). A 1 costs nothing.

    Raises:
        ValueError: no steps, or a noise level that is not above 0 or out of order.
    """

    steps: int
    sigma_max: float
    sigma_min: float
    rho: float
    churn: float
    guidance: float
    context_sigma: float
    action_guidance: float = 1.0
    autoguidance: float = 1.0
    temperature: float = 1.0
    still_change: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.sigma_min <= self.sigma_max or not self.context_sigma > 0:
            raise ValueError(
                f"a sampler needs a step and 0 < sigma_min <= sigma_max and context_sigma above 0, not {self}"
            )

    @staticmethod
    def of(params: RenderParams) -> "Sampler":
        """The sampler that the parameters describe."""
        return Sampler(
            params.solver_steps, params.sigma_max, params.sigma_min, params.rho, params.churn, params.guidance,
            params.context_sigma, params.action_guidance, params.autoguidance, params.temperature,
            params.still_change,
        )  # fmt: skip


@dataclass(frozen=True)
class Past:
    """What generation goes on from.

    Attributes:
        cache: of the frames and their actions.
        without_actions: of the same frames with all actions withheld, as in training; None unless guidance needs it.
        early: of the same frames and actions by the model of early training; None unless guidance needs it.
    """

    cache: Cache
    without_actions: Cache | None = None
    early: Cache | None = None

    def repeat(self, k: int) -> "Past":
        """A copy in which each context stands k times; see `Cache.repeat`."""
        without, early = (past and past.repeat(k) for past in (self.without_actions, self.early))
        return Past(self.cache.repeat(k), without, early)


@torch.no_grad()
def prefill(
    denoiser: Denoiser,
    context_BTCHW: Tensor,
    actions_BTA: Tensor,
    has_action_BT: Tensor,
    sampler: Sampler,
    early: Denoiser | None = None,
) -> Past:
    """The past after true standardised latent frames, any number of them; of more than the window the last count.

    Args:
        denoiser: the model.
        context_BTCHW: the frames, declared to have noise level `sampler.context_sigma`.
        actions_BTA, has_action_BT: see `Denoiser.forward`.
        sampler: how frames will be generated; what it needs of the past is computed.
        early: the model as it was early in its training, for autoguidance.

    Raises:
        ValueError: shapes do not fit the model, latents are not finite, or the sampler needs `early`.
    """
    if sampler.autoguidance != 1 and early is None:
        raise ValueError(
            "autoguidance needs the model of early training: World.early, of the snapshots a training kept"
        )
    x = context_BTCHW[:, None]
    sigma = torch.full(x.shape[:3], sampler.context_sigma, device=x.device)
    _, cache = denoiser(x, sigma, actions_BTA, has_action_BT, Step())
    without, earlier = None, None
    if sampler.action_guidance != 1:
        _, without = denoiser(x, sigma, actions_BTA, torch.zeros_like(has_action_BT), Step())
    if sampler.autoguidance != 1 and early is not None:
        _, earlier = early(x, sigma, actions_BTA, has_action_BT, Step())
    return Past(cache, without, earlier)


@torch.no_grad()
def generate(
    denoiser: Denoiser, past: Past, actions: Iterable[Tensor], sampler: Sampler, seeds: list[int]
) -> Iterator[Tensor]:
    """Generate latent frames, one for each entry of `actions`, for as long as there are any, in constant memory.

    Args:
        denoiser: the model.
        past: from `prefill`, of at least one frame; it is copied, so that it can be continued again.
        actions: [B, A] each: the features of the actions that lead to the next latent frame.
        sampler: how to generate.
        seeds: one per rollout; a rollout's noise depends on its own seed only, not on its neighbours in the batch.

    Yields:
        [B, C, H, W]: standardised latent frames.

    Raises:
        ValueError: no context, another number of seeds or actions than of rollouts, or a past without what the sampler needs.
    """
    last = past.cache.clean
    if last is None:
        raise ValueError("a rollout needs at least one frame of context")
    if len(seeds) != len(last):
        raise ValueError(f"{len(seeds)} seeds for {len(last)} rollouts")
    if sampler.action_guidance != 1 and past.without_actions is None:
        raise ValueError("action guidance needs a past without actions: prefill with the same sampler")
    if sampler.autoguidance != 1 and past.early is None:
        raise ValueError("autoguidance needs a past of the early model: prefill with the same sampler")
    past = past.repeat(1)
    shape, device = (len(last), *last.shape[2:]), last.device
    full = _Model(denoiser, past.cache)
    early = _Model(denoiser, past.early) if past.early and sampler.autoguidance != 1 else None
    unasked = None
    if past.without_actions and sampler.action_guidance != 1:
        unasked = _Model(denoiser, past.without_actions, told=False)
    pastless = _Model(denoiser, None) if sampler.guidance != 1 else None
    models = [model for model in (full, early, unasked, pastless) if model is not None]
    sigmas = sigma_schedule(sampler.steps, sampler.sigma_max, sampler.sigma_min, sampler.rho)

    def guided(of: Callable[[_Model], Tensor]) -> Tensor:
        value = of(full)
        for other, weight in (
            (early, sampler.autoguidance), (unasked, sampler.action_guidance), (pastless, sampler.guidance)
        ):  # fmt: skip
            if other is not None:
                value = torch.lerp(of(other), value, weight)
        return value

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return guided(lambda model: model.denoise(x, sigma))

    for actions_BA in actions:
        assert full.cache is not None
        generators = [torch_generator(seed, "rollout", full.cache.position) for seed in seeds]

        def noise() -> Tensor:
            return torch.stack([torch.randn(shape[1:], generator=g) for g in generators]).to(device)  # noqa: B023

        for model in models:
            model.begin(actions_BA, shape)
        # The flow starts around what is expected: sigma_max is small where that is much. At a temperature below 1 it starts,
        # and so ends, nearer to it: what the network does not know is then no longer shown as if it were chance.
        start = guided(lambda model: model.center) + sampler.temperature * sampler.sigma_max * noise()
        x = heun(denoise, start, sigmas, sampler.churn, noise)
        assert full.cache.clean is not None
        x = settle(x, full.cache.clean[:, -1], sampler.still_change)
        for model in models:
            model.remember(x, sampler.context_sigma)
        yield x


def settle(x_BCHW: Tensor, last_BCHW: Tensor, least: float) -> Tensor:
    """Let latent pixels whose change is none worth the name stay exactly as they were (ours).

    A network that is off by a little, always alike, would else let what lies still fade within some hundred frames.

    Args:
        x_BCHW: standardised latent frames.
        last_BCHW: the ones before.
        least: root-mean-square change, over channels, from which on a pixel has changed.
    """
    change = (x_BCHW - last_BCHW).square().mean(1, keepdim=True).sqrt()
    return torch.where(change < least, last_BCHW, x_BCHW)


class _Model:
    """One of the models whose predictions of a frame are combined, with what it remembers (None: it sees no past)."""

    def __init__(self, denoiser: Denoiser, cache: Cache | None, told: bool = True):
        known = cache.model if cache is not None else None
        self.denoiser = known if isinstance(known, Denoiser) else denoiser
        self.cache, self._is_told = cache, told

    def begin(self, actions_BA: Tensor, shape: tuple[int, ...]) -> None:
        """Look ahead to a latent frame of the given shape [B, C, H, W] and its actions; told False: it is not told them."""
        there = torch.full((len(actions_BA), 1), self._is_told, device=actions_BA.device)
        self._actions = actions_BA[:, None], there
        self._context: Context = FrameOnly() if self.cache is None else Step(self.cache)
        nothing = torch.zeros(shape, device=actions_BA.device)[:, None, None]
        # One forecast serves every noise level of the solver.
        self._expected = self.denoiser.expect(nothing, nothing[..., 0, 0, 0] + 1, *self._actions, self._context)

    @property
    def center(self) -> Tensor:
        """[B, C, H, W]: where the frame is expected."""
        return self._expected.center[:, 0, 0]

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """The clean frame that it takes x to be."""
        return self._run(x, sigma)[0]

    def remember(self, x: Tensor, sigma: float) -> None:
        """Take in a finished frame, declared to have noise level sigma."""
        if self.cache is not None:
            self.cache = self._run(x, sigma)[1]

    def _run(self, x: Tensor, sigma: float) -> tuple[Tensor, Cache]:
        level = torch.full((len(x), 1, 1), sigma, device=x.device)
        D_x, after = self.denoiser(x[:, None, None], level, *self._actions, self._context, self._expected)
        return D_x[:, 0, 0], after
