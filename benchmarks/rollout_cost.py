"""Time of a generated latent frame, three ways, and that neither time nor memory grows with a rollout.

    python -m benchmarks.rollout_cost --threads 1

- **training form**: one pass over the frames of the window for each evaluation, which is what rollouts would cost without
  a form to step;
- **generation form**: one frame against what is remembered of the others;
- **compiled**: the same, compiled to one graph for all noise levels (`render.compile`); its first frame is told apart.

Then one rollout waits at an early frame while another goes on to a late one, and they take turns, a frame each, so that both
meet the same machine. All start from a context that fills attention's window.
"""

import resource
import sys
import time
from collections.abc import Callable, Iterator
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
    Threads,
    make_denoiser,
    medians,
    print_table,
    random_clip,
)
from oniris_core.common.devices import pick_device
from oniris_core.sampling.autoregressive import Sampler, generate, prefill
from oniris_core.world.denoiser import Denoiser, Frames
from oniris_core.world.generation_form import GenerationForm


def sampler(solver_steps: int) -> Sampler:
    """The default's noise levels, so many of them."""
    return Sampler(steps=solver_steps, sigma_max=5, sigma_min=0.1, rho=3, context_sigma=0.05)


def endless(form: GenerationForm, solver_steps: int, batch: int, device: torch.device) -> Iterator[torch.Tensor]:
    """An endless rollout from a context that fills the window."""
    clip = random_clip(form.config, batch, form.config.unet.window, device)
    state = prefill(form, clip.x, clip.actions, clip.has_action, sampler(solver_steps))
    return generate(form, state, repeat(clip.actions[:, -1]), sampler(solver_steps), list(range(batch)))


def whole_window(
    denoiser: Denoiser, solver_steps: int, batch: int, device: torch.device
) -> Callable[[], list[torch.Tensor]]:
    """As many passes of the training form over the window and a frame as the sampler evaluates."""
    clip = random_clip(denoiser.config, batch, denoiser.config.unet.window + 1, device)
    sigma = torch.ones(clip.x.shape[:2], device=device)
    clean = Frames(clip.x, sigma, clip.actions, clip.has_action)

    @torch.inference_mode()
    def passes() -> list[torch.Tensor]:
        return [denoiser(clean, clip.x, sigma)[:, 1, -1] for _ in range(solver_steps + 1)]

    return passes


def memory_held(device: torch.device) -> float:
    """MiB held now: of the GPU's memory, or resident; where the system does not tell (not Linux), the most so far."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**20
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(
    early: Annotated[int, typer.Option(help="the latent frame at which the first rollout is timed")] = 20,
    late: Annotated[int, typer.Option(help="the latent frame at which the second rollout is timed")] = 2000,
    solver_steps: Annotated[int, typer.Option(help="noise levels of the solver")] = 2,
    batches: Annotated[str, typer.Option(help="rollouts side by side, one row of the table each")] = "1,8,64",
    repetitions: Annotated[int, typer.Option(help="frames of each that are timed; the median is printed")] = 15,
    compiled: Annotated[bool, typer.Option(help="compile too: takes a minute or two")] = False,
    params: ParamsFile = PARAMS_FILE,
    latent_channels: LatentChannels = 16,
    latent_size: LatentSize = 8,
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Time of a generated latent frame, three ways; then early and late in a rollout, with the memory on the way."""
    where = pick_device(device, threads)
    denoiser = make_denoiser(params, latent_channels, latent_size, where)
    print(f"\nA latent frame of {solver_steps} evaluations, {where}, {torch.get_num_threads()} threads, milliseconds\n")
    rows = []
    for batch in map(int, batches.split(",")):
        rollout = endless(GenerationForm(denoiser), solver_steps, batch, where)
        cases: dict[str, Callable[[], object]] = {"form": lambda: next(rollout)}  # noqa: B023
        if batch * denoiser.config.unet.window <= 1024:
            cases["training"] = whole_window(denoiser, solver_steps, batch, where)
        first = "-"
        if compiled:
            graphs = GenerationForm(denoiser)
            graphs.compile_parts()
            start = time.perf_counter()
            fast = endless(graphs, solver_steps, batch, where)
            next(fast)
            first = f"{time.perf_counter() - start:.0f} s"
            cases["compiled"] = lambda: next(fast)  # noqa: B023
        seconds = medians(cases, repetitions)
        found = [f"{1e3 * seconds[name]:.1f}" if name in seconds else "-" for name in ("training", "form", "compiled")]
        rows.append([str(batch), *found, first])
    print_table(["batch", "training form", "generation form", "compiled", "its first"], rows)

    form, memory = GenerationForm(denoiser), dict[int, float]()
    first_rollout, second = (endless(form, 1, 1, where) for _ in range(2))
    for rollout, stops in ((first_rollout, [early]), (second, [early, (early + late) // 2, late])):
        done = 0
        for stop in stops:
            for _ in islice(rollout, stop - done):
                pass
            done, memory[stop] = stop, memory_held(where)
    seconds = medians({"early": lambda: next(first_rollout), "late": lambda: next(second)}, 10 * repetitions)
    print("\nOne rollout, one noise level\n")
    print_table(
        ["latent frame", "ms", "x early"],
        [[str(frame), f"{1e3 * seconds[name]:.2f}", f"{seconds[name] / seconds['early']:.3f}"]
         for name, frame in (("early", early), ("late", late))],
    )  # fmt: skip
    print()
    print_table(
        ["latent frame", "memory, MiB"], [[str(frame), f"{value:.1f}"] for frame, value in sorted(memory.items())]
    )


if __name__ == "__main__":
    typer.run(main)
