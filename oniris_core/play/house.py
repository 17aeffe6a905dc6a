"""What all players share: the model, where dreams begin, and a thread for each kind of work."""

import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from oniris_core.data.rows.actions import ActionSpec
from oniris_core.environment.starts import Start, Starts
from oniris_core.evaluation.probes.states.reader import StateReader
from oniris_core.play.params import PlayParams
from oniris_core.sampling.autoregressive import Sampler
from oniris_core.sampling.stepper import Stepper

MEASURED_S = 2.0
"""How long the model is measured before the first dream."""
SHARE = 0.8
"""Of the time that a latent frame lasts the model may need this much to be in real time: the rest is for everything else."""


@dataclass(frozen=True)
class Quality:
    """A sampler, and the milliseconds in which it makes a latent frame, as measured at the start."""

    steps: int
    milliseconds: float


@dataclass(frozen=True)
class House:
    """What all players share.

    Attributes:
        steppers, qualities: by name, fast and fine.
        chosen: the quality a page begins with.
        starts: where dreams begin.
        spec: the actions.
        controls, rest: of `controls.controls` and `controls.resting`.
        reader: of the environment's pictures, if there is one.
        no_truth: why the true simulator cannot be shown; None: it can.
        params: of the stage.
        folder: for recordings.
        context_latents: true latent frames a dream starts from, unless the player says otherwise.
        import_code: allow a true simulator whose code is not Gymnasium's.
        model, simulator, recorder: one thread each; work waits in line, one piece of each player at a time.
        recordings: the files that were saved, by the name under which they can be fetched.
    """

    steppers: Mapping[str, Stepper]
    qualities: Mapping[str, Quality]
    chosen: str
    starts: Starts
    spec: ActionSpec
    controls: list[dict[str, Any]]
    rest: Any
    reader: StateReader | None
    no_truth: str | None
    params: PlayParams
    folder: Path
    context_latents: int
    import_code: bool
    model: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "model"))
    simulator: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "simulator"))
    recorder: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "recorder"))
    recordings: dict[str, Path] = field(default_factory=dict)

    @property
    def group(self) -> int:
        """Frames of a latent frame."""
        return self.steppers[self.chosen].group

    @property
    def latent_seconds(self) -> float:
        """How long a latent frame lasts, at the environment's own speed."""
        return self.group / self.starts.frame_rate

    def close(self) -> None:
        """Let the threads end; what waits in line is dropped."""
        for pool in (self.model, self.simulator, self.recorder):
            pool.shutdown(wait=True, cancel_futures=True)


def measured(
    make: Callable[[Sampler], Stepper], sampler: Sampler, start: Start, latents: int, wanted: str, latent_seconds: float
) -> tuple[dict[str, Stepper], dict[str, Quality], str]:
    """Find by a short measurement which samplers the machine can play with.

    Args:
        make: a stepper for a sampler.
        sampler: the fine one.
        start, latents: what to dream on from.
        wanted: fast, fine, or auto: fine if it reaches real time.
        latent_seconds: how long a latent frame lasts.

    Returns:
        steppers and qualities by name, and the name of the one to begin with.
    """
    steppers, times = {"fine": make(sampler)}, dict[int, float]()
    rows = 1 + latents * steppers["fine"].group
    deadline = time.perf_counter() + MEASURED_S

    def seconds(stepper: Stepper, until: float) -> float:
        moment, _ = stepper.begin(start.frames[None, :rows], start.actions[None, :rows])
        actions = start.actions[None, rows - stepper.group : rows]
        took = list[float]()
        while len(took) < 2 or (time.perf_counter() < until and len(took) < 32):
            before = time.perf_counter()
            moment, _ = stepper.step(moment, actions, [0])
            took.append(time.perf_counter() - before)
        return statistics.median(took[1:])  # the first warms up

    times[sampler.steps] = seconds(steppers["fine"], deadline - 0.6 * MEASURED_S)
    steps = sampler.steps
    while times[steps] > SHARE * latent_seconds and steps > 1:
        # Time grows with the evaluations; what is not the network's is not known yet, hence a step at a time.
        most = int(SHARE * latent_seconds / times[steps] * steps)
        steps = max(1, min(steps - 1, most))
        steppers["fast"] = make(replace(sampler, steps=steps))
        times[steps] = seconds(steppers["fast"], deadline - 0.3 * MEASURED_S)
    if "fast" not in steppers:
        # Real time is reached: fast is what leaves room for other pages.
        steps = max(1, (sampler.steps + 1) // 3)
        steppers["fast"] = make(replace(sampler, steps=steps))
        times[steps] = seconds(steppers["fast"], deadline)
    qualities = {
        "fast": Quality(steps, 1e3 * times[steps]), "fine": Quality(sampler.steps, 1e3 * times[sampler.steps]),
    }  # fmt: skip
    fits = times[sampler.steps] <= SHARE * latent_seconds
    return steppers, qualities, wanted if wanted != "auto" else "fine" if fits else "fast"
