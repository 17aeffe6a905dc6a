"""A picture of how a training stands, drawn anew from time to time."""

import io
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from oniris_core.common.artefacts.files import atomic_write
from oniris_core.training.fit.state import TrainState


class Dashboard:
    """Keeps `file`, a PNG, up to date.

    Args:
        file: the picture.
        every: steps from one picture to the next; 0: none.
        draw: makes it. It must leave the state, and torch's own random numbers, as they are.
    """

    def __init__(self, file: Path, every: int, draw: Callable[[TrainState], Figure]):
        self._file, self._every, self._draw, self._drawn = file, every, draw, 0

    def see(self, state: TrainState) -> None:
        """Draw, if it is time."""
        if self._every and state.step // self._every > self._drawn:
            self._drawn = state.step // self._every
            data = io.BytesIO()
            self._draw(state).savefig(data, format="png", dpi=100, metadata={"Software": None})
            atomic_write(self._file, data.getvalue())
