"""Where the seconds of a training step go."""

import contextlib
import time
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

PHASES = ("data", "forward", "backward", "optimiser")
SAMPLED = 16
"""On a GPU one step in so many is timed phase by phase: to time a phase means to wait for it."""


class Stopwatch:
    """Seconds of the phases of one step, and of all that happened since the mark that the step before it left."""

    def __init__(self, device: torch.device, step: int, mark: float):
        self._waits = device.type == "cuda"
        self._on = not self._waits or step % SAMPLED == 0
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._mark = mark

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count what happens inside towards `phase`; may be entered more than once."""
        if not self._on:
            yield
            return
        start = time.perf_counter()
        yield
        if self._waits:
            torch.cuda.synchronize()
        self._seconds[phase] += time.perf_counter() - start

    def logs(self) -> dict[str, float]:
        """`seconds` since the mark (checkpoints and pictures after the last step included) and those of each phase.

        There are none of phases where they were not timed.
        """
        phases = {f"seconds_{phase}": value for phase, value in self._seconds.items()} if self._on else {}
        return {"seconds": time.perf_counter() - self._mark, **phases}


def spent(history: Mapping[str, Tensor]) -> dict[str, float]:
    """Seconds of all steps together: `seconds`, and its part in each phase, scaled up from the steps that were timed."""
    seconds = history["seconds"].double().numpy()
    found = {"seconds": float(np.nansum(seconds))}
    for phase in PHASES:
        values = history.get(f"seconds_{phase}")
        if values is not None:
            timed = np.isfinite(part := values.double().numpy())
            found[f"seconds_{phase}"] = float(part[timed].sum() / seconds[timed].sum() * found["seconds"])
    return {name: round(value, 3) for name, value in found.items()}


def summary(history: Mapping[str, Tensor], frames_per_step: int) -> str:
    """One line: throughput, and where the time went."""
    times, steps = spent(history), int(torch.isfinite(history["seconds"]).sum())
    total = max(times["seconds"], 1e-9)
    parts = {phase: times.get(f"seconds_{phase}", 0.0) / total for phase in PHASES}
    parts["rest"] = max(1 - sum(parts.values()), 0.0)
    shares = ", ".join(f"{phase} {share:.1%}" for phase, share in parts.items())
    return (
        f"{steps} steps in {total:.0f} s: {steps / total:.2f} steps/s, {steps * frames_per_step / total:.0f} frames/s; "
        f"{shares}"
    )
