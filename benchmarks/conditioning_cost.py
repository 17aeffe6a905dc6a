"""The claim the project stands on: training cost per predicted frame against the length of the context, three ways.

    python -m benchmarks.conditioning_cost --plot conditioning_cost.png

All three run the project's own UNet at the same widths, forward and backward, on clips of n + 1 latent frames:

- **two streams** (Oniris): one pass over clean and noised copies of the clip; all n + 1 frames are targets, frame i with
  i frames of context. Cost per predicted frame: the pass / (n + 1).
- **frame stacking**: one pass per target, its last 4 clean frames stacked as channels beside it, no other access to the
  past: a clip of one frame. It remembers 4 frames whatever n is, so its cost does not depend on n. Cost per predicted
  frame: the pass.
- **cross-attention**: one pass per target: n clean frames and one noised one through the same blocks, in which every
  frame attends to those before it; only the noised frame's output is trained on. The context must go through the
  network because each attention reads its keys and values there. A cheaper encoder of the context would lower
  the slope, not the fact that one is paid per target. Cost per predicted frame: the pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from matplotlib.figure import Figure
from torch import Tensor, nn

from benchmarks.harness import (
    PARAMS_FILE,
    Clip,
    Device,
    LatentChannels,
    LatentSize,
    ParamsFile,
    Repetitions,
    Threads,
    backward,
    count_flops,
    make_denoiser,
    medians,
    print_table,
    random_clip,
    two_stream_pass,
)
from oniris_core.common.artefacts.figures import save_figure
from oniris_core.common.devices import pick_device
from oniris_core.nn.magnitude import MPConv, MPFourier, mp_silu, mp_sum
from oniris_core.world.denoiser import Denoiser, DenoiserConfig
from oniris_core.world.unet import FrameInfo, UNet

STACKED = 4


class OneStream(nn.Module):
    """The project's UNet on one stream of frames, each with its own sigma, and `stacked` more frames as channels of each."""

    def __init__(self, config: DenoiserConfig, stacked: int = 0):
        super().__init__()
        embedding, features = 4 * config.unet.channels, 2 * config.unet.channels
        self.fourier = MPFourier(features)
        self.noise = MPConv(features, embedding)
        self.action = MPConv(config.action_features, embedding)
        self.unet = UNet(config.unet, (1 + stacked) * config.latent_channels, config.latent_channels, embedding)

    def forward(self, x_BTCHW: Tensor, stacked_BTCHW: Tensor, sigma_BT: Tensor, actions_BTA: Tensor) -> Tensor:
        """D(x; sigma, actions), with the coefficients of arXiv 2206.00364, table 1, for unit data."""
        T, c_noise = x_BTCHW.shape[1], sigma_BT.log() / 4
        noise, action = self.noise(self.fourier(c_noise.flatten())), self.action(actions_BTA.flatten(0, 1))
        embedding = mp_silu(mp_sum(noise, action, 0.5)).unflatten(0, sigma_BT.shape)
        info = FrameInfo(embedding[:, None], c_noise[:, None], torch.arange(T, device=x_BTCHW.device))
        sigma = sigma_BT[..., None, None, None]
        spread = (1 + sigma.square()).sqrt()
        F_x = self.unet(torch.cat([x_BTCHW / spread, stacked_BTCHW], dim=2)[:, None], info)
        return x_BTCHW / spread.square() + sigma / spread * F_x[:, 0]


def stacking_pass(model: OneStream, clip: Clip) -> None:
    """Forward and backward for one target per clip, its last frame."""
    x, stacked = clip.x[:, -1:], clip.x[:, :-1].flatten(1, 2)[:, None]
    D_x = model(x, stacked, torch.ones_like(x[:, :, 0, 0, 0]), clip.actions[:, -1:])
    backward(model, (D_x - x).square().mean())


def cross_attention_pass(model: OneStream, clip: Clip) -> None:
    """Forward and backward for one target per clip, its last frame, the others being its clean context."""
    sigma = torch.full(clip.x.shape[:2], 0.1, device=clip.x.device)
    sigma[:, -1] = 1.0
    D_x = model(clip.x, clip.x[:, :, :0], sigma, clip.actions)
    backward(model, (D_x[:, -1] - clip.x[:, -1]).square().mean())


