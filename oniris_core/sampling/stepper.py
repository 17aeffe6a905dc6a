"""Generation one latent frame at a time, from moments that stay as they are.

Axes: B rollouts side by side, T frames, k latent frames of c frames each, H, W.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from oniris_core.data.groups import group_rows
from oniris_core.sampling.autoregressive import Past, Sampler, generate, prefill
from oniris_core.vae.codec import Codec
from oniris_core.vae.model import VaeCache
from oniris_core.world.context import Step
from oniris_core.world.store import World


@dataclass(frozen=True)
class Moment:
    """Rollouts between two latent frames: all that is needed to go on. Never changed in place: keep it to rewind to it."""

    past: Past
    decoder: VaeCache

    def select(self, rows: Sequence[int]) -> "Moment":
        """The moment of the rollouts `rows`, in that order, any of them once, often or never."""
        return Moment(Past(self.past.cache.select(rows)), self.decoder.select(torch.tensor(list(rows))))

    def repeat(self, k: int) -> "Moment":
        """The moment in which each rollout stands k times in a row."""
        count = len(self.past.cache.clean) if self.past.cache.clean is not None else 0
        return self.select([row for row in range(count) for _ in range(k)])


class Stepper:
    """Steps rollouts of a world model, frames in and frames out.

    Attributes:
        group: c, frames of a latent frame.
    """

    def __init__(self, world: World, codec: Codec, sampler: Sampler) -> None:
        if codec.identity != world.vae_identity:
            raise ValueError(f"the model belongs to VAE {world.vae_identity[:12]}, this one is {codec.identity[:12]}")
        self._world, self._codec, self._sampler = world, codec, sampler
        self.group = codec.vae.config.group
        device = codec.device
        self._mean, self._std = (torch.from_numpy(part).to(device)[:, None, None] for part in (world.mean, world.std))

    @torch.no_grad()
    def begin(self, context: np.ndarray, actions: np.ndarray) -> tuple[Moment, np.ndarray]:
        """The moment after a context.

        Args:
            context: uint8 [B, T, H, W, 3], T = 1 + k c, from the first frame of an episode on.
            actions: [B, T, ...], those that led to its frames.

        Returns:
            the moment, and the context as the VAE shows it, uint8 [B, (k + 1) c, H, W, 3].
        """
        B, T = context.shape[:2]
        rows = group_rows(0, 1 + (T - 1) // self.group, self.group)
        z_BGCHW, _ = self._codec.vae.encode(torch.from_numpy(context[:, rows]).to(self._codec.device))
        known = self._encoded(actions[:, rows]).reshape(B, len(rows) // self.group, -1)
        told = (torch.arange(known.shape[1], device=known.device) > 0).expand(B, -1)
        past = prefill(self._world.denoiser, (z_BGCHW - self._mean) / self._std, known, told, self._sampler)
        frames, decoder = self._codec.vae.decode(z_BGCHW)
        return Moment(past, decoder), frames.cpu().numpy()

    @torch.no_grad()
    def step(self, moment: Moment, actions: np.ndarray, seeds: Sequence[int]) -> tuple[Moment, np.ndarray]:
        """The next latent frame.

        Args:
            moment: where to go on from; it stays as it is.
            actions: [B, c, ...], those that lead to the next c frames.
            seeds: of the noise, one per rollout.

        Returns:
            the moment after it, and uint8 [B, c, H, W, 3].
        """
        features = self._encoded(actions).flatten(1)
        x = next(generate(self._world.denoiser, moment.past, [features], self._sampler, list(seeds)))
        sigma = torch.full((len(x), 1, 1), self._sampler.context_sigma, device=x.device)
        told = torch.ones((len(x), 1), dtype=torch.bool, device=x.device)
        before = Step(moment.past.cache.repeat(1))
        _, cache = self._world.denoiser(x[:, None, None], sigma, features[:, None], told, before)
        frames, decoder = self._codec.vae.decode(x[:, None] * self._std + self._mean, moment.decoder)
        return Moment(Past(cache), decoder), frames.cpu().numpy()

    def _encoded(self, actions: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self._world.action_spec.encode(actions)).to(self._codec.device)
