"""Time per generated frame and memory of a rollout, early and late.

    python -m benchmarks.rollout_cost

One rollout waits at frame 20 while another goes on to frame 2000; then they take turns, a frame each, so that both meet
the same machine. Both start from a context that fills attention's window.
"""

import resource
import sys
from collections.abc import Iterator
from itertools import islice, repeat
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
    make_denoiser,
    medians,
    print_table,
    random_clip,
)
from oniris_core.common.devices import pick_device
from oniris_core.sampling.autoregressive import Sampler, generate, prefill
from oniris_core.world.denoiser import Denoiser


def endless(denoiser: Denoiser, solver_steps: int, batch: int, device: torch.device) -> Iterator[torch.Tensor]:
    """An endless rollout from a context that fills the window."""
    clip = random_clip(denoiser.config, batch, denoiser.config.unet.window, device)
    sampler = Sampler(
        steps=solver_steps, sigma_max=5, sigma_min=0.1, rho=3, context_sigma=0.05
    )  # fmt: skip
    past = prefill(denoiser, clip.x, clip.actions, clip.has_action, sampler)
    return generate(denoiser, past, repeat(clip.actions[:, -1]), sampler, list(range(batch)))


def memory_held(device: torch.device) -> float:
    """MiB held now: of the GPU's memory, or resident; where the system does not tell (not Linux), the most so far."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**20
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(
    early: Annotated[int, typer.Option(help="the frame at which the first rollout is timed")] = 20,
    late: Annotated[int, typer.Option(help="the frame at which the second rollout is timed")] = 2000,
    solver_steps: Annotated[int, typer.Option(help="noise levels of the solver")] = 1,
    batch: Annotated[int, typer.Option(help="rollouts side by side")] = 1,
    repetitions: Repetitions = 101,
    params: ParamsFile = PARAMS_FILE,
    latent_channels: LatentChannels = 16,
    latent_size: LatentSize = 8,
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Time per generated frame early and late in a rollout, and the memory on the way."""
    where = pick_device(device, threads)
    denoiser = make_denoiser(params, latent_channels, latent_size, where)
    first, second = (endless(denoiser, solver_steps, batch, where) for _ in range(2))
    memory = dict[int, float]()
    for rollout_, stops in ((first, [early]), (second, [early, (early + late) // 2, late])):
        done = 0
        for stop in stops:
            for _ in islice(rollout_, stop - done):
                pass
            done, memory[stop] = stop, memory_held(where)
    seconds = medians({"early": lambda: next(first), "late": lambda: next(second)}, repetitions)
    print(
        f"\nRollouts, {batch} side by side, {where}, {torch.get_num_threads()} threads, {solver_steps} noise levels\n"
    )
    print_table(
        ["frame", "ms/frame", "x early"],
        [[str(frame), f"{1e3 * seconds[name]:.2f}", f"{seconds[name] / seconds['early']:.3f}"]
         for name, frame in (("early", early), ("late", late))],
    )  # fmt: skip
    print()
    print_table(["frame", "memory, MiB"], [[str(frame), f"{value:.1f}"] for frame, value in sorted(memory.items())])


if __name__ == "__main__":
    typer.run(main)
