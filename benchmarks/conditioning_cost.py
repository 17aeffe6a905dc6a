"""The claim the project stands on: training cost per predicted frame against the length of the context, three ways.

    python -m benchmarks.conditioning_cost --plot conditioning_cost.png

All three run the project's own UNet at the same widths, forward and backward, on clips of n + 1 latent frames:

- **two streams** (Oniris): one pass over clean and noised copies of the clip; all n + 1 frames are targets, frame i with
  i frames of context. Cost per predicted frame: the pass / (n + 1).
- **frame stacking**: one pass per target, its last 4 clean frames stacked as channels beside it, no other access to the
  past: the temporal modules are skipped (`FrameOnly`). It remembers 4 frames whatever n is, so its cost does not depend
  on n. Cost per predicted frame: the pass.
- **cross-attention**: one pass per target: n clean frames and one noised one through the same blocks, in which every
  frame attends to those before it; only the noised frame's output is trained on. The context must go through the
  network because each attention reads its keys and values there. A cheaper encoder of the context would lower
  the slope, not the fact that one is paid per target. Cost per predicted frame: the pass.
"""

from collections.abc import Callable
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
from oniris_core.common.devices import pick_device
from oniris_core.evaluation.curves import save_figure
from oniris_core.nn.magnitude import MPConv, MPFourier, mp_silu, mp_sum
from oniris_core.world.context import FrameOnly, Step
from oniris_core.world.denoiser import Denoiser, DenoiserConfig
from oniris_core.world.unet import FrameInfo, UNet

STACKED = 4


class FrameStacking(nn.Module):
    """The expected clean frame, given a noised one with the `STACKED` frames before it as channels, and its actions."""

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        embedding, features = 4 * config.unet.channels, 2 * config.unet.channels
        self.fourier = MPFourier(features)
        self.noise = MPConv(features, embedding)
        self.action = MPConv(config.action_features, embedding)
        self.unet = UNet(config.unet, (1 + STACKED) * config.latent_channels, config.latent_channels, embedding)

    def forward(self, x_BCHW: Tensor, past_BKCHW: Tensor, sigma_B: Tensor, actions_BA: Tensor) -> Tensor:
        """D(x; sigma, actions, past), with the coefficients of arXiv 2206.00364, table 1, for unit data."""
        sigma, c_noise = sigma_B[:, None, None, None], sigma_B.log() / 4
        embedding = mp_silu(mp_sum(self.noise(self.fourier(c_noise)), self.action(actions_BA), 0.5))
        positions = torch.zeros(1, dtype=torch.int64, device=x_BCHW.device)
        info = FrameInfo(embedding[:, None, None], c_noise[:, None, None], positions)
        spread = (1 + sigma.square()).sqrt()
        inputs = torch.cat([x_BCHW / spread, past_BKCHW.flatten(1, 2)], dim=1)
        F_x, _ = self.unet(inputs[:, None, None], info, FrameOnly(), ())
        return x_BCHW / spread.square() + sigma / spread * F_x[:, 0, 0]


def stacking_pass(model: FrameStacking, clip: Clip) -> None:
    """Forward and backward for one target per clip, its last frame."""
    sigma = torch.ones(len(clip.x), device=clip.x.device)
    D_x = model(clip.x[:, -1], clip.x[:, :-1], sigma, clip.actions[:, -1])
    backward(model, (D_x - clip.x[:, -1]).square().mean())


def cross_attention_pass(denoiser: Denoiser, clip: Clip) -> None:
    """Forward and backward for one target per clip, its last frame, the others being its clean context."""
    B, T = clip.x.shape[:2]
    sigma = torch.full((B, 1, T), 0.1, device=clip.x.device)
    sigma[..., -1] = 1.0
    D_x, _ = denoiser(clip.x[:, None], sigma, clip.actions, clip.has_action, Step())
    backward(denoiser, (D_x[:, 0, -1] - clip.x[:, -1]).square().mean())


def passes(
    denoiser: Denoiser, stacking: FrameStacking, frames: int, n: int, device: torch.device
) -> dict[str, tuple[Callable[[], None], int]]:
    """By way: a pass over about `frames` frames at context n, and how many frames it predicts."""
    clips = max(frames // (n + 1), 1)
    clip, four = (
        random_clip(denoiser.config, B, T, device) for B, T in ((clips, n + 1), (clips * (n + 1), STACKED + 1))
    )
    return {
        "two streams": (partial(two_stream_pass, denoiser, clip), clips * (n + 1)),
        "frame stacking": (partial(stacking_pass, stacking, four), clips * (n + 1)),
        "cross-attention": (partial(cross_attention_pass, denoiser, clip), clips),
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
    models = {}
    for place in {where, cpu}:
        denoiser = make_denoiser(params, latent_channels, latent_size, place)
        models[place] = denoiser, FrameStacking(denoiser.config).to(place)
    window = models[cpu][0].config.unet.window
    if max(lengths) > window:
        raise typer.BadParameter(f"a context of {max(lengths)} does not fit the window of {window} latent frames")
    rows, curves = [], {"ms": dict[str, list[float]](), "MFLOP": dict[str, list[float]]()}
    for n in lengths:
        work = passes(*models[where], frames, n, where)
        seconds = medians({way: run for way, (run, _) in work.items()}, repetitions)
        for way, (run, predicted) in passes(*models[cpu], 1, n, cpu).items():
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
