"""Around a training: the processes that take part, the folder of its unfinished work, and who looks on."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure

from oniris_core.common.artefacts.runs import runs_folder, workspace
from oniris_core.common.process import StopRequest, stop_requests
from oniris_core.training.fit.machine.distributed import Ranks, process_group
from oniris_core.training.fit.params import TrainingParams
from oniris_core.training.fit.state import TrainState
from oniris_core.training.fit.trainer import Observer
from oniris_core.training.fit.watch.curves import Curves, dvclive_writer, tensorboard_writer, while_possible
from oniris_core.training.fit.watch.dashboard import Dashboard


@dataclass(frozen=True)
class Session:
    """What a training runs in.

    Attributes:
        ranks: who takes part.
        folder: of unfinished work; None on all ranks but the first, which alone writes.
        stop: set by signals.
    """

    ranks: Ranks
    folder: Path | None
    stop: StopRequest


@contextlib.contextmanager
def session(stage: str, out: Path, device: torch.device, **inputs: object) -> Iterator[Session]:
    """Join the other processes and, on the first of them, open the workspace of `out`; see `workspace` for `inputs`."""
    with contextlib.ExitStack() as stack:
        ranks = stack.enter_context(process_group(device))
        folder = stack.enter_context(workspace(stage, out, device=device.type, **inputs)) if ranks.first else None
        yield Session(ranks, folder, stack.enter_context(stop_requests()))


def onlookers(
    stage: str,
    params: TrainingParams,
    folder: Path | None,
    draw: Callable[[TrainState], Figure],
    say: Callable[[str], None],
) -> list[Observer]:
    """DVCLive, TensorBoard if wanted, and the dashboard, in `folder`; nobody where there is none.

    Args:
        stage: its name.
        params: what is wanted.
        folder: of unfinished work.
        draw: draws the dashboard.
        say: takes lines for the person.
    """
    if folder is None:
        return []
    writers = dvclive_writer(folder / "live", say)
    if params.tensorboard:
        writers.append(tensorboard_writer(runs_folder() / "tensorboard" / stage))
    writers = [while_possible(writer, say) for writer in writers]
    say(f"{stage}: curves are in {folder / 'live'}, and every few minutes a picture in {folder / 'dashboard.png'}")
    return [Curves(params.steps, writers), Dashboard(folder / "dashboard.png", draw)]
