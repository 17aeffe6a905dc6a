"""Free rollouts: from held-out episodes under their own and other actions, several from one context, and without end.

Axes: B rollouts side by side, K episodes, T frames, G latent frames (groups of c frames), C channels, H, W; A features.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from oniris_core.data.latents.store import LatentStore
from oniris_core.evaluation.rollouts.evaluation_set import EvaluationSet
from oniris_core.sampling.stepper import Moment, Stepper, is_finite
from oniris_core.vae.model import Vae


class Foretold(NamedTuple):
    """What a model says of the frames it generates, [K, S, horizon] each; see `oniris_core.world.outcomes.Outcomes`."""

    rewards: np.ndarray
    ends: np.ndarray


@dataclass(frozen=True)
class Rollouts:
    """K episodes of T = context + horizon frames each, frame for frame side by side.

    Attributes:
        truth: uint8 [K, T, H, W, 3], as recorded; an ended episode stands still.
        reconstructed: the same through encoder and decoder: what a perfect world model would show.
        samples: uint8 [K, S, T, H, W, 3]: the context reconstructed, then what the world model makes of it under the
            recorded actions, S times with different noise.
        contexts: int64 [N], the episodes that were also continued under other actions.
        other_actions: [N, T, ...]: their context and the noise of their first sample under the actions of another episode:
            a model that obeys departs.
        actions: [K, T, ...]: the action that led to each frame.
        seeds: int64 [K]: the episodes' reset seeds.
        context: frames of context.
        alive: bool [K, T]: whether the true episode still goes on; where not, nothing is compared.
        finite: bool [K]: whether all numbers generated were finite, of all samples; what was not is black.
        outcomes: of the samples; None if the model has learned none.
    """

    truth: np.ndarray
    reconstructed: np.ndarray
    samples: np.ndarray
    contexts: np.ndarray
    other_actions: np.ndarray
    actions: np.ndarray
    seeds: np.ndarray
    context: int
    alive: np.ndarray
    finite: np.ndarray
    outcomes: Foretold | None = None

    @property
    def generated(self) -> np.ndarray:
        """The first sample of each episode [K, T, ...]."""
        return self.samples[:, 0]


def side_by_side(device: torch.device, height: int, width: int) -> int:
    """How many rollouts to generate side by side: only speed depends on it. `height` and `width` are a frame's, pixels."""
    if device.type == "cpu":
        return 32
    return min(max(2**21 // (height * width), 32), 512)  # a GPU is not busy with fewer, and has memory for no more


@dataclass(frozen=True)
class Dreamer:
    """A world model ready to go on from the episodes of a latent store.

    Attributes:
        stepper: model, VAE and sampler.
        latents: the episodes.
        batch: rollouts side by side at most.
        seed: of the noise, together with a rollout's own; a rollout does not depend on who else is in the batch.
        tick: called with their number after each latent frame of a batch of rollouts.
    """

    stepper: Stepper
    latents: LatentStore
    batch: int
    seed: int
    tick: Callable[[int], None]

    @property
    def vae(self) -> Vae:
        """The VAE of the latents."""
        return self.stepper.codec.vae

    def features(self, actions_BTx: np.ndarray) -> Tensor:
        """float32 [B, G, A]: what the model is told of actions [B, T, ...] of whole groups."""
        B, c = len(actions_BTx), self.stepper.group
        return self.stepper.features(actions_BTx).reshape(B, actions_BTx.shape[1] // c, -1)

    def context(self, episodes: np.ndarray, groups: int) -> Tensor:
        """float32 [B, G, C, h, w]: the first latent frames of episodes; where one ends its last stands still."""
        found = []
        for first, end in map(self.latents.bounds, episodes):
            z = self.latents.standardised(first, min(first + groups, end))
            found.append(np.concatenate([z, np.repeat(z[-1:], groups - len(z), axis=0)]))
        return torch.from_numpy(np.stack(found)).to(self.stepper.device)

    def start(self, episodes: np.ndarray, actions_BTx: np.ndarray) -> tuple[Moment, np.ndarray]:
        """Take in the context of episodes, as long as the actions; see `Stepper.begin`."""
        told = self.features(actions_BTx)
        return self.stepper.begin_latents(self.context(episodes, told.shape[1]), told)

    def go_on(
        self, moment: Moment, actions_BTx: np.ndarray, seeds: list[int]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Generate one group after another: uint8 [B, c, H, W, 3], black where not finite, and bool [B], which are."""
        for after, frames in self.moments(moment, actions_BTx, seeds):
            yield frames, is_finite(after)

    def moments(self, moment: Moment, actions_BTx: np.ndarray, seeds: list[int]) -> Iterator[tuple[Moment, np.ndarray]]:
        """The same with the moment after each group in place of what is finite."""
        for told in self.features(actions_BTx).unbind(1):
            moment, frames = self.stepper.step_features(moment, told, seeds)
            self.tick(len(frames))
            yield moment, frames

    def noise_seed(self, episode_seed: int, sample: int = 0) -> int:
        """The seed of the noise of one of many rollouts from an episode."""
        return (sample << 96) + (self.seed << 32) + int(episode_seed)

    def continue_(
        self,
        episodes: np.ndarray,
        context_actions: np.ndarray,
        futures: list[tuple[np.ndarray, list[int]]],
        outcomes: list[Foretold] | None = None,
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Continue episodes into several futures each, in batches.

        Args:
            episodes: int [B], of the latent store.
            context_actions: [B, context, ...], of the frames of the context.
            futures: of each the actions [B, horizon, ...] of the frames to come, and seeds [B] from `noise_seed`.
            outcomes: takes those of all futures [B, S, horizon] if the model has learned them.

        Returns:
            uint8 [B, context + horizon, H, W, 3] for each future, and bool [B], whether all was finite.
        """
        made: list[list[np.ndarray]] = [[] for _ in futures]
        foretold: list[list[list[np.ndarray]]] = []  # [batches, futures, rewards and ends]
        finite = []
        for part in np.array_split(np.arange(len(episodes)), -(-len(episodes) // self.batch)):
            start, shown = self.start(episodes[part], context_actions[part])
            ok = np.ones(len(part), bool)
            foretold.append([])
            for parts, (future, seeds) in zip(made, futures, strict=True):
                frames, told = [shown], []
                for moment, group in self.moments(start, future[part], [seeds[b] for b in part]):
                    frames.append(group)
                    ok &= is_finite(moment)
                    told.append(None if outcomes is None else self.stepper.outcomes(moment))
                parts.append(np.concatenate(frames, axis=1))
                known = [now for now in told if now is not None]
                if known:
                    foretold[-1].append(
                        [
                            torch.cat(part_of, dim=1).cpu().numpy()
                            for part_of in zip(*(now[:2] for now in known), strict=True)
                        ]
                    )
            finite.append(ok)
        if outcomes is not None and foretold[0]:
            both = [[np.stack(of_batch, axis=1) for of_batch in zip(*batch, strict=True)] for batch in foretold]
            outcomes.append(Foretold(*(np.concatenate(parts) for parts in zip(*both, strict=True))))
        return [np.concatenate(parts) for parts in made], np.concatenate(finite)

    def reconstruct(self, episodes: np.ndarray, groups: int) -> np.ndarray:
        """uint8 [K, T, H, W, 3]: the latents of episodes, decoded."""
        parts: Iterable[np.ndarray] = np.array_split(episodes, -(-len(episodes) // self.batch))
        decoded = (self.vae.decode(self.stepper.raw(self.context(part, groups)))[0] for part in parts)
        return np.concatenate([frames.cpu().numpy() for frames in decoded])

    def through_vae(self, frames: np.ndarray) -> np.ndarray:
        """Frames uint8 [K, T, H, W, 3] of episodes from their first group on, encoded as `encode` does and decoded."""
        made = []
        for part in np.array_split(frames, -(-len(frames) // self.batch)):
            z, _ = self.vae.encode(torch.from_numpy(part).to(self.stepper.device))
            made.append(self.vae.decode(z.half().float())[0].cpu().numpy())
        return np.concatenate(made)


def foreign_actions(chosen: EvaluationSet) -> np.ndarray:
    """[K, T, ...]: each episode's context actions, then the future ones of the next episode, over again where it ends."""
    future = []
    for k in range(len(chosen.seeds)):
        stranger = (k + 1) % len(chosen.seeds)
        theirs = chosen.actions[stranger, chosen.context : int(chosen.groups[stranger]) * chosen.c]
        wanted = chosen.actions.shape[1] - chosen.context
        future.append(np.concatenate([theirs] * -(-wanted // len(theirs)))[:wanted])
    return np.concatenate([chosen.actions[:, : chosen.context], np.stack(future)], axis=1)


def roll_out(dreamer: Dreamer, chosen: EvaluationSet, samples: int, contexts: np.ndarray) -> Rollouts:
    """Roll out the evaluation set, `samples` times under its own actions; `contexts` [N] of it also under those of others."""
    context = chosen.context
    seeds = [[dreamer.noise_seed(seed, s) for seed in chosen.seeds] for s in range(samples)]
    own = [(chosen.actions[:, context:], of_sample) for of_sample in seeds]
    outcomes = list[Foretold]()
    made, finite = dreamer.continue_(chosen.episodes, chosen.actions[:, :context], own, outcomes)
    foreign = [(foreign_actions(chosen)[contexts, context:], [seeds[0][k] for k in contexts])]
    (other,), _ = dreamer.continue_(chosen.episodes[contexts], chosen.actions[contexts, :context], foreign)
    return Rollouts(
        chosen.truth, dreamer.reconstruct(chosen.episodes, chosen.truth.shape[1] // chosen.c), np.stack(made, axis=1),
        contexts, other, chosen.actions, chosen.seeds, context, chosen.alive, finite,
        outcomes[0] if outcomes else None,
    )  # fmt: skip
