"""Free rollouts from held-out episodes under their recorded actions, beside the truth and what the VAE makes of it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from oniris_core.common.errors import UserError
from oniris_core.data.clips import HELD_OUT
from oniris_core.data.episodes import EpisodeStore
from oniris_core.data.groups import group_rows
from oniris_core.data.latent_clips import action_features
from oniris_core.data.latents import LatentStore
from oniris_core.sampling.autoregressive import Sampler, generate, prefill
from oniris_core.vae.model import Vae
from oniris_core.vae.streaming import decode_stream
from oniris_core.world.denoiser import Denoiser


@dataclass(frozen=True)
class Rollouts:
    """K episodes of T = context + horizon frames each, frame for frame side by side.

    Attributes:
        truth: uint8 [K, T, H, W, 3], as recorded.
        reconstructed: the same through encoder and decoder: what a perfect world model would show.
        generated: the context reconstructed, then what the world model makes of it under the recorded actions.
        other_actions: the same context and noise under the actions of another episode: a model that obeys departs.
        actions: [K, T, ...]: the action that led to each frame.
        seeds: int64 [K]: the episodes' reset seeds.
        context: frames of context.
    """

    truth: np.ndarray
    reconstructed: np.ndarray
    generated: np.ndarray
    other_actions: np.ndarray
    actions: np.ndarray
    seeds: np.ndarray
    context: int


def choose_episodes(store: LatentStore, count: int, needed: int, what: str) -> np.ndarray:
    """The first `count` held-out episodes of at least `needed` latent frames.

    Args:
        store: the latents.
        count: how many.
        needed: latent frames of context and horizon together.
        what: the parameters that need so many, for the message.

    Raises:
        UserError: there are fewer.
    """
    lengths = np.diff(store.episode_ends, prepend=0)
    usable = np.flatnonzero((store.split == HELD_OUT) & (lengths >= needed))
    if not len(usable):
        longest = int(lengths[store.split == HELD_OUT].max()) if (store.split == HELD_OUT).any() else 0
        raise UserError(
            f"{what} need {needed} latent frames, but the longest held-out episode has {longest}; lower them"
        )
    if len(usable) < count:
        raise UserError(
            f"render.episodes asks for {count} held-out episodes, but only {len(usable)} have the {needed} latent frames "
            f"that {what} need; ask for {len(usable)} or collect more"
        )
    return usable[:count]


def roll_out(
    denoiser: Denoiser,
    vae: Vae,
    frames: EpisodeStore,
    latents: LatentStore,
    chosen: np.ndarray,
    strangers: np.ndarray,
    *,
    context: int,
    horizon: int,
    sampler: Sampler,
    seed: int,
    device: torch.device,
    tick: Callable[[], None],
) -> Rollouts:
    """Roll out the chosen episodes side by side, under their own actions and under those of others.

    Args:
        denoiser, vae: the models.
        frames, latents: the stores, of the same episodes.
        chosen: int [K], which episodes.
        strangers: int [K], whose actions the second rollout of each takes.
        context, horizon: in latent frames.
        sampler: how to generate.
        seed: of the noise, together with an episode's own seed; the result does not depend on who else is in the batch.
        device: where to compute.
        tick: called after each latent frame of all K, 2 * horizon times.
    """
    c, total = vae.config.group, context + horizon

    def features(episodes: np.ndarray) -> torch.Tensor:
        firsts = [latents.bounds(e)[0] for e in episodes]
        return torch.from_numpy(np.stack([action_features(latents, a, a + total) for a in firsts])).to(device)

    firsts = [latents.bounds(e)[0] for e in chosen]
    z = torch.from_numpy(np.stack([latents.standardised(a, a + total) for a in firsts])).to(device)
    has_action = (torch.arange(total, device=device) > 0).expand(len(chosen), -1)
    own = features(chosen)
    seeds = latents.episode_seed[chosen]
    noise_seeds = [seed * 2**32 + int(s) for s in seeds]
    past = prefill(denoiser, z[:, :context], own[:, :context], has_action[:, :context], sampler)

    def dream(actions: torch.Tensor) -> torch.Tensor:
        made = [z[:, :context]]
        for x in generate(denoiser, past, actions[:, context:].unbind(1), sampler, noise_seeds):
            made.append(x[:, None])
            tick()
        return torch.cat(made, dim=1)

    mean, std = (torch.from_numpy(a).to(device)[:, None, None] for a in (latents.mean, latents.std))
    reconstructed, generated, other = (
        np.concatenate(list(decode_stream(vae, (x[:, None] * std + mean for x in video.unbind(1)))), axis=1)
        for video in (z, dream(own), dream(features(strangers)))
    )
    rows = group_rows(0, total, c)
    starts = [frames.bounds(e)[0] for e in chosen]
    truth = np.stack([frames.frames[s : s + rows[-1] + 1][rows] for s in starts])
    recorded = np.stack([frames.actions[s : s + rows[-1] + 1][rows] for s in starts])
    return Rollouts(truth, reconstructed, generated, other, recorded, seeds, context * c)


def join(parts: list[Rollouts]) -> Rollouts:
    """Batches of rollouts as one."""
    names = ("truth", "reconstructed", "generated", "other_actions", "actions", "seeds")
    return Rollouts(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in names}, context=parts[0].context)
