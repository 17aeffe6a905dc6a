"""Where the seconds of a training step go."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

PHASES = ("data", "forward", "backward", "optimiser")


class Stopwatch:
    """Seconds of the phases of one step. On a GPU they are stamps in its queue: nothing waits until they are asked for."""

    def __init__(self, device: torch.device):
        self._device = device
        self._laps: list[tuple[str, Any, Any]] = []

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count what happens inside towards `phase`; may be entered more than once."""
        start = self._stamp()
        yield
        self._laps.append((phase, start, self._stamp()))

    def seconds(self) -> dict[str, float]:
        """`seconds_<phase>` of each phase; on a GPU only when its work is done."""
        found = dict.fromkeys((f"seconds_{phase}" for phase in PHASES), 0.0)
        for phase, start, end in self._laps:
            found[f"seconds_{phase}"] += start.elapsed_time(end) / 1e3 if self._device.type == "cuda" else end - start
        return found

    def _stamp(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


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
