"""Free rollouts: from held-out episodes under their own and other actions, several from one context, and without end.

Axes: B rollouts side by side, K episodes, T frames, G latent frames (groups of c frames), C channels, H, W; A features.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from oniris_core.data.latents import LatentStore
from oniris_core.evaluation.evaluation_set import EvaluationSet
from oniris_core.sampling.autoregressive import Past, Sampler, generate, prefill
from oniris_core.vae.model import Vae, VaeCache
from oniris_core.world.denoiser import Denoiser


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

    @property
    def generated(self) -> np.ndarray:
        """The first sample of each episode [K, T, ...]."""
        return self.samples[:, 0]


@dataclass(frozen=True)
class Start:
    """Where rollouts go on from: what denoiser and decoder remember, and the context as decoded, uint8 [B, T, H, W, 3]."""

    past: Past
    decoder: VaeCache
    shown: np.ndarray


@dataclass(frozen=True)
class Dreamer:
    """A world model ready to go on.

    Attributes:
        denoiser, vae: the models.
        latents: whose latents are standardised, and what their actions mean.
        sampler: how to generate.
        device: where to compute.
        batch: rollouts side by side at most.
        seed: of the noise, together with a rollout's own; a rollout does not depend on who else is in the batch.
        tick: called with their number after each latent frame of a batch of rollouts.
        early: the model as it was early in its training, for autoguidance.
    """

    denoiser: Denoiser
    vae: Vae
    latents: LatentStore
    sampler: Sampler
    device: torch.device
    batch: int
    seed: int
    tick: Callable[[int], None]
    early: Denoiser | None = None

    def features(self, actions_BTx: np.ndarray) -> np.ndarray:
        """float32 [B, G, A]: what the model is told of actions [B, T, ...] of whole groups."""
        B, c = len(actions_BTx), self.vae.config.group
        return self.latents.action_spec.encode(actions_BTx).reshape(B, actions_BTx.shape[1] // c, -1)

    def context(self, episodes: np.ndarray, groups: int) -> np.ndarray:
        """float32 [B, G, C, h, w]: the first latent frames of episodes; where one ends its last stands still."""
        found = []
        for first, end in map(self.latents.bounds, episodes):
            z = self.latents.standardised(first, min(first + groups, end))
            found.append(np.concatenate([z, np.repeat(z[-1:], groups - len(z), axis=0)]))
        return np.stack(found)

    def start(self, z_BGCHW: np.ndarray, actions_BGA: np.ndarray) -> Start:
        """Take in the context, from the first frame of an episode on."""
        z, actions = torch.from_numpy(z_BGCHW).to(self.device), torch.from_numpy(actions_BGA).to(self.device)
        has_action = (torch.arange(z.shape[1], device=self.device) > 0).expand(len(z), -1)
        past = prefill(self.denoiser, z, actions, has_action, self.sampler, self.early)
        shown, decoder = self.vae.decode(self._raw(z))
        return Start(past, decoder, shown.cpu().numpy())

    def go_on(self, start: Start, actions_BGA: np.ndarray, seeds: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Generate one group after another: uint8 [B, c, H, W, 3], black where not finite, and bool [B], which are."""
        decoder = start.decoder
        actions = torch.from_numpy(actions_BGA).to(self.device).unbind(1)
        for x in generate(self.denoiser, start.past, actions, self.sampler, seeds):
            finite = torch.isfinite(x).flatten(1).all(1)
            safe = torch.where(finite[:, None, None, None], x, 0)
            frames, decoder = self.vae.decode(self._raw(safe[:, None]), decoder)
            frames = torch.where(finite[:, None, None, None, None], frames, 0)
            self.tick(len(x))
            yield frames.cpu().numpy(), finite.cpu().numpy()

    def noise_seed(self, episode_seed: int, sample: int = 0) -> int:
        """The seed of the noise of one of many rollouts from an episode."""
        return (sample << 96) + (self.seed << 32) + int(episode_seed)

    def continue_(
        self, episodes: np.ndarray, context_actions: np.ndarray, futures: list[tuple[np.ndarray, list[int]]]
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Continue episodes into several futures each, in batches.

        Args:
            episodes: int [B], of the latent store.
            context_actions: [B, context, ...], of the frames of the context.
            futures: of each the actions [B, horizon, ...] of the frames to come, and seeds [B] from `noise_seed`.

        Returns:
            uint8 [B, context + horizon, H, W, 3] for each future, and bool [B], whether all was finite.
        """
        made: list[list[np.ndarray]] = [[] for _ in futures]
        finite = []
        for part in np.array_split(np.arange(len(episodes)), -(-len(episodes) // self.batch)):
            told = self.features(context_actions[part])
            start = self.start(self.context(episodes[part], told.shape[1]), told)
            ok = np.ones(len(part), bool)
            for parts, (future, seeds) in zip(made, futures, strict=True):
                frames = [start.shown]
                for group, is_finite in self.go_on(start, self.features(future[part]), [seeds[b] for b in part]):
                    frames.append(group)
                    ok &= is_finite
                parts.append(np.concatenate(frames, axis=1))
            finite.append(ok)
        return [np.concatenate(parts) for parts in made], np.concatenate(finite)

    def reconstruct(self, episodes: np.ndarray, groups: int) -> np.ndarray:
        """uint8 [K, T, H, W, 3]: the latents of episodes, decoded."""
        parts: Iterable[np.ndarray] = np.array_split(episodes, -(-len(episodes) // self.batch))
        z = (torch.from_numpy(self.context(part, groups)).to(self.device) for part in parts)
        return np.concatenate([self.vae.decode(self._raw(x))[0].cpu().numpy() for x in z])

    def through_vae(self, frames: np.ndarray) -> np.ndarray:
        """Frames uint8 [K, T, H, W, 3] of episodes from their first group on, encoded as `encode` does and decoded."""
        made = []
        for part in np.array_split(frames, -(-len(frames) // self.batch)):
            z, _ = self.vae.encode(torch.from_numpy(part).to(self.device))
            made.append(self.vae.decode(z.half().float())[0].cpu().numpy())
        return np.concatenate(made)

    def _raw(self, z_BGCHW: Tensor) -> Tensor:
        mean, std = (torch.from_numpy(a).to(self.device) for a in (self.latents.mean, self.latents.std))
        return z_BGCHW * std[:, None, None] + mean[:, None, None]


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
    made, finite = dreamer.continue_(chosen.episodes, chosen.actions[:, :context], own)
    foreign = [(foreign_actions(chosen)[contexts, context:], [seeds[0][k] for k in contexts])]
    (other,), _ = dreamer.continue_(chosen.episodes[contexts], chosen.actions[contexts, :context], foreign)
    return Rollouts(
        chosen.truth, dreamer.reconstruct(chosen.episodes, chosen.truth.shape[1] // chosen.c), np.stack(made, axis=1),
        contexts, other, chosen.actions, chosen.seeds, context, chosen.alive, finite,
    )  # fmt: skip
