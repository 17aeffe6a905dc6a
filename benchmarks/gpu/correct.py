"""Is it right? Every form of the same numbers against the dense mask in double precision, within a bound of its own."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from benchmarks.gpu.results import Results
from oniris_core.nn.magnitude import force_normalize_
from oniris_core.sampling.autoregressive import Sampler, generate, prefill
from oniris_core.training.fit.machine.compilation import compile_parts
from oniris_core.training.fit.machine.graphs import Replayed
from oniris_core.training.world.trainer import WorldBatch, WorldObjective
from oniris_core.world.denoiser import Denoiser, DenoiserConfig, Frames
from oniris_core.world.forecast import Forecaster
from oniris_core.world.generation_form import GenerationForm
from oniris_core.world.loss import ExpectedLoss
from oniris_core.world.store import load_world
from oniris_core.world.unet import Block, UNetConfig
from oniris_core.world.video_attention import attend_parallel
from tests.reference import dense, stepwise, visible

DEMO = Path(__file__).parents[2] / "demo" / "world"

EXACT, HALF = 1e-4, 2e-2
"""Relative errors to keep: of float32, and of bfloat16, whose numbers have 8 bits (2^-8 = 4e-3), through a few products."""


def error(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|, Euclidean; infinite where anything is not finite."""
    difference = (found.double() - expected.double()).norm() / expected.double().norm()
    return float(difference.detach()) if bool(difference.detach().isfinite()) else float("inf")


def whole_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The same for many tensors as if they were one."""
    return error(*(torch.cat([part.double().flatten() for part in parts]) for parts in (found, expected)))


def check(results: Results, device: torch.device, tiny: bool) -> bool:
    """Run all checks there is time for; returns whether attention and compiler may be used for what follows."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    checks: list[tuple[str, Callable[[], bool]]] = [
        ("attention, float32", lambda: _attention(results, device, torch.float32, (12, 64, 32, 16))),
        ("attention, bfloat16", lambda: _attention(results, device, torch.bfloat16, (12, 64, 32, 16))),
        ("network", lambda: _network(results, device)),
        ("rollouts", lambda: _rollouts(results, device, *((2, 3) if tiny else (64, 8)))),
        ("attention, bfloat16, window of 3", lambda: _attention(results, device, torch.bfloat16, (32, 16, 64, 3))),
        ("replayed", lambda: _replayed(results, device)),
        ("compiled", lambda: _compiled(results, device, (Forecaster,) if tiny else (Block, Forecaster))),
    ]
    right = True
    for name, work in checks:
        if results.left < 2:
            results.add(name, "not measured: the time was up")
            continue
        try:
            right = work() and right
        except Exception as trouble:  # whatever it is: it is written down, and the next check may be right
            results.add(name, f"failed: {type(trouble).__name__}: {' '.join(str(trouble).split())[:300]}", kept=False)
            right = False
    return right


def _attention(results: Results, device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int, int]) -> bool:
    """The form of the device, forward and backward; on a GPU that is FlexAttention, compiled."""
    T, P, D, window = shape
    generator = torch.Generator(device).manual_seed(0)
    exact = torch.randn(3, 2, 2, T, 3, P, D, generator=generator, device=device, dtype=torch.float64)
    inputs = [z.to(dtype).requires_grad_() for z in exact]
    exact_inputs = [
        z.detach().double().requires_grad_() for z in inputs
    ]  # rounded alike: what is judged is the arithmetic
    weight = torch.randn(exact[0].shape, generator=generator, device=device, dtype=torch.float64)
    mask = visible(T, window).repeat_interleave(P, 0).repeat_interleave(P, 1).to(device)
    q, k, v = (rearrange(z, "b s t n p d -> b n (s t p) d") for z in exact_inputs)
    expected = rearrange(
        F.scaled_dot_product_attention(q, k, v, attn_mask=mask), "b n (s t p) d -> b s t n p d", s=2, t=T
    )
    found = attend_parallel(*inputs, window)
    bound = EXACT if dtype == torch.float32 else HALF
    name = f"attention {str(dtype).removeprefix('torch.')}, {T} frames of {P} pixels, window {window}"
    kept = results.at_most(f"{name}, forward", error(found, expected), bound)
    theirs = torch.autograd.grad((expected * weight).sum(), exact_inputs)
    ours = torch.autograd.grad((found.double() * weight).sum(), inputs)
    return results.at_most(f"{name}, gradients", whole_error(ours, theirs), bound) and kept


def small(device: torch.device, levels: int = 2) -> Denoiser:
    """A small denoiser with all its gains open: at the start half of a network is closed."""
    torch.manual_seed(0)
    unet = UNetConfig(32, (1,) * levels, 1, (True,) * levels, (False,) * levels, 16, 6)
    denoiser = Denoiser(DenoiserConfig(unet, 4, 8, 8, 5, 0.35, 16, (1, 2, 4))).to(device)
    force_normalize_(denoiser)
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if name.endswith("gain"):
                parameter.fill_(0.2 if name.startswith("forecaster") else 0.7)
    return denoiser


