"""Reads an object's position off a picture, where an environment's pictures allow it. Add a function to add one."""

from collections.abc import Callable

import numpy as np

StateProbe = Callable[[np.ndarray], np.ndarray]
"""uint8 frames [..., H, W, 3] to positions [..., 2] in pixels of the simulator's own screen; NaN where not found."""

LANDER_MASS = 100
"""Violet, in grey levels over all pixels, above which it is a lander: about one whole pixel."""


def violet(frames: np.ndarray) -> np.ndarray:
    """float64 [..., H, W]: blue above red and green, the lander's colour. Below 32 grey levels it is a codec's noise."""
    rgb = frames.astype(np.int16)
    excess = (rgb[..., 2] - np.maximum(rgb[..., 0], rgb[..., 1])).astype(np.float64)
    return np.where(excess > 32, excess, 0)


def centroid(mask: np.ndarray, screen: tuple[int, int], least: float) -> np.ndarray:
    """Centre [..., 2] of the weights [..., H, W] on a screen of this width and height; NaN where they add up to less."""
    mass = mask.sum((-2, -1))
    height, width = mask.shape[-2:]
    x = ((np.arange(width) + 0.5) * mask.sum(-2)).sum(-1) / np.maximum(mass, 1) * screen[0] / width
    y = ((np.arange(height) + 0.5) * mask.sum(-1)).sum(-1) / np.maximum(mass, 1) * screen[1] / height
    return np.where((mass > least)[..., None], np.stack([x, y], axis=-1), np.nan)


def lunar_lander_position(frames: np.ndarray) -> np.ndarray:
    """The lander's centre on the 600 x 400 screen: the centroid of its violet, weighted by how violet a pixel is."""
    return centroid(violet(frames), (600, 400), LANDER_MASS)


def cart_pole_position(frames: np.ndarray) -> np.ndarray:
    """The cart's centre on the 600 x 400 screen, by its blackness; its track is a line too thin to be as dark."""
    dark = np.clip(175 - frames.max(-1).astype(np.int16), 0, None).astype(np.float64)
    found = centroid(dark, (600, 400), 200)
    return np.stack(
        [found[..., 0], np.where(np.isfinite(found[..., 0]), 300, np.nan)], axis=-1
    )  # it moves sideways only


PROBES: dict[str, StateProbe] = {"LunarLander": lunar_lander_position, "CartPole": cart_pole_position}


def probe_for(env_id: str | None) -> StateProbe | None:
    """The probe of an environment, whatever its version; None where there is none, or no environment."""
    return PROBES.get((env_id or "").rpartition("-v")[0])
