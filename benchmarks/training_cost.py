"""Time per training frame against the length of the clips, and attention's arithmetic against what its mask needs.

    python -m benchmarks.training_cost

A batch always holds the same number of frames, cut into clips of 8, 16, 32 or 64. Longer clips have more to attend to;
everything else costs the same. Timed are forward and backward of the two-stream loss.
"""

from functools import partial
from typing import Annotated

import torch
import typer

from benchmarks.harness import (
    PARAMS_FILE,
    Device,
    LatentChannels,
    LatentSize,
    ParamsFile,
    Repetitions,
    Threads,
    count_flops,
    make_denoiser,
    medians,
    print_table,
    random_clip,
    two_stream_pass,
)
from oniris_core.common.devices import pick_device
from oniris_core.world.denoiser import Denoiser, Frames
from oniris_core.world.temporal import Attention


def attention_flops_needed(denoiser: Denoiser, T: int) -> int:
    """Operations of the two-stream mask, forward and backward, of one clip of T frames.

    Each pair of a query's and a key's pixel that may see each other takes 4 D forward (q k and its weight times v) and
    twice that backward. Clean or noised, frame t sees min(t, window) frames before it and one of its own place.
    """
    needed = 0

    def add(module: Attention, args: tuple) -> None:
        nonlocal needed
        B, S, T, C, H, W = args[0].shape
        frames = sum(min(t, module.window) + 1 for t in range(T))
        needed += 3 * 4 * C * B * S * frames * (H * W) ** 2

    hooks = [m.register_forward_pre_hook(add) for m in denoiser.modules() if isinstance(m, Attention)]
    with torch.no_grad():
        clip = random_clip(denoiser.config, 1, T, torch.device("cpu"))
        sigma = torch.ones(1, T)
        denoiser(Frames(clip.x, sigma, clip.actions, clip.has_action), clip.x, sigma)
    for hook in hooks:
        hook.remove()
    return needed


def main(
    clips: Annotated[str, typer.Option(help="lengths of the clips, latent frames")] = "8,16,32,64",
    frames: Annotated[int, typer.Option(help="latent frames of a batch, a multiple of every length")] = 64,
    repetitions: Repetitions = 9,
    params: ParamsFile = PARAMS_FILE,
    latent_channels: LatentChannels = 16,
    latent_size: LatentSize = 8,
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Time per training frame for clips of several lengths at a fixed number of frames per batch."""
    where, lengths = pick_device(device, threads), [int(length) for length in clips.split(",")]
    denoiser = make_denoiser(params, latent_channels, latent_size, where)
    cases = {}
    for T in lengths:
        if frames % T:
            raise typer.BadParameter(f"--frames = {frames} is not a multiple of a clip of {T}")
        cases[str(T)] = partial(two_stream_pass, denoiser, random_clip(denoiser.config, frames // T, T, where))
    seconds = medians(cases, repetitions)
    on_cpu = make_denoiser(params, latent_channels, latent_size, torch.device("cpu"))
    rows = []
    for T in lengths:
        one = random_clip(on_cpu.config, 1, T, torch.device("cpu"))
        total, attention = count_flops(partial(two_stream_pass, on_cpu, one))
        needed = attention_flops_needed(on_cpu, T)
        rows.append([
            str(T), str(frames // T), f"{1e3 * seconds[str(T)] / frames:.3f}",
            f"{seconds[str(T)] / seconds[str(lengths[0])]:.2f}", f"{total / T / 1e6:.1f}",
            f"{attention / total:.1%}", f"{attention / needed:.3f}" if needed else "-",
        ])  # fmt: skip
    print(f"\nTraining, {frames} latent frames a batch, {where}, {torch.get_num_threads()} threads\n")
    names = ["clip", "clips", "ms/frame", "x first", "MFLOP/frame", "attention", "attention / needed"]
    print_table(names, rows)


if __name__ == "__main__":
    typer.run(main)
