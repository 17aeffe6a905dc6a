"""Time per training frame against the length of the clips, and attention's arithmetic against what its mask needs.

    python -m benchmarks.training_cost

A batch always holds the same number of frames, cut into clips of 8, 16, 32 or 64. Longer clips have more to attend to;
everything else costs the same. Timed are forward and backward of the two-stream loss. A second table says what learning
rewards and ends beside it adds, in steps of either kind.
"""

from functools import partial
from pathlib import Path
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
    backward,
    count_flops,
    make_denoiser,
    medians,
    print_table,
    random_clip,
    two_stream_pass,
)
from oniris_core.common.devices import pick_device
from oniris_core.config.reader import load_section, read_yaml
from oniris_core.training.world.params import TrainParams
from oniris_core.training.world.trainer import WorldBatch, WorldObjective
from oniris_core.world.denoiser import Denoiser, Frames
from oniris_core.world.outcomes import OutcomeConfig
from oniris_core.world.temporal import Attention

FRAMES = 4
"""Of a latent frame whose rewards and ends are learned."""


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


def outcome_cost(params: Path, channels: int, size: int, repetitions: int, where: torch.device) -> list[list[str]]:
    """Rows of the second table: steps of the parameter file's batch, of both kinds, without heads and with them."""
    asked = load_section(TrainParams, "train", read_yaml(params), params, {})
    B, T = asked.batch, asked.clip_latents
    rows = []
    for kind, alone in (("whole", False), ("forecast alone", True)):
        cases = {}
        for name, earned in (("without", None), ("with", OutcomeConfig(FRAMES, 0.0, 1.0))):
            denoiser = make_denoiser(params, channels, size, where, earned)
            clip, ones = random_clip(denoiser.config, B, T, where), torch.ones(B, T, device=where)
            noise, told = torch.ones_like(clip.x), ones[..., None].expand(-1, -1, FRAMES)
            batch = WorldBatch(
                clip.x, clip.actions, clip.has_action, ones, noise, 0.1 * ones[:, 0], noise, alone, told, told > 2
            )
            objective = WorldObjective(denoiser, torch.ones_like)
            cases[name] = partial(learn, objective, batch)
        seconds = medians(cases, repetitions)
        rows.append(
            [kind, *(f"{1e3 * seconds[name]:.1f}" for name in cases), f"{seconds['with'] / seconds['without']:.2f}"]
        )
    return rows


def learn(objective: WorldObjective, batch: WorldBatch) -> None:
    """Forward and backward of a training step."""
    backward(objective, objective(batch).loss)


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
    print("\nA training step of the parameter file's batch, without and with rewards and ends\n")
    earned = outcome_cost(params, latent_channels, latent_size, repetitions, where)
    print_table(["step", "ms without", "ms with", "ratio"], earned)


if __name__ == "__main__":
    typer.run(main)
