"""A picture of how a training stands, drawn anew from time to time."""

import io
import time
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from oniris_core.common.artefacts.files import atomic_write
from oniris_core.training.fit.state import TrainState

EVERY_SECONDS = 180.0
"""From one picture to the next: seldom enough to cost nothing, whatever the steps take."""


class Dashboard:
    """Keeps `file`, a PNG, up to date.

    Args:
        file: the picture.
        draw: makes it. It must leave the state, and torch's own random numbers, as they are.
    """

    def __init__(self, file: Path, draw: Callable[[TrainState], Figure]):
        self._file, self._draw, self._drawn = file, draw, time.perf_counter()

    def see(self, state: TrainState) -> None:
        """Draw, if it is time."""
        if state.step and time.perf_counter() - self._drawn >= EVERY_SECONDS:
            data = io.BytesIO()
            self._draw(state).savefig(data, format="png", dpi=100, metadata={"Software": None})
            atomic_write(self._file, data.getvalue())
            self._drawn = time.perf_counter()
