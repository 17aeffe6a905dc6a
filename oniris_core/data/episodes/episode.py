"""One recorded episode, in memory."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Episode:
    """A recorded episode of T rows. Row i holds a frame and the step that LED to it; row 0 is the reset.

    Row 0's action is a filler (zeros, or the first choice of a space that starts elsewhere), its reward 0 and its flags false.

    Attributes:
        frames: uint8 [T, H, W, 3].
        actions: [T] or [T, components], in the environment's own values.
        rewards: float32 [T], summed over the environment steps between two rows.
        terminated, truncated: bool [T]; `truncated` is also set where `max_frames` ended the recording.
        states: float32 [T, S], the environment's observation where it is a vector, else [T, 0].
        seed: what the environment was reset with.
    """

    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    states: np.ndarray
    seed: int


ROW_ARRAYS = ("frames", "actions", "rewards", "terminated", "truncated", "states")
