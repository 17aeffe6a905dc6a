"""Quantities that no formula reads off a frame: a small network learns them from the recorded states."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from oniris_core.common.seeds import numpy_rng
from oniris_core.data.episodes.store import EpisodeStore
from oniris_core.data.rows.clips import HELD_OUT, TRAIN
from oniris_core.evaluation.measures.horizons import LearnedQuantity
from oniris_core.evaluation.probes.small_cnn import apply, crops, fit
from oniris_core.evaluation.probes.states.reader import Quantity, StateReader

FRAMES = 16384
"""Trained on at most; more make no difference to so small a network."""


def learn(
    quantity: Quantity,
    reader: StateReader,
    store: EpisodeStore,
    states: np.ndarray,
    *,
    steps: int,
    seed: int,
    device: torch.device,
    tick: Callable[[], None],
) -> LearnedQuantity | None:
    """Train on crops round the object in training frames; measure on held-out ones. None where no frame shows it.

    A value with a period is learned as its point on the circle, another in units of its standard deviation.
    """
    images, values = _examples(quantity, reader, store, states, TRAIN, seed)
    if not len(images):
        return None
    centre, scale = float(values.mean()), float(values.std() or 1)
    if quantity.period is not None:
        phase = torch.from_numpy(values * 2 * np.pi / quantity.period).float().to(device)
        target = torch.stack([phase.sin(), phase.cos()], dim=1)
    else:
        target = torch.from_numpy((values - centre) / scale).float().to(device)[:, None]

    def loss(outputs: torch.Tensor, chosen: np.ndarray) -> torch.Tensor:
        return F.mse_loss(outputs, target[chosen])

    net = fit(images, target.shape[1], loss, steps=steps, seed=seed, purpose=quantity.name, device=device, tick=tick)

    def value(images: np.ndarray) -> np.ndarray:
        outputs = apply(net, images, device)[1].astype(np.float64)
        if quantity.period is None:
            return outputs[:, 0] * scale + centre
        return np.arctan2(outputs[:, 0], outputs[:, 1]) * quantity.period / (2 * np.pi)

    def read(frames: np.ndarray) -> np.ndarray:
        flat = frames.reshape(-1, *frames.shape[-3:])
        position = reader.position(flat)
        seen = np.isfinite(position[:, 0])
        found = np.full(len(flat), np.nan)
        found[seen] = value(crops(flat[seen], position[seen], reader.screen))
        return found.reshape(frames.shape[:-3])

    unseen, true = _examples(quantity, reader, store, states, HELD_OUT, seed)
    own_error = float(quantity.distance(value(unseen), true).mean()) if len(unseen) else np.inf
    return LearnedQuantity(replace(quantity, read=read), own_error)


def _examples(
    quantity: Quantity, reader: StateReader, store: EpisodeStore, states: np.ndarray, split: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Crops uint8 [N, s, s, 3] of frames in which the object is seen, and the values [N] there."""
    images, values, total = [], [], 0
    for episode in numpy_rng(seed, quantity.name).permutation(store.episodes(split)):
        start, end = store.bounds(episode)
        frames = store.frames[start:end]
        position = reader.position(frames)
        seen = np.isfinite(position[:, 0])
        images.append(crops(frames[seen], position[seen], reader.screen))
        values.append(quantity.from_states(states[start:end][seen]).astype(np.float64))
        total += int(seen.sum())
        if total >= FRAMES:
            break
    if not images:
        return np.zeros((0, 1, 1, 3), np.uint8), np.zeros(0)
    return np.concatenate(images), np.concatenate(values)
