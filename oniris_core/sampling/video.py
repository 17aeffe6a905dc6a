"""Rollouts of whole videos: continued under any actions, decoded as they come, in constant memory.

Axes: B rollouts side by side, T frames, H, W; c frames of a latent frame.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from oniris_core.sampling.stepper import Moment, Stepper


def rollout(
    stepper: Stepper, context: np.ndarray, actions: Iterable[np.ndarray], seed: int = 0
) -> Iterator[np.ndarray]:
    """Continue videos under the given actions for as long as there are any, in constant memory.

    Args:
        stepper: the model with its VAE and a sampler, from `oniris_core.load`.
        context: uint8 [B, T, H, W, 3], from the first frame of an episode on, T = 1 + k c frames (the groups of
            `oniris_core.data.episodes.groups`; a latent frame covers c).
        actions: per frame, [B] or [B, components], the actions that led to it: those of the context first (its first
            frame is the reset, any action will do), then those of the frames to come, asked for when they are needed.
        seed: of the noise; row b of the batch has noise of its own.

    Returns:
        An iterator over uint8 [B, c, H, W, 3], the next c frames. It ends when the actions do; fewer than c are dropped.

    Raises:
        ValueError: at once: a context of the wrong shape, or actions too few or of another
            space. While iterating: actions of another space.
    """
    coming = iter(actions)
    T = context.shape[1] if context.ndim > 1 else 0
    known = list(islice(coming, T))
    if len(known) < T:
        raise ValueError(f"a context of shape {list(context.shape)} needs {T} actions, there are {len(known)}")
    moment, _ = stepper.begin(context, side_by_side(known))
    return _go_on(stepper, moment, coming, [seed * 2**32 + b for b in range(len(context))])


def side_by_side(actions: list[np.ndarray]) -> np.ndarray:
    """[B, T, ...] of T actions [B, ...]. Raises ValueError if they are of different shapes."""
    if len(shapes := {np.shape(action) for action in actions}) > 1:
        raise ValueError(f"actions of different shapes: {sorted(map(list, shapes))}")
    return np.stack(actions, axis=1)


def _go_on(stepper: Stepper, moment: Moment, coming: Iterator[np.ndarray], seeds: list[int]) -> Iterator[np.ndarray]:
    while len(taken := list(islice(coming, stepper.group))) == stepper.group:
        moment, frames = stepper.step(moment, side_by_side(taken), seeds)
        yield frames
