"""Curves of a training while it runs, for the programs that draw them.

They are made from the history that the checkpoint keeps, from its beginning after every resume: no gap, no point twice.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from oniris_core.common.errors import UserError
from oniris_core.training.fit.state import TrainState

POINTS = 200


class Writer(Protocol):
    """Takes the points of curves, in the order of steps."""

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values after `step` steps."""
        ...


class Curves:
    """Hands the mean of every run of steps, `POINTS` in all, to the writers."""

    def __init__(self, steps: int, writers: list[Writer]):
        self._every, self._writers, self._written = max(steps // POINTS, 1), writers, 0

    def see(self, state: TrainState) -> None:
        """Write the points that have become complete."""
        while self._written + self._every <= state.step:
            run, self._written = slice(self._written, self._written + self._every), self._written + self._every
            values = means(state.history, run)
            for write in self._writers:
                write(self._written, values)


def means(history: Mapping[str, Tensor], run: slice) -> dict[str, float]:
    """The mean of each curve over a run of steps; a curve without a value there is left out."""
    found = {name: float(values[run].nanmean()) for name, values in sorted(history.items())}
    return {name: value for name, value in found.items() if not torch.isnan(torch.tensor(value))}


def dvclive_writer(folder: Path, say: Callable[[str], None]) -> list[Writer]:
    """A writer of DVCLive's tables in `folder`, which is emptied; none, with a note, where DVCLive cannot work."""
    try:
        from dvclive.live import Live
    except ImportError:
        say("note: no live curves: the package dvclive is missing; training goes on")
        return []

    shutil.rmtree(folder, ignore_errors=True)
    try:
        live = Live(str(folder), dvcyaml=None, save_dvc_exp=False, report=None)
    except Exception as error:  # a git repository without a commit is too little for it
        say(f"note: no live curves: DVCLive cannot work here ({' '.join(str(error).split())}); training goes on")
        return []

    def write(step: int, values: Mapping[str, float]) -> None:
        live.step = step
        for name, value in values.items():
            live.log_metric(name, value)
        live.make_summary()

    return [write]


def while_possible(write: Writer, say: Callable[[str], None]) -> Writer:
    """The same writer until it fails, which is said once: a picture less must not end a training."""
    broken = False

    def attempt(step: int, values: Mapping[str, float]) -> None:
        nonlocal broken
        try:
            if not broken:
                write(step, values)
        except OSError as error:
            broken = True
            say(
                f"note: no more live curves: {error.filename or 'their folder'}: {error.strerror or error}; training goes on"
            )

    return attempt


def tensorboard_writer(folder: Path) -> Writer:
    """A writer of TensorBoard's events in `folder`, which is emptied.

    Raises:
        UserError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "tensorboard = true needs TensorBoard: pip install tensorboard (the extra `tensorboard`)"
        ) from None

    shutil.rmtree(folder, ignore_errors=True)
    events = SummaryWriter(str(folder))

    def write(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            events.add_scalar(name, value, step)
        events.flush()

    return write
