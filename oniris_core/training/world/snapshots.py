"""Averages of the weights that are kept on the way, so that other averages can be made of them afterwards."""

from collections.abc import Collection
from pathlib import Path

from torch import nn

from oniris_core.training.fit.optimiser.ema import PowerEma
from oniris_core.world.averages import snapshot_file, whole_snapshot, write_snapshot


class SnapshotEma(PowerEma):
    """A `PowerEma` that is written to a file in `folder` (None: nowhere) as it stands after some of the steps.

    A run that resumes writes the files after its checkpoint once more, with the same bytes; those before are there.
    """

    def __init__(self, model: nn.Module, width: float, steps: Collection[int], folder: Path | None):
        super().__init__(model, width)
        self._steps, self._folder = frozenset(steps), folder

    def update(self, model: nn.Module, step: int) -> None:
        """As `PowerEma.update`."""
        super().update(model, step)
        if self._folder and step + 1 in self._steps:
            write_snapshot(snapshot_file(self._folder, self.width, step + 1), self.model)

    def lost(self, steps: int) -> Path | None:
        """As `PowerEma.lost`."""
        files = (
            snapshot_file(self._folder, self.width, at) for at in sorted(self._steps) if self._folder and at <= steps
        )
        return next((file for file in files if whole_snapshot(file) is None), None)
