"""LunarLander: the lander by its colour, its angle by a network on crops, the terrain by its brightness."""

import numpy as np
from scipy import ndimage

from oniris_core.evaluation.fidelity.positions import LANDER_MASS, lunar_lander_position, violet
from oniris_core.evaluation.probes.states.reader import Quantity, StateReader


def true_position(states: np.ndarray) -> np.ndarray:
    """Screen position [..., 2] of the lander of recorded states [..., 8]; beyond the screen too."""
    return np.stack([(states[..., 0] + 1) * 300, (1.403 - states[..., 1]) * 200], axis=-1)


def landers(frames: np.ndarray) -> np.ndarray:
    """How many separate violet things [N] each frame [N, H, W, 3] shows, of a pixel or more."""
    mask = violet(frames)
    side_by_side = np.zeros((3, 3, 3))
    side_by_side[1] = 1  # pixels that touch, corners too, in the same frame
    label, found = ndimage.label(mask > 0, side_by_side)
    where = np.nonzero(mask)
    thing, frame = label[where], np.zeros(found + 1, np.int64)
    mass = np.bincount(thing, mask[where], minlength=found + 1)
    frame[thing] = where[0]
    return np.bincount(frame[mass > LANDER_MASS], minlength=len(frames))


def terrain(frames: np.ndarray) -> np.ndarray:
    """Bool [..., H, W]: the white ground; neither the lander nor flags and exhaust are white."""
    return (frames[..., 0] > 140) & (frames[..., 1] > 140) & (frames[..., 2] > 140)


def sky(frames: np.ndarray) -> np.ndarray:
    """Bool [..., H, W]: black, and two pixels from anything else."""
    dark = frames.max(-1) < 40
    near = np.ones((1,) * (dark.ndim - 2) + (5, 5))
    return ndimage.binary_erosion(dark, near, border_value=1)


READER = StateReader(
    screen=(600, 400),
    position=lunar_lander_position,
    true_position=true_position,
    quantities=(Quantity("angle", "deg", lambda states: np.rad2deg(states[..., 4]), 360.0),),
    count=landers,
    still=terrain,
    empty=sky,
)
