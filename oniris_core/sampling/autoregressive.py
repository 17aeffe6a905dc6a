"""Autoregressive generation: one latent frame after another, each denoised against what is remembered of those before it.

Axes: B rollouts side by side, T latent frames, C channels, H, W; A features of an action.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oniris_core.common.seeds import torch_generator
from oniris_core.sampling.params import SIGMA_MIN, RenderParams
from oniris_core.sampling.schedule import sigma_schedule
from oniris_core.sampling.solver import dpm_solver
from oniris_core.world.generation_form import GenerationForm
from oniris_core.world.rollout_state import Ahead, RolloutState

RHO = 3.0
"""Curvature of the noise schedule."""
CONTEXT_SIGMA = 0.07
"""Noise level that the past is declared to have: one declared to be exact keeps its mistakes (docs/recipe.md)."""
FEWEST_SLOTS = 16
"""Frames a rollout's attention has room for at first; twice as many whenever they are full, up to the window."""


@dataclass(frozen=True)
class Sampler:
    """How a frame is generated; see `oniris_core.sampling.params.RenderParams` and the numbers above for the meanings.

    Raises:
        ValueError: no steps, or a noise level that is not above 0 or out of order.
    """

    steps: int = 2
    sigma_max: float = 0.2
    sigma_min: float = SIGMA_MIN
    rho: float = RHO
    context_sigma: float = CONTEXT_SIGMA

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.sigma_min <= self.sigma_max or not self.context_sigma > 0:
            raise ValueError(
                f"a sampler needs a step and 0 < sigma_min <= sigma_max and context_sigma above 0, not {self}"
            )

    @staticmethod
    def of(params: RenderParams) -> "Sampler":
        """The sampler that the parameters describe."""
        return Sampler(params.solver_steps, params.sigma_max, SIGMA_MIN, RHO, CONTEXT_SIGMA)


@torch.inference_mode()
def prefill(
    form: GenerationForm, context_BTCHW: Tensor, actions_BTA: Tensor, has_action_BT: Tensor, sampler: Sampler
) -> RolloutState:
    """The state after true standardised latent frames, any number of them from the first of an episode on.

    Args:
        form: the model.
        context_BTCHW: the frames, declared to have noise level `sampler.context_sigma`.
        actions_BTA: features of the actions that led to each frame.
        has_action_BT: bool, false where no action is known: the first frame of an episode.
        sampler: how frames will be generated.

    Raises:
        ValueError: no frames, shapes that do not fit the model, or latents that are not finite.
    """
    c = form.config
    B, T = context_BTCHW.shape[:2]
    if context_BTCHW.ndim != 5 or tuple(context_BTCHW.shape[2:]) != form.latent_shape or not B * T:
        raise ValueError(
            f"latents of shape {list(context_BTCHW.shape)} do not fit [B, T, {', '.join(map(str, form.latent_shape))}], "
            "at least one frame"
        )
    if actions_BTA.shape != (B, T, c.action_features) or has_action_BT.shape != (B, T):
        raise ValueError(
            f"actions of shape {list(actions_BTA.shape)} and {list(has_action_BT.shape)} do not fit "
            f"[{B}, {T}, {c.action_features}] and [{B}, {T}]"
        )
    if not context_BTCHW.isfinite().all() or not actions_BTA.isfinite().all():
        raise ValueError(f"latents and actions must be finite: latents of shape {list(context_BTCHW.shape)}")
    # Copies: tensors from outside and those that are made in here, or lie otherwise, are of two kinds to a compiler.
    frames = [x.clone() for x in context_BTCHW.unbind(1)]
    state = form.begin(frames[0], frames[0].new_full((B,), sampler.context_sigma), room(T))
    for x, actions, has_action in zip(frames, actions_BTA.unbind(1), has_action_BT.unbind(1), strict=True):
        state = _enter(form, state, x, actions, has_action, sampler)
    return state


