"""Stops a training that has gone wrong before it wastes days, and says where."""

import math
from collections import deque
from collections.abc import Callable

from oniris_core.common.errors import OnirisError
from oniris_core.training.fit.params import FitParams
from oniris_core.training.fit.state import TrainState

SMOOTH = 20
"""Steps over which the error is averaged before it is compared with its lowest."""


EXPLOSION = 20.0
"""A training stops when its error is this many times the lowest it had."""


class Guard:
    """Watches the loss, the gradient and the error of every step.

    Args:
        state: of the training; steps that are left out are counted in it.
        gauge: the logged value that stands for the error, above 0.
        params: how many steps may be left out.
        describe: says where the data of a step came from.
        name: of the training.
    """

    def __init__(self, state: TrainState, gauge: str, params: FitParams, describe: Callable[[int], str], name: str):
        self._state, self._gauge, self._params, self._describe, self._name = state, gauge, params, describe, name
        self.saved = state.step  # after which step the last good checkpoint was written
        self._recent, self._lowest = deque[float](maxlen=SMOOTH), math.inf
        for step in range(state.step):
            self._take(step)

    def lets_pass(self, step: int, loss: float, norm: float) -> bool:
        """Whether loss and gradient norm of a step are finite. If not, the step is counted as left out.

        Raises:
            OnirisError: there were more of those than allowed.
        """
        if math.isfinite(loss) and math.isfinite(norm):
            return True
        self._state.skipped += 1
        if self._state.skipped > self._params.skip_steps:
            what = "gradient" if math.isfinite(loss) else "loss"
            before = f" (and {self._state.skipped - 1} steps before it)" if self._state.skipped > 1 else ""
            raise self._error(f"{what} is not finite at step {step}{before}", step)
        return False

    def look_back(self, step: int) -> None:
        """Raise OnirisError if the error, averaged over the steps up to `step`, is far above the lowest it had.

        Called for every step, in order.
        """
        mean = self._take(step)
        if mean > EXPLOSION * self._lowest:
            raise self._error(
                f"the error ({self._gauge}) has exploded: {mean:.3g} over the steps to {step}, it was {self._lowest:.3g}",
                step,
            )

    def _take(self, step: int) -> float:
        value = float(self._state.history[self._gauge][step]) if self._gauge in self._state.history else math.nan
        if math.isfinite(value):
            self._recent.append(value)
        if len(self._recent) < SMOOTH:
            return 0.0
        mean = sum(self._recent) / SMOOTH
        self._lowest = min(self._lowest, mean)
        return mean

    def _error(self, what: str, step: int) -> OnirisError:
        return OnirisError(
            f"{self._name}: {what} ({self._describe(step)}); the last good checkpoint is that of step {self.saved}; "
            "lower the learning rate or look at these episodes"
        )
