"""What a model is cut into to be run elsewhere: six functions, each an ONNX file.

    start     the state of a dream before its first latent frame, which is given
    encode    a group of frames to its latent frame, in its turn
    begin     all that is known of the next latent frame before it is looked at
    evaluate  the denoiser at one noise level, and what its blocks would remember of the frame
    enter     a finished frame joins the past: nothing is computed, only moved
    decode    a latent frame to its group of frames

Latents are standardised wherever they go in or out. Axes: B rollouts, c frames of a group, C channels, H, W, h, w.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oniris_core.export.graphs import Part
from oniris_core.vae.model import Vae, to_uint8, to_unit
from oniris_core.vae.stepping import DecoderForm, EncoderForm, StreamState
from oniris_core.world.generation_form import GenerationForm

ROWS = 2
"""Rollouts in the examples that are exported with; the files take any number."""


class Standardising(nn.Module):
    """Encoder and decoder between frames uint8 [B, c, H, W, 3] and standardised latents [B, C, h, w]."""

    mean: Tensor
    std: Tensor

    def __init__(self, vae: Vae, mean: np.ndarray, std: np.ndarray):
        super().__init__()
        self.encoder, self.decoder = EncoderForm(vae.encoder), DecoderForm(vae.decoder)
        self.register_buffer("mean", torch.from_numpy(mean)[:, None, None])
        self.register_buffer("std", torch.from_numpy(std)[:, None, None])

    def encode(self, state: StreamState, frames: Tensor) -> tuple[StreamState, Tensor]:
        """The next group of frames to its latent frame."""
        state, z = self.encoder(state, to_unit(frames))
        return state, (z - self.mean) / self.std

    def decode(self, state: StreamState, x: Tensor) -> tuple[StreamState, Tensor]:
        """The next latent frame to its group of frames."""
        state, pixels = self.decoder(state, x * self.std + self.mean)
        return state, to_uint8(pixels)


def world_parts(form: GenerationForm) -> list[Part]:
    """`start`, `begin`, `evaluate` and `enter` of a world model, for states with room for the whole window."""
    frame = form.stem.new_zeros(ROWS, *form.latent_shape)
    sigma = frame.new_ones(ROWS)
    told = form.tell(frame.new_zeros(ROWS, form.config.action_features), sigma)
    state = form.begin(frame, sigma)
    ahead = form.look_ahead(state, told)
    entering = tuple(form.evaluate(state, ahead, frame, sigma)[1])

    def evaluate(*arguments: Any) -> tuple[Any, ...]:
        denoised, left = form.evaluate(*arguments)
        return denoised, tuple(left)

    return [
        Part("start", nn.Module(), lambda *given: (form.begin(*given),), {"x": frame, "sigma": sigma}, ("next",)),
        Part("begin", form, lambda *given: (form.look_ahead(*given),), {"state": state, "told": told}, ("ahead",)),
        Part("evaluate", form, evaluate, {"state": state, "ahead": ahead, "x": frame, "sigma": sigma},
             ("denoised", "entering")),
        Part("enter", nn.Module(), lambda *given: (form.join(*given),),
             {"state": state, "told": told, "x": frame, "sigma": sigma, "entering": entering}, ("next",)),
    ]  # fmt: skip


def vae_parts(standardising: Standardising, latent_height: int, latent_width: int) -> list[Part]:
    """`encode` and `decode` of a VAE."""
    config = standardising.encoder.config
    z = torch.zeros(ROWS, config.latent_channels, latent_height, latent_width)
    size = latent_height * config.space, latent_width * config.space
    frames = torch.zeros(ROWS, config.group, *size, 3, dtype=torch.uint8)
    encoder = standardising.encoder.begin(ROWS, latent_height, latent_width)
    decoder = standardising.decoder.begin(ROWS, latent_height, latent_width)
    return [
        Part("encode", standardising.encoder, standardising.encode, {"encoder": encoder, "frames": frames}, ("next", "x")),
        Part("decode", standardising.decoder, standardising.decode, {"decoder": decoder, "x": z}, ("next", "frames")),
    ]  # fmt: skip
