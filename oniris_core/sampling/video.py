"""Rollouts from frames to frames: the video encoded, continued in latent space and decoded as it comes.

Axes: B rollouts side by side, T frames, G latent frames (groups of c frames), H, W; A features of an action.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from oniris_core.data.groups import group_rows
from oniris_core.sampling.autoregressive import Sampler, generate, prefill
from oniris_core.vae.codec import Codec
from oniris_core.vae.streaming import decode_stream
from oniris_core.world.store import World


def rollout(
    model: World,
    context: np.ndarray,
    actions: Iterable[np.ndarray],
    codec: Codec,
    sampler: Sampler,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """Continue videos under the given actions for as long as there are any, in constant memory.

    Args:
        model: the world model, from `oniris_core.world.load`.
        context: uint8 [B, T, H, W, 3], from the first frame of an episode on, T = 1 + k c frames (the groups of
            `oniris_core.data.groups`; a latent frame covers c).
        actions: per frame, [B] or [B, components], the actions that led to it: those of the context first (its first
            frame is the reset, any action will do), then those of the frames to come, asked for when they are needed.
        codec: the VAE the model was trained with, from `oniris_core.vae.load`.
        sampler: how frames are generated.
        seed: of the noise; row b of the batch has noise of its own.

    Returns:
        An iterator over uint8 [B, c, H, W, 3], the next c frames. It ends when the actions do; fewer than c are dropped.

    Raises:
        ValueError: at once: another VAE than the model's, a context of the wrong shape, or actions too few or of another
            space. While iterating: actions of another space.
    """
    c, features = codec.vae.config.group, model.action_spec.features
    config, device = model.denoiser.config, next(model.denoiser.parameters()).device
    if codec.identity != model.vae_identity:
        raise ValueError(f"the model belongs to VAE {model.vae_identity[:12]}, this one is {codec.identity[:12]}")
    if context.ndim != 5 or context.shape[1] % c != 1 % c or not context.size:
        raise ValueError(f"a context of shape {list(context.shape)} does not fit [B, 1 + k * {c}, H, W, 3]")
    B, T = context.shape[:2]
    rows = group_rows(0, 1 + (T - 1) // c, c)
    mean, std = (torch.from_numpy(part).to(device)[:, None, None] for part in (model.mean, model.std))
    z_BGCHW, _ = codec.vae.encode(torch.from_numpy(context[:, rows]).to(device))
    if z_BGCHW.shape[2:] != (config.latent_channels, config.latent_height, config.latent_width):
        raise ValueError(
            f"frames of shape {list(context.shape)} make latents {list(z_BGCHW.shape)}, the model knows "
            f"[B, T, {config.latent_channels}, {config.latent_height}, {config.latent_width}]"
        )

    def encoded(taken: list[np.ndarray]) -> Tensor:
        spec_shape = (B,) if model.action_spec.kind == "discrete" else (B, len(model.action_spec.sizes))
        for action in taken:
            if np.shape(action) != spec_shape:
                raise ValueError(f"actions of shape {list(np.shape(action))} do not fit {list(spec_shape)}")
        return torch.from_numpy(model.action_spec.encode(np.stack(taken, axis=1))).to(device)  # [B, frames, features]

    coming = iter(actions)
    known = list(islice(coming, T))
    if len(known) < T:
        raise ValueError(f"a context of shape {list(context.shape)} needs {T} actions, there are {len(known)}")
    actions_BGA = encoded([known[row] for row in rows]).reshape(B, -1, c * features)
    has_action = (torch.arange(actions_BGA.shape[1], device=device) > 0).expand(B, -1)
    past = prefill(model.denoiser, (z_BGCHW - mean) / std, actions_BGA, has_action, sampler, model.early)

    def following() -> Iterator[Tensor]:
        while len(taken := list(islice(coming, c))) == c:
            yield encoded(taken).flatten(1)

    def latents() -> Iterator[Tensor]:
        yield z_BGCHW
        for x in generate(model.denoiser, past, following(), sampler, [seed * 2**32 + b for b in range(B)]):
            yield x[:, None] * std + mean

    frames = decode_stream(codec.vae, latents())
    next(frames)  # the context, as the VAE shows it
    return frames
