"""Which action was taken, read off the frames it led to: a probe trained on true frames, asked about generated ones.

A group is the c frames of a latent frame; the probe sees them and the frame before, as one crop round the object where
the environment's frames can be read, else whole. Groups in which the action changes have no answer and do not count.
Axes: N groups, K episodes, G groups of an episode.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from oniris_core.common.seeds import numpy_rng
from oniris_core.data.episodes.store import EpisodeStore
from oniris_core.data.rows.actions import ActionSpec
from oniris_core.data.rows.clips import TRAIN
from oniris_core.evaluation.probes.small_cnn import SmallCnn, apply, crops, fit, shrink
from oniris_core.evaluation.probes.states.reader import StateReader

TRAINING_GROUPS = 16384
"""At most; more make no difference to so small a network."""


@dataclass(frozen=True)
class Answers:
    """What the probe says about groups [N].

    Attributes:
        readable: bool [N], false where the object was not found, so that there was nothing to look at.
        features: float32 [N, F], the last hidden layer of the first network; zeros where not readable.
        outputs: float32 [N, D], mean logits of the choices, or mean values; zeros where not readable.
    """

    readable: np.ndarray
    features: np.ndarray
    outputs: np.ndarray


class ActionProbe:
    """Trained networks whose outputs are averaged: what one alone says of frames unlike the true ones hangs on its seed."""

    def __init__(self, nets: list[SmallCnn], spec: ActionSpec, reader: StateReader | None, device: torch.device):
        self._nets, self._reader, self._device, self.spec = nets, reader, device, spec

    def __call__(self, groups: np.ndarray) -> Answers:
        """Answers about groups uint8 [N, 1 + c, H, W, 3], the frame before and the group."""
        images, readable = look(groups, self._reader)
        all_found = [apply(net, images, self._device) for net in self._nets]
        found = all_found[0][0], np.mean([outputs for _, outputs in all_found], axis=0, dtype=np.float32)
        features, outputs = (np.zeros((len(groups), part.shape[1]), np.float32) for part in found)
        features[readable], outputs[readable] = found
        return Answers(readable, features, outputs)


def groups_of(video: np.ndarray, first: int, c: int) -> np.ndarray:
    """The groups of a video [T, ...] from frame `first` on, each with the frame before it: [G, 1 + c, ...]."""
    count = (len(video) - first) // c
    return video[first + np.arange(count)[:, None] * c + np.arange(-1, c)]


def look(groups: np.ndarray, reader: StateReader | None) -> tuple[np.ndarray, np.ndarray]:
    """What the probe sees: uint8 [n, s, s', 3 (1 + c)], of the n readable groups, and bool [N], which are readable."""
    stacked = groups.transpose(0, 2, 3, 1, 4).reshape(len(groups), *groups.shape[2:4], -1)
    if reader is None:
        return shrink(stacked), np.ones(len(groups), bool)
    position = reader.position(groups)  # [N, 1 + c, 2]
    seen = np.isfinite(position)
    readable = seen[..., 0].any(1)
    centre = np.where(seen, position, 0).sum(1)[readable] / seen.sum(1)[readable]
    return crops(stacked[readable], centre, reader.screen), readable


def targets(spec: ActionSpec, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the probe should say about groups.

    Args:
        spec: the action space.
        actions: [N, c] or [N, c, components], in the environment's values.

    Returns:
        Choices int64 [N, components], or for a box its scaled mean values float32 [N, components]; and bool [N], whether
        there is an answer.
    """
    if spec.kind == "box":
        return spec.encode(actions).mean(1), np.ones(len(actions), bool)
    values = actions[..., None] if spec.kind == "discrete" else actions
    steady = (values == values[:, :1]).all((1, 2))
    start = np.asarray(spec.start or (0,) * len(spec.sizes))
    return values[:, 0].astype(np.int64) - start, steady


def choices(spec: ActionSpec) -> tuple[int, ...]:
    """How many choices each component has; empty for a box."""
    if spec.kind == "box":
        return ()
    return (2,) * len(spec.sizes) if spec.kind == "multi_binary" else spec.sizes


def train_probe(
    store: EpisodeStore,
    reader: StateReader | None,
    c: int,
    *,
    probes: int,
    steps: int,
    seed: int,
    device: torch.device,
    tick: Callable[[], None],
) -> ActionProbe | None:
    """Train `probes` networks on true groups of training episodes; None if not one can be read and has an answer."""
    images, wanted, total = [], [], 0
    episodes = store.episodes(TRAIN)
    for episode in numpy_rng(seed, "action_probe").permutation(episodes):
        start, end = store.bounds(episode)
        groups = groups_of(store.frames[start:end], 1, c)
        actions = groups_of(store.actions[start:end], 1, c)[:, 1:]
        answer, steady = targets(store.action_spec, actions)
        if not steady.any():
            continue
        seen, readable = look(groups[steady], reader)
        images.append(seen)
        wanted.append(answer[steady][readable])
        total += len(seen)
        if total >= TRAINING_GROUPS:
            break
    if not total:
        return None
    target = torch.from_numpy(np.concatenate(wanted)).to(device)
    sizes = choices(store.action_spec)

    def loss(outputs: torch.Tensor, chosen: np.ndarray) -> torch.Tensor:
        wanted = target[chosen]
        if not sizes:
            return F.mse_loss(outputs, wanted)
        parts = zip(outputs.split(sizes, dim=1), wanted.unbind(1), strict=True)
        return torch.stack([F.cross_entropy(logits, choice) for logits, choice in parts]).mean()

    width = sum(sizes) or len(store.action_spec.sizes)
    shown = np.concatenate(images)
    nets = [
        fit(shown, width, loss, steps=steps, seed=seed, purpose=f"action_probe/{i}", device=device, tick=tick)
        for i in range(probes)
    ]
    return ActionProbe(nets, store.action_spec, reader, device)


def chosen(spec: ActionSpec, outputs: np.ndarray) -> np.ndarray:
    """int64 [N, components]: the likeliest choice of each component."""
    ends = np.cumsum(choices(spec))
    return np.stack([part.argmax(1) for part in np.split(outputs, ends[:-1], axis=1)], axis=1)
