"""An eye for policies: a network that reads the simulator's state off latent frames, learned from what was recorded.

Reinforcement learning learns to see slowly: a reward says little of where things are. What the environment itself observed
stands in the episode store, so seeing is learned first, by regression, and the policy acts on what is read (docs/recipe.md has
how much that is worth). Dreams are read by the same eye; neither the model nor a policy at work is ever told a state.

Axes: N observations, K latent frames of each, C channels, A features of an action, S numbers of a state, h, w.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from oniris_core.common.errors import UserError
from oniris_core.common.seeds import numpy_rng, torch_generator
from oniris_core.data.episodes.store import EpisodeStore
from oniris_core.data.latents.store import LatentStore
from oniris_core.policy.judge import Tick
from oniris_core.policy.seen import with_actions
from oniris_core.training.fit.checkpoints import Checkpoints

CHANNELS, KEPT_CHANNELS, WIDTH = 48, 16, 128
"""Of the two convolutions, of what is kept of each pixel, and of the dense layer."""
LARGER = 3.0
"""By which changes from frame to frame are multiplied: they are smaller than what changes."""
STEPS, BATCH, LR, WEIGHT_DECAY = 2500, 128, 1e-3, 1e-2
"""Of its training, with AdamW; the learning rate falls to zero in a straight line."""
WITHOUT_PAST = 0.3
"""Share of its examples whose older frames are left out: dreams begin in the middle of episodes, with nothing before."""
DELTA = 0.5
"""Errors beyond it, in standard deviations, count linearly (Huber 1964): nobody can read a state that is out of sight."""
MOST_LATENTS, MOST_HELD_OUT = 2**17, 2**14
"""Latent frames that it learns from, and is judged by, at most: those of the first episodes. They are held in memory."""


class Eye(BaseFeaturesExtractor):
    """For Stable-Baselines3, from float32 [N, K (C + A), h, w], the newest last, to standardised states [N, S].

    It is not trained with the policy. A frame of zeros is one that is not there, before an episode began.
    """

    grid: Tensor

    def __init__(self, observation_space: gym.spaces.Box, frames: int, action_features: int, numbers: int):
        """Make it.

        Args:
            observation_space: of K latent frames one after the other, behind each the planes of its action.
            frames: K.
            action_features: A.
            numbers: S.
        """
        super().__init__(observation_space, numbers)
        depth, height, width = observation_space.shape
        self.frames, self.channels = frames, depth // frames - action_features
        y, x = (torch.linspace(-1, 1, size) * 3**0.5 for size in (height, width))
        self.register_buffer("grid", torch.stack(torch.meshgrid(y, x, indexing="ij")), persistent=False)
        self.first = nn.Conv2d(self.channels * frames + 2, CHANNELS, 3, padding=1)
        self.second = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.kept = nn.Conv2d(CHANNELS, KEPT_CHANNELS, 1)
        self.dense = nn.Linear(KEPT_CHANNELS * height * width + frames * action_features, WIDTH)
        self.states = nn.Linear(WIDTH, numbers)
        self.requires_grad_(False)

    def forward(self, observations: Tensor) -> Tensor:
        """float32 [N, S]."""
        shown = observations.unflatten(1, (self.frames, -1))
        frames, actions = shown[:, :, : self.channels], shown[:, :, self.channels :, 0, 0]
        there = (frames != 0).flatten(2).any(2)[:, :, None, None, None]
        newest = frames[:, -1]
        changes = LARGER * (newest[:, None] - frames[:, :-1]) * there[:, :-1]
        grid = self.grid.expand(len(newest), -1, -1, -1)
        x = F.silu(self.first(torch.cat([newest, changes.flatten(1, 2), grid], dim=1)))
        x = x + F.silu(self.second(x))
        x = torch.cat([F.silu(self.kept(x)).flatten(1), actions.flatten(1)], dim=1)
        return self.states(F.silu(self.dense(x)))


@dataclass(frozen=True)
class Examples:
    """Latent frames with the actions that led to them, and the states at their ends.

    Attributes:
        latents: float16 [M, C, h, w], standardised.
        actions: float32 [M, A], the last action that led to each; nought where an episode begins.
        rows: int64 [N, K], of each example the latent frames, the newest last; -1 before the episode began.
        states: float32 [N, S], standardised over the training examples.
        held_out: bool [N].
    """

    latents: np.ndarray
    actions: np.ndarray
    rows: np.ndarray
    states: np.ndarray
    held_out: np.ndarray

    def observations(self, which: np.ndarray, begun: np.ndarray | None = None) -> Tensor:
        """float32 [n, K (C + A), h, w] of some examples, as a policy is given them.

        Args:
            which: int [n].
            begun: int [n], frames of each since its dream began, of which the first shows no action; None: there was no dream.
        """
        rows = self.rows[which]
        _, K = rows.shape
        first = K - (np.full(len(rows), K + 1) if begun is None else begun)[:, None]
        there = ((rows >= 0) & (np.arange(K) >= first))[:, :, None]
        frames = self.latents[rows].astype(np.float32) * there[..., None, None]
        actions = self.actions[rows] * there * (np.arange(K) > first)[:, :, None]
        each = with_actions(frames.reshape(-1, *frames.shape[2:]), actions.reshape(-1, actions.shape[2]))
        return torch.from_numpy(each).unflatten(0, (-1, K)).flatten(1, 2)


def examples(episodes: EpisodeStore, latents: LatentStore, frames: int) -> Examples:
    """What can be learned from two stores.

    Args:
        episodes: with states.
        latents: of the same episodes.
        frames: K.

    Raises:
        UserError: no states were recorded.
    """
    if not episodes.states.shape[1]:
        raise UserError("these episodes were recorded without states that an eye could learn to read: set policy.observations "
                        "to latents")  # fmt: skip
    c = latents.actions.shape[1]
    parts, actions, rows, states, held_out, count = [], [], [], [], [], 0
    for episode in [*_first(latents, 0, MOST_LATENTS), *_first(latents, 1, MOST_HELD_OUT)]:
        (first, end), (first_row, end_row) = latents.bounds(episode), episodes.bounds(episode)
        # An episode that has ended stands still in further latent frames; what it observes by then nobody recorded.
        n = min(end - first, (end_row - first_row - 1) // c + 1)
        parts.append(latents.standardised(first, first + n).astype(np.float16))
        told = latents.action_spec.encode(latents.actions[first : first + n, -1])
        actions.append(np.concatenate([np.zeros_like(told[:1]), told[1:]]))
        past = np.arange(n)[:, None] - np.arange(frames)[::-1]
        rows.append(np.where(past >= 0, past + count, -1))
        states.append(episodes.states[first_row:end_row:c][:n])
        held_out.append(np.full(n, latents.split[episode] == 1))
        count += n
    held = np.concatenate(held_out)
    found = np.concatenate(states).astype(np.float64)
    mean, std = found[~held].mean(0), found[~held].std(0)
    return Examples(
        np.concatenate(parts),
        np.concatenate(actions),
        np.concatenate(rows),
        ((found - mean) / np.maximum(std, 1e-6)).astype(np.float32),
        held,
    )


def _first(latents: LatentStore, split: int, most: int) -> np.ndarray:
    """The first episodes of a split, with so many latent frames at most, and at least one if there is one."""
    chosen = np.flatnonzero(latents.split == split)
    frames = np.diff(latents.episode_ends, prepend=0)[chosen].cumsum()
    return chosen[: max(1, int(np.searchsorted(frames, most, "right")))]


def learn(eye: Eye, given: Examples, seed: int, tick: Tick) -> np.ndarray:
    """Teach an eye in place.

    Args:
        eye: to be taught, where it shall compute.
        given: what to learn from.
        seed: of its weights, and of the order of the examples.
        tick: called after each step; may raise to stop.

    Returns:
        float64 [S]: the median error of each number in held-out episodes (in all if none is held out), as a share of its
        standard deviation.
    """
    device = eye.grid.device
    _initialise(eye, seed)
    eye.requires_grad_(True)
    optimiser = torch.optim.AdamW(eye.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / STEPS)
    trained_on = np.flatnonzero(~given.held_out)
    states = torch.from_numpy(given.states)
    for step in range(STEPS):
        rng = numpy_rng(seed, "eye", step)
        chosen = rng.choice(trained_on, BATCH)
        begun = np.where(rng.random(BATCH) < WITHOUT_PAST, rng.integers(1, eye.frames + 1, BATCH), eye.frames + 1)
        wrong = F.huber_loss(eye(given.observations(chosen, begun).to(device)), states[chosen].to(device), delta=DELTA)
        optimiser.zero_grad()
        wrong.backward()
        optimiser.step()
        schedule.step()
        tick()
    eye.requires_grad_(False)
    judged = np.flatnonzero(given.held_out) if given.held_out.any() else trained_on
    with torch.no_grad():
        errors = [
            (eye(given.observations(chosen).to(device)).cpu() - states[chosen]).abs().numpy()
            for chosen in np.array_split(judged, -(-len(judged) // BATCH))
        ]
    return np.median(np.concatenate(errors), axis=0).astype(np.float64)


def taught(
    kept: Path, given: Examples, seed: int, device: str, tick: Tick, say: Callable[[str], None]
) -> tuple[dict[str, Tensor], np.ndarray]:
    """The weights of an eye that has learned, and its errors (see `learn`); from the folder `kept` if it has before.

    Args:
        kept: a folder of its own.
        given, seed, tick: as for `learn`.
        device: where to compute.
        say: told of a file that is damaged.
    """
    kept.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(kept)
    if done := checkpoints.load_last(say):
        weights = done[1]
        return weights, weights.pop("errors").numpy()
    _, frames = given.rows.shape
    _, features = given.actions.shape
    channels, height, width = given.latents.shape[1:]
    seen = gym.spaces.Box(-np.inf, np.inf, (frames * (channels + features), height, width), np.float32)
    eye = Eye(seen, frames, features, given.states.shape[1]).to(device)
    errors = learn(eye, given, seed, tick)
    weights = {name: weight.cpu() for name, weight in eye.state_dict().items()}
    checkpoints.save(STEPS, {**weights, "errors": torch.from_numpy(errors)})
    return weights, errors


@torch.no_grad()
def _initialise(eye: Eye, seed: int) -> None:
    """Weights of variance one over the number of inputs (LeCun et al. 1998), from this seed whatever was drawn before."""
    generator = torch_generator(seed, "eye")
    for name, weights in eye.named_parameters():
        drawn = torch.randn(weights.shape, generator=generator) * weights[0].numel() ** -0.5
        weights.copy_(torch.zeros_like(drawn) if name.endswith("bias") else drawn)
