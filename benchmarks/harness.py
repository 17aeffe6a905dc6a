"""What the benchmarks share: the model of params.yaml on random clips, medians of alternating repetitions, exact FLOPs.

Axes: see `oniris_core.common.axes`.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from oniris_core.config.reader import load_section, read_yaml
from oniris_core.nn.magnitude import force_normalize_
from oniris_core.training.world.params import TrainParams
from oniris_core.world.denoiser import Denoiser, DenoiserConfig
from oniris_core.world.loss import noised_errors
from oniris_core.world.outcomes import OutcomeConfig
from oniris_core.world.unet import UNetConfig

ACTION_FEATURES = 16  # LunarLander's 4 choices for each of 4 frames

PARAMS_FILE = Path("params.yaml")

ParamsFile = Annotated[
    Path, typer.Option("--params", help="the parameter file whose section `train` is the architecture")
]
LatentChannels = Annotated[int, typer.Option(help="channels of a latent frame")]
LatentSize = Annotated[int, typer.Option(help="height and width of a latent frame, latent pixels")]
Repetitions = Annotated[int, typer.Option(help="timed repetitions of each case; the median counts")]
Device = Annotated[str, typer.Option(help="cpu or cuda")]
Threads = Annotated[int, typer.Option(help="CPU threads; 0: as many as there are cores")]


@dataclass(frozen=True)
class Clip:
    """Random latents [B, T, C, H, W], features of actions [B, T, A], and has_action [B, T]."""

    x: Tensor
    actions: Tensor
    has_action: Tensor


def make_denoiser(
    params: Path, channels: int, size: int, device: torch.device, outcomes: OutcomeConfig | None = None
) -> Denoiser:
    """The untrained denoiser of a parameter file; what it costs does not depend on its weights."""
    p = load_section(TrainParams, "train", read_yaml(params), params, {})
    unet = UNetConfig(
        p.channels[0], p.channel_mult, p.blocks, p.video_attention, p.frame_attention, p.head_channels, p.window
    )  # fmt: skip
    unet.check_latent_size(size, size)
    torch.manual_seed(0)
    denoiser = Denoiser(
        DenoiserConfig(
            unet, channels, size, size, ACTION_FEATURES, 0.35, p.forecast_channels, p.forecast_ages,
            outcomes,
        )
    )  # fmt: skip
    denoiser = denoiser.to(device)
    force_normalize_(denoiser)
    return denoiser


def random_clip(config: DenoiserConfig, B: int, T: int, device: torch.device) -> Clip:
    """B clips of T latent frames."""
    x = torch.randn(B, T, config.latent_channels, config.latent_height, config.latent_width, device=device)
    actions = torch.randn(B, T, config.action_features, device=device)
    return Clip(x, actions, (torch.arange(T, device=device) > 0).expand(B, T))


def two_stream_pass(denoiser: Denoiser, clip: Clip) -> None:
    """Forward and backward of the training loss: every frame of the clips a target, given its clean past."""
    B, T = clip.x.shape[:2]
    sigma, clean_sigma = torch.ones(B, T, device=clip.x.device), torch.full((B,), 0.1, device=clip.x.device)
    noise = torch.ones_like(clip.x)
    errors = noised_errors(denoiser, clip.x, clip.actions, clip.has_action, sigma, noise, clean_sigma, noise)
    backward(denoiser, errors.loss.mean() + errors.forecast.mean())


def backward(model: torch.nn.Module, loss: Tensor) -> None:
    """Gradients of `loss`, the ones before forgotten."""
    model.zero_grad(set_to_none=True)
    loss.backward()


def medians(cases: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Median seconds of each case. The cases take turns, so that other work on the machine meets all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():  # warm-up
        case()
    for _ in range(repetitions):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def count_flops(work: Callable[[], object]) -> tuple[int, int]:
    """Floating-point operations of `work` on the CPU: all of them, and those of attention (batched matrix products).

    Attention is counted as it is computed: a masked-out pair of pixels that is computed all the same counts.
    """
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return counter.get_total_flops(), counter.get_flop_counts()["Global"].get(torch.ops.aten.bmm, 0)


def print_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table, columns aligned."""
    widths = [max(len(row[i]) for row in (names, *rows)) for i in range(len(names))]
    for row in (names, ["-" * (width - 1) + ":" for width in widths], *rows):
        print("| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |")