@dataclass(frozen=True)
class Ways:
    """The three models."""

    two_streams: Denoiser
    stacking: OneStream
    cross_attention: OneStream


def make_ways(params: Path, channels: int, size: int, device: torch.device) -> Ways:
    """All three, of the architecture in a parameter file."""
    denoiser = make_denoiser(params, channels, size, device)
    return Ways(denoiser, OneStream(denoiser.config, STACKED).to(device), OneStream(denoiser.config).to(device))


def passes(ways: Ways, frames: int, n: int, device: torch.device) -> dict[str, tuple[Callable[[], None], int]]:
    """By way: a pass over about `frames` frames at context n, and how many frames it predicts."""
    clips = max(frames // (n + 1), 1)
    config = ways.two_streams.config
    clip, four = (random_clip(config, B, T, device) for B, T in ((clips, n + 1), (clips * (n + 1), STACKED + 1)))
    return {
        "two streams": (partial(two_stream_pass, ways.two_streams, clip), clips * (n + 1)),
        "frame stacking": (partial(stacking_pass, ways.stacking, four), clips * (n + 1)),
        "cross-attention": (partial(cross_attention_pass, ways.cross_attention, clip), clips),
    }


def plot(contexts: list[int], curves: dict[str, dict[str, list[float]]]) -> Figure:
    """One panel for each measure, one curve for each way."""
    figure = Figure(figsize=(4.5 * len(curves), 3.6), layout="constrained")
    for axis, (measure, ways) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for way, values in ways.items():
            axis.plot(contexts, values, marker="o", label=way)
        axis.set(xscale="log", yscale="log", xlabel="context, latent frames", title=f"{measure} per predicted frame")
        axis.set_xticks(contexts, [str(n) for n in contexts], minor=False)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axis.legend()
    return figure


def main(
    contexts: Annotated[str, typer.Option(help="lengths of the context, latent frames")] = "4,8,16,32,64",
    frames: Annotated[int, typer.Option(help="latent frames of a pass, about")] = 65,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="where to save the plot, PNG")] = None,
    repetitions: Repetitions = 5,
    params: ParamsFile = PARAMS_FILE,
    latent_channels: LatentChannels = 16,
    latent_size: LatentSize = 8,
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Training cost per predicted frame against the length of the context, for three ways to use it."""
    where, lengths, cpu = pick_device(device, threads), [int(n) for n in contexts.split(",")], torch.device("cpu")
    models = {place: make_ways(params, latent_channels, latent_size, place) for place in {where, cpu}}
    window = models[cpu].two_streams.config.unet.window
    if max(lengths) > window:
        raise typer.BadParameter(f"a context of {max(lengths)} does not fit the window of {window} latent frames")
    rows, curves = [], {"ms": dict[str, list[float]](), "MFLOP": dict[str, list[float]]()}
    for n in lengths:
        work = passes(models[where], frames, n, where)
        seconds = medians({way: run for way, (run, _) in work.items()}, repetitions)
        for way, (run, predicted) in passes(models[cpu], 1, n, cpu).items():
            curves["ms"].setdefault(way, []).append(1e3 * seconds[way] / work[way][1])
            curves["MFLOP"].setdefault(way, []).append(count_flops(run)[0] / predicted / 1e6)
        ours = {measure: ways["two streams"][-1] for measure, ways in curves.items()}
        for way in work:
            ms, mflop = curves["ms"][way][-1], curves["MFLOP"][way][-1]
            cells = [f"{ms:.2f}", f"{ms / ours['ms']:.2f}", f"{mflop:.0f}", f"{mflop / ours['MFLOP']:.2f}"]
            rows.append([str(n), way, *cells])
    print(f"\nTraining cost per predicted frame, {where}, {torch.get_num_threads()} threads\n")
    print_table(["context", "way", "ms", "x two streams", "MFLOP", "x two streams"], rows)
    if plot_file:
        plot_file.parent.mkdir(parents=True, exist_ok=True)
        save_figure(plot(lengths, curves), plot_file)


if __name__ == "__main__":
    typer.run(main)
