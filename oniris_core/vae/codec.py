"""A trained VAE for use by hand: one video in, one video out, as numpy arrays."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from oniris_core.vae.model import Vae
from oniris_core.vae.streaming import decode_stream, encode_stream

_CHUNK = 32  # latent frames computed at once


@dataclass(frozen=True)
class Codec:
    """Compresses one video at a time, of any length, a chunk after the other.

    Attributes:
        vae: the model.
        identity: the digest of its bytes, by which latents and world models know the VAE they belong to.
    """

    vae: Vae
    identity: str

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.vae.parameters()).device

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Latents of a video.

        Args:
            frames: uint8 [T, H, W, 3], T a multiple of `vae.config.group`: a last incomplete group is refused, never
                dropped or padded behind your back.

        Returns:
            float32 [T / group, C, H / space, W / space].

        Raises:
            ValueError: another dtype or shape, no frames, an incomplete group, or a size the compression does not divide.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            values = f" with values {frames.min():g} to {frames.max():g}" if frames.size else ""
            raise ValueError(
                f"a video must be uint8 [T, H, W, 3] with values 0 to 255, not {frames.dtype} {list(frames.shape)}{values}"
            )
        step = _CHUNK * self.vae.config.group
        chunks = (np.array(frames[i : i + step]) for i in range(0, max(len(frames), 1), step))
        return np.concatenate(list(encode_stream(self.vae, chunks, self.device)))

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """The video of latents.

        Args:
            latents: float [t, C, h, w], as `encode` gives them.

        Returns:
            uint8 [t * group, H, W, 3].

        Raises:
            ValueError: another shape, or values that are not finite.
        """
        z = torch.from_numpy(np.array(latents, np.float32))

        def chunks() -> Iterator[torch.Tensor]:
            for i in range(0, max(len(z), 1), _CHUNK):
                yield z[None, i : i + _CHUNK].to(self.device)

        return np.concatenate([frames[0] for frames in decode_stream(self.vae, chunks())])
