"""CartPole: the cart by its blackness, the pole's angle by where its brown lies as seen from the axle."""

import numpy as np

from oniris_core.evaluation.fidelity.positions import cart_pole_position, centroid
from oniris_core.evaluation.probes.states.reader import Quantity, StateReader

_AXLE_Y = 292.5  # screen pixels from the top


def pole_angle(frames: np.ndarray) -> np.ndarray:
    """Degrees [...] from upright, to the right; NaN without cart or pole."""
    rgb = frames.astype(np.int16)
    brown = np.clip(rgb[..., 0] - rgb[..., 2] - 16, 0, None).astype(np.float64)
    pole, cart = centroid(brown, (600, 400), least=200), cart_pole_position(frames)
    return np.rad2deg(np.arctan2(pole[..., 0] - cart[..., 0], _AXLE_Y - pole[..., 1]))


def true_position(states: np.ndarray) -> np.ndarray:
    """Screen position [..., 2] of the cart of recorded states [..., 4]."""
    x = states[..., 0] * 600 / 4.8 + 300
    return np.stack([x, np.full_like(x, 300)], axis=-1)


READER = StateReader(
    screen=(600, 400),
    position=cart_pole_position,
    true_position=true_position,
    quantities=(Quantity("angle", "deg", lambda states: np.rad2deg(states[..., 2]), 360.0, pole_angle),),
)