def _clip(B: int, T: int, device: torch.device) -> tuple[Frames, Tensor, Tensor]:
    """Clean frames, noised ones and their noise levels."""
    generator = torch.Generator().manual_seed(1)
    x, sigma = torch.randn(2, B, T, 4, 8, 8, generator=generator), torch.rand(B, T, generator=generator) + 0.1
    actions, has_action = torch.randn(B, T, 5, generator=generator), torch.arange(T).expand(B, -1) > 0
    clean = Frames(x[0].to(device), torch.full_like(sigma, 0.05).to(device), actions.to(device), has_action.to(device))
    return clean, x[1].to(device), sigma.to(device)


@torch.no_grad()
def _network(results: Results, device: torch.device) -> bool:
    """Both forms against the dense mask in float64, through a whole network."""
    denoiser, (clean, x, sigma) = small(device), _clip(2, 10, device)
    doubled = Frames(clean.x.double(), clean.sigma.double(), clean.actions.double(), clean.has_action)
    with dense():
        expected = copy.deepcopy(denoiser).double()(doubled, x.double(), sigma.double())
    whole, steps = denoiser(clean, x, sigma), stepwise(GenerationForm(denoiser), clean, x, sigma)
    kept = results.at_most("network, whole clip against dense mask", error(whole, expected), EXACT)
    return results.at_most("network, frame by frame against dense mask", error(steps, expected), EXACT) and kept


@torch.no_grad()
def _rollouts(results: Results, device: torch.device, batch: int, latents: int) -> bool:
    """Row 0 of a batch and the same rollout alone, by trained weights: an untrained network makes much of any rounding."""
    form = load_world(DEMO, device=device).form
    c, generator = form.config, torch.Generator().manual_seed(1)
    x = torch.randn(batch, 1, c.latent_channels, c.latent_height, c.latent_width, generator=generator).to(device)
    actions = torch.zeros(batch, 4, c.action_features, device=device)
    has_action = (torch.arange(4, device=device) > 0).expand(batch, -1)
    sampler = Sampler(steps=3, sigma_max=5.0, sigma_min=0.1, rho=3.0, context_sigma=0.05)
    made = []
    for rows in (1, batch):
        state = prefill(form, x[:rows].expand(-1, 4, -1, -1, -1), actions[:rows], has_action[:rows], sampler)
        coming = [actions[:rows, -1]] * latents
        made.append(torch.stack(list(generate(form, state, coming, sampler, list(range(rows)))), 1))
    return results.at_most(
        f"rollout of {latents} latent frames, batch 1 against {batch}", error(made[0], made[1][:1]), 1e-3
    )


def _batch(clean: Frames, sigma: Tensor) -> WorldBatch:
    noise = torch.randn(clean.x.shape, generator=torch.Generator().manual_seed(2)).to(clean.x.device)
    return WorldBatch(
        clean.x, clean.actions, clean.has_action, sigma, noise, clean.sigma[:, 0], noise.flip(0), forecast_only=False
    )


def _replayed(results: Results, device: torch.device) -> bool:
    """Passes replayed from a CUDA graph against the same passes, launched one by one."""
    if device.type != "cuda":
        return True
    denoiser, (clean, x, sigma) = small(device), _clip(4, 8, device)
    first, second = (
        _batch(clean, sigma),
        _batch(Frames(x, clean.sigma, clean.actions.flip(0), clean.has_action), sigma.flip(0)),
    )
    objective = WorldObjective(denoiser, ExpectedLoss().to(device).__call__)

    def passes(batch: WorldBatch) -> Tensor:
        loss = objective(batch).loss
        loss.backward()
        return loss.detach()

    replayed, found = Replayed(passes, denoiser), list[list[Tensor]]()
    for run in (replayed, passes):
        for batch in (first, second):  # the second must not be answered with what the first one left
            denoiser.zero_grad(set_to_none=True)
            loss = run(batch)
        found.append([loss.clone(), *(p.grad.clone() for p in denoiser.parameters() if p.grad is not None)])
    return results.at_most("replayed against launched, loss and gradients", whole_error(*found), 1e-5)


@contextlib.contextmanager
def as_written() -> Iterator[None]:
    """Inside, what is compiled is only traced: the compiler of CPUs takes minutes, and it is not what this is about."""
    compiled = torch.compile
    with patch("torch.compile", lambda module, **options: compiled(module, **options, backend="eager")):
        yield


def _compiled(results: Results, device: torch.device, kinds: tuple[type[nn.Module], ...]) -> bool:
    """The loss of a compiled network and its gradients, as a training step takes them."""
    denoiser, (clean, _, sigma) = small(device, levels=1), _clip(4, 8, device)
    denoiser.make_masks(8, device)
    expected = ExpectedLoss().to(device)
    batch = _batch(clean, sigma)
    twin = copy.deepcopy(denoiser)
    with contextlib.nullcontext() if device.type == "cuda" else as_written():
        compile_parts(twin, kinds)
    kept = True
    for dtype, bound in ((torch.bfloat16, 3 * HALF), (torch.float32, EXACT)):
        found = []
        for network in (denoiser, twin):
            network.zero_grad()
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                outcome = WorldObjective(network, expected.__call__)(batch)
            outcome.loss.backward()
            gradients = [p.grad for p in network.parameters() if p.grad is not None]
            found.append((outcome.loss.detach(), [g.clone() for g in gradients]))
        name = f"compiled against eager, {str(dtype).removeprefix('torch.')}"
        kept = results.at_most(f"{name}, loss", error(found[1][0], found[0][0]), bound) and kept
        kept = results.at_most(f"{name}, gradients", whole_error(found[1][1], found[0][1]), 5 * bound) and kept
    return kept
