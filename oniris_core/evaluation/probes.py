"""Reads the physical state off a picture, where an environment's pictures allow it. Add a function to add one."""

from collections.abc import Callable

import numpy as np

StateProbe = Callable[[np.ndarray], np.ndarray]
"""uint8 frames [..., H, W, 3] to positions [..., 2] in pixels of the simulator's own screen; NaN where not found."""


def lunar_lander_position(frames: np.ndarray) -> np.ndarray:
    """The lander's centre on the 600 x 400 screen: the centroid of its violet, weighted by how violet a pixel is.

    Violet is blue above red and green. Below 32 grey levels it is a codec's noise rather than the lander; a lander that
    fills less than about one whole pixel (100 grey levels in all) counts as not found.
    """
    rgb = frames.astype(np.int16)
    violet = (rgb[..., 2] - np.maximum(rgb[..., 0], rgb[..., 1])).astype(np.float64)
    violet = np.where(violet > 32, violet, 0)
    mass = violet.sum((-2, -1))
    height, width = frames.shape[-3:-1]
    x = ((np.arange(width) + 0.5) * violet.sum(-2)).sum(-1) / np.maximum(mass, 1) * 600 / width
    y = ((np.arange(height) + 0.5) * violet.sum(-1)).sum(-1) / np.maximum(mass, 1) * 400 / height
    return np.where((mass > 100)[..., None], np.stack([x, y], axis=-1), np.nan)


PROBES: dict[str, StateProbe] = {"LunarLander": lunar_lander_position}


def probe_for(env_id: str) -> StateProbe | None:
    """The probe of an environment, whatever its version, or None."""
    return PROBES.get(env_id.rpartition("-v")[0])
