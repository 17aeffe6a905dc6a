"""Rollouts from frames to frames, one latent frame at a time, in whatever order they are asked for.

Axes: B rollouts side by side, T frames, G latent frames (groups of c frames), C channels, H, W; A features of an action.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from oniris_core.data.episodes.groups import group_rows
from oniris_core.sampling.autoregressive import Sampler, next_frame, prefill, take_in
from oniris_core.vae.codec import Codec
from oniris_core.vae.model import to_uint8
from oniris_core.vae.stepping import DecoderForm, StreamState
from oniris_core.world.outcomes import Outcomes
from oniris_core.world.rollout_state import RolloutState
from oniris_core.world.store import World


@dataclass(frozen=True)
class Moment:
    """Rollouts between two latent frames: all that is needed to go on.

    Never changed: keep one, and the rollouts can go on from there again, under other actions or with other noise.

    Attributes:
        world: what the world model remembers.
        decoder: what the decoder remembers; None: nobody looks, and no frames can be shown from here on.
    """

    world: RolloutState
    decoder: StreamState | None

    def __len__(self) -> int:
        """How many rollouts there are."""
        return len(self.world.position)

    def select(self, rows: Sequence[int]) -> "Moment":
        """The rollouts `rows`, in that order, any of them once, often or never. Raises ValueError if there is no such row."""
        return Moment(self.world.select(rows), self.decoder and self.decoder.select(rows))

    def beside(self, others: "Sequence[Moment]") -> "Moment":
        """These rollouts, and after them those of others, all of one model and with the same room for the past."""
        shown = [other.decoder for other in others if other.decoder]
        return Moment(self.world.beside([other.world for other in others]), self.decoder and self.decoder.beside(shown))

    def unseen(self) -> "Moment":
        """The same, to be gone on from by `Stepper.imagine` alone."""
        return Moment(self.world, None)

    def replace_rows(self, rows: Sequence[int], fresh: "Moment") -> "Moment":
        """The same with the rollouts of `fresh`, in order, in the places `rows`; the others stay as they are, to the bit.

        Raises:
            ValueError: no such rows, another number of them than of fresh rollouts, or a moment of another model or window.
        """
        if (self.decoder is None) != (fresh.decoder is None):
            raise ValueError("of the two moments one has nothing to show frames with")
        decoder = self.decoder and fresh.decoder and self.decoder.replace_rows(rows, fresh.decoder)
        return Moment(self.world.replace_rows(rows, fresh.world), decoder)

    def repeat(self, k: int) -> "Moment":
        """Each rollout b stands k times, as rows b * k .. b * k + k - 1, to be continued in k ways."""
        return self.select([row for row in range(len(self)) for _ in range(k)])


class Stepper:
    """A world model, its VAE and a sampler, ready to go on.

    Raises:
        ValueError: the model belongs to another VAE.
    """

    def __init__(self, world: World, codec: Codec, sampler: Sampler):
        if codec.identity != world.vae_identity:
            raise ValueError(f"the model belongs to VAE {world.vae_identity[:12]}, this one is {codec.identity[:12]}")
        self.world, self.codec, self.sampler = world, codec, sampler
        self.group = codec.vae.config.group
        self.decoder = DecoderForm(codec.vae.decoder)
        self._mean, self._std = (
            torch.from_numpy(part).to(self.device)[:, None, None] for part in (world.mean, world.std)
        )

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.world.device

    @property
    def has_outcomes(self) -> bool:
        """Whether the model has learned rewards and ends."""
        return self.world.has_outcomes

    def begin(self, context: np.ndarray, actions: np.ndarray) -> tuple[Moment, np.ndarray]:
        """Take in videos from the first frame of an episode on.

        Args:
            context: uint8 [B, T, H, W, 3], T = 1 + k c (the groups of `oniris_core.data.episodes.groups`).
            actions: [B, T, ...], those that led to each frame; any will do for the first one.

        Returns:
            The moment after, and the context as the VAE shows it, uint8 [B, (k + 1) c, H, W, 3], the first frame c times.

        Raises:
            ValueError: shapes do not fit each other or the model, or actions of another space.
        """
        return self.begin_latents(*self.latents_of(context, actions))

    def latents_of(self, frames: np.ndarray, actions: np.ndarray) -> tuple[Tensor, Tensor]:
        """Standardised latents [B, k + 1, C, h, w], and features of the actions that led to each; arguments as of `begin`."""
        c, shape = self.group, self.world.form.latent_shape
        if frames.ndim != 5 or not frames.size or frames.shape[1] % c != 1 % c:
            raise ValueError(f"a context of shape {list(frames.shape)} does not fit [B, 1 + k * {c}, H, W, 3]")
        B, T = frames.shape[:2]
        rows = group_rows(0, 1 + (T - 1) // c, c)
        z_BGCHW, _ = self.codec.vae.encode(torch.from_numpy(frames[:, rows]).to(self.device))
        if tuple(z_BGCHW.shape[2:]) != shape:
            raise ValueError(
                f"frames of shape {list(frames.shape)} make latents {list(z_BGCHW.shape)}, the model knows "
                f"[B, T, {', '.join(map(str, shape))}]"
            )
        features = self.features(actions)[:, rows].reshape(B, -1, c * self.world.action_spec.features)
        return (z_BGCHW - self._mean) / self._std, features

    def begin_latents(self, z_BGCHW: Tensor, actions_BGA: Tensor) -> tuple[Moment, np.ndarray]:
        """The same from standardised latent frames, and features of all the actions that led to each of them."""
        moment = self.recall(z_BGCHW, actions_BGA)
        decoder = self.decoder.begin(len(z_BGCHW), *self.world.form.latent_shape[1:])
        shown = list[Tensor]()
        for z in z_BGCHW.unbind(1):
            decoder, frames = self._decode(decoder, z)
            shown.append(frames)
        return Moment(moment.world, decoder), torch.cat(shown, dim=1).cpu().numpy()

    def recall(self, z_BGCHW: Tensor, actions_BGA: Tensor) -> Moment:
        """The same without showing anything, which saves the decoder; for `imagine`."""
        has_action = (torch.arange(z_BGCHW.shape[1], device=self.device) > 0).expand(len(z_BGCHW), -1)
        return Moment(prefill(self.world.form, z_BGCHW, actions_BGA, has_action, self.sampler), None)

    def step(self, moment: Moment, actions: np.ndarray, seeds: Sequence[int]) -> tuple[Moment, np.ndarray]:
        """Go on by one latent frame.

        Args:
            moment: where from; it can be gone on from again.
            actions: [B, c, ...], those that lead to each of the next c frames.
            seeds: one per rollout. The noise of a frame depends on its rollout's seed and its number alone.

        Returns:
            The moment after, and uint8 [B, c, H, W, 3]. Frames that came out not finite are black (`is_finite`).

        Raises:
            ValueError: shapes do not fit each other or the model, or actions of another space.
        """
        return self.step_features(moment, self._told(moment, actions), seeds)

    def step_features(self, moment: Moment, actions_BA: Tensor, seeds: Sequence[int]) -> tuple[Moment, np.ndarray]:
        """The same from the features of the actions."""
        state, x = next_frame(self.world.form, moment.world, actions_BA, self.sampler, seeds)
        finite = torch.isfinite(x).flatten(1).all(1)[:, None, None, None]
        decoder, frames = self._decode(moment.decoder, torch.where(finite, x, 0))
        return Moment(state, decoder), torch.where(finite[..., None], frames, 0).cpu().numpy()

    def imagine(self, moment: Moment, actions: np.ndarray, seeds: Sequence[int]) -> Moment:
        """The same latent frame as `step` makes, with nobody looking: it saves the decoder, which cannot be caught up with."""
        state, _ = next_frame(self.world.form, moment.world, self._told(moment, actions), self.sampler, seeds)
        return Moment(state, None)

    @torch.inference_mode()
    def outcomes(self, moment: Moment) -> Outcomes | None:
        """Rewards and ends [B, c] of the latent frame that each rollout made or took in last; None: the model knows none."""
        return self.world.form.outcomes(moment.world)

    def take_in(self, moment: Moment, z_BCHW: Tensor, actions: np.ndarray) -> tuple[Moment, np.ndarray]:
        """Go on by one true latent frame, standardised, instead of a generated one; arguments and returns else as `step`."""
        state, x = self._taken_in(moment, z_BCHW, actions)
        decoder, frames = self._decode(moment.decoder, x)
        return Moment(state, decoder), frames.cpu().numpy()

    def observe(self, moment: Moment, z_BCHW: Tensor, actions: np.ndarray) -> Moment:
        """What `take_in` does, with nobody looking (see `imagine`)."""
        return Moment(self._taken_in(moment, z_BCHW, actions)[0], None)

    def features(self, actions: np.ndarray) -> Tensor:
        """float32 [B, T, features]: what the model is told of actions [B, T, ...]. Raises ValueError for another space."""
        spec = self.world.action_spec
        shape = () if spec.kind == "discrete" else (len(spec.sizes),)
        if actions.shape[2:] != shape:
            raise ValueError(f"actions of shape {list(actions.shape)} do not fit {['B', 'T', *shape]}")
        return torch.from_numpy(spec.encode(actions)).to(self.device)

    def raw(self, z: Tensor) -> Tensor:
        """Standardised latents [..., C, h, w] as the VAE gives them."""
        return z * self._std + self._mean

    def _told(self, moment: Moment, actions: np.ndarray) -> Tensor:
        """float32 [B, c features]: of the actions [B, c, ...] that lead to the next c frames."""
        if actions.shape[:2] != (len(moment), self.group):
            raise ValueError(f"actions of shape {list(actions.shape)} do not fit [{len(moment)}, {self.group}, ...]")
        return self.features(actions).flatten(1)

    def _taken_in(self, moment: Moment, z_BCHW: Tensor, actions: np.ndarray) -> tuple[RolloutState, Tensor]:
        expected = (len(moment), *self.world.form.latent_shape)
        if tuple(z_BCHW.shape) != expected:
            raise ValueError(f"latents {list(z_BCHW.shape)} do not fit {list(expected)}")
        x, told = z_BCHW.to(self.device), self._told(moment, actions)
        return take_in(self.world.form, moment.world, x, told, self.sampler), x

    @torch.inference_mode()
    def _decode(self, state: StreamState | None, x_BCHW: Tensor) -> tuple[StreamState, Tensor]:
        if state is None:
            raise ValueError("nobody looked at this rollout before: it can be gone on from by `imagine` alone")
        state, pixels = self.decoder(state, self.raw(x_BCHW))
        return state, to_uint8(pixels)


def is_finite(moment: Moment) -> np.ndarray:
    """bool [B]: whether the latent frame that each rollout made last is finite."""
    return moment.world.clean[:, -1].isfinite().flatten(1).all(1).cpu().numpy()