@torch.inference_mode()
def take_in(
    form: GenerationForm, state: RolloutState, x_BCHW: Tensor, actions_BA: Tensor, sampler: Sampler
) -> RolloutState:
    """The state after one more true standardised latent frame, to which these features of actions led."""
    form.check(state)
    state = form.grow(state, room(int(state.position.max()) + 1))
    return _enter(form, state, x_BCHW.clone(), actions_BA, actions_BA.new_ones(len(actions_BA)), sampler)


def _enter(
    form: GenerationForm, state: RolloutState, x: Tensor, actions: Tensor, has_action: Tensor, sampler: Sampler
) -> RolloutState:
    told = form.tell(actions, has_action)
    return form.enter(state, form.look_ahead(state, told), told, x, x.new_full((len(x),), sampler.context_sigma))


def room(frames: int) -> int:
    """How many frames there should be room for, if so many are to enter."""
    return max(FEWEST_SLOTS, 1 << (frames - 1).bit_length())


@torch.inference_mode()
def next_frame(
    form: GenerationForm, state: RolloutState, actions_BA: Tensor, sampler: Sampler, seeds: Sequence[int]
) -> tuple[RolloutState, Tensor]:
    """Generate the next latent frame of each rollout.

    Args:
        form: the model.
        state: of rollouts with at least one frame; it is left as it is, and can be gone on from again.
        actions_BA: features of the actions that lead to the frame.
        sampler: how to generate.
        seeds: one per rollout. A frame's noise depends on its rollout's seed and its number alone.

    Returns:
        The state with the frame, and the frame: standardised [B, C, H, W].

    Raises:
        ValueError: a rollout without frames, a state of another model, another number of seeds or actions than of
            rollouts, or actions not finite.
    """
    positions: list[int] = state.position.tolist()
    B, features = len(positions), form.config.action_features
    if not positions or not min(positions):
        raise ValueError("a rollout needs at least one frame of context")
    if len(seeds) != B:
        raise ValueError(f"{len(seeds)} seeds for {B} rollouts")
    if actions_BA.shape != (B, features) or not actions_BA.isfinite().all():
        raise ValueError(f"actions of shape {list(actions_BA.shape)} do not fit [{B}, {features}], or are not finite")
    form.check(state)
    state = form.grow(state, room(max(positions) + 1))
    device = state.clean.device
    noise = torch.stack([
        torch.randn(form.latent_shape, generator=torch_generator(seed, "rollout", position))
        for seed, position in zip(seeds, positions, strict=True)
    ]).to(device, state.clean.dtype)  # fmt: skip
    told = form.tell(actions_BA, actions_BA.new_ones(B))
    ahead = form.look_ahead(state, told)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return form.denoise(state, ahead, x, x.new_full((B,), sigma))

    sigmas = sigma_schedule(sampler.steps, sampler.sigma_max, sampler.sigma_min, sampler.rho)
    x = dpm_solver(denoise, around(ahead, sampler.sigma_max, noise), sigmas)
    return form.enter(state, ahead, told, x, x.new_full((B,), sampler.context_sigma)), x


def around(ahead: Ahead, sigma: float, noise_BCHW: Tensor) -> Tensor:
    """Frames [B, C, H, W] of noise level `sigma`, drawn where they are expected: m + sqrt(spread^2 + sigma^2) noise.

    That is how noised frames are spread if the forecast is right, at any noise level: denoising need not begin where noise
    hides everything.
    """
    return ahead.center + (ahead.spread.square() + sigma**2).sqrt() * noise_BCHW


def generate(
    form: GenerationForm, state: RolloutState, actions: Iterable[Tensor], sampler: Sampler, seeds: Sequence[int]
) -> Iterator[Tensor]:
    """Latent frames [B, C, H, W], one for each entry [B, A] of `actions`, as long as there are any; see `next_frame`."""
    for actions_BA in actions:
        state, x = next_frame(form, state, actions_BA, sampler, seeds)
        yield x
