"""Encodes and decodes videos of any length, a chunk at a time, in constant memory."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from oniris_core.vae.model import Vae, VaeCache


def encode_stream(vae: Vae, chunks: Iterable[np.ndarray], device: torch.device) -> Iterator[np.ndarray]:
    """Latents of one video.

    Args:
        vae: the model.
        chunks: uint8 [T, H, W, 3] each, T a multiple of the group, in order.
        device: where to compute.

    Yields:
        float32 [T / group, C, h, w] for each chunk; the same numbers however the video is cut.
    """
    cache: VaeCache | None = None
    for frames in chunks:
        latents, cache = vae.encode(torch.from_numpy(frames).to(device)[None], cache)
        yield latents[0].cpu().numpy()


def decode_stream(vae: Vae, chunks: Iterable[torch.Tensor]) -> Iterator[np.ndarray]:
    """Frames of a batch of videos.

    Args:
        vae: the model.
        chunks: latents [B, t, C, h, w] each, as the encoder gives them, in order.

    Yields:
        uint8 [B, t * group, H, W, 3] for each chunk.
    """
    cache: VaeCache | None = None
    for latents in chunks:
        frames, cache = vae.decode(latents, cache)
        yield frames.cpu().numpy()
