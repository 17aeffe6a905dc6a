"""What an environment's pictures tell of its physical state: `frame -> state`. One file of this folder per environment.

Frames are uint8 [..., H, W, 3] of any size; positions are in pixels of the simulator's own screen.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Frames = np.ndarray


@dataclass(frozen=True)
class Quantity:
    """One number that a frame shows.

    Attributes:
        name: in the names of metrics, such as "angle".
        unit: behind it, such as "deg".
        from_states: recorded states [..., S] to its true value [...].
        period: after which it repeats; None for what does not.
        read: frames to its value [...], NaN where it cannot be seen; None if a network has to learn it from the recorded
            states, on crops round the object.
    """

    name: str
    unit: str
    from_states: Callable[[np.ndarray], np.ndarray]
    period: float | None = None
    read: Callable[[Frames], np.ndarray] | None = None

    @property
    def metric(self) -> str:
        """The name of the error in it: name and unit."""
        return f"{self.name}_{self.unit}"

    def distance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Absolute difference, the short way round."""
        difference = np.abs(a - b)
        if self.period is None:
            return difference
        difference = difference % self.period
        return np.minimum(difference, self.period - difference)


@dataclass(frozen=True)
class StateReader:
    """How to read an environment's frames.

    Attributes:
        screen: width and height of the simulator's screen, pixels.
        position: frames to the object's centre [..., 2] on that screen (x, y); NaN where it is not found.
        true_position: recorded states [..., S] to the same.
        quantities: what else can be read, or learned.
        count: frames [N, H, W, 3] to how many objects [N] each shows, where that should be one.
        still: frames to bool [..., H, W], what never moves within an episode.
        empty: frames to bool [..., H, W], where nothing is: what stands there later is noise.
    """

    screen: tuple[int, int]
    position: Callable[[Frames], np.ndarray]
    true_position: Callable[[np.ndarray], np.ndarray]
    quantities: tuple[Quantity, ...] = ()
    count: Callable[[Frames], np.ndarray] | None = None
    still: Callable[[Frames], np.ndarray] | None = None
    empty: Callable[[Frames], np.ndarray] | None = None

    def locate(self, frames: Frames) -> np.ndarray:
        """`position`, NaN also where a frame shows several objects: drawing two to be half right does not pay."""
        position = self.position(frames)
        if self.count is None:
            return position
        one = self.count(frames.reshape(-1, *frames.shape[-3:])).reshape(frames.shape[:-3]) == 1
        return np.where(one[..., None], position, np.nan)


def still_iou(reader: StateReader, context: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """How much of what never moves is where it was: intersection over union [T].

    Args:
        reader: with a `still`.
        context: the frame [H, W, 3] it is compared with.
        frames: [T, H, W, 3].
    """
    assert reader.still is not None
    before, now = reader.still(context), reader.still(frames)
    union = (before | now).sum((1, 2))
    return np.where(union > 0, (before & now).sum((1, 2)) / np.maximum(union, 1), np.nan)
