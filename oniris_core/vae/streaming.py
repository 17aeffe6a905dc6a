"""Encodes and decodes videos of any length, a chunk at a time, in constant memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch

from oniris_core.vae.model import Vae, VaeCache

PIXELS_AT_ONCE = 2**22
"""Pixels that the encoder is given at once: 8 episodes of 64 x 64, 128 frames of each."""


def side_by_side(height: int, width: int, group: int) -> tuple[int, int]:
    """Episodes to encode side by side, 1 to 8, and groups of each at once, 1 to 32: only speed and memory depend on them.

    Args:
        height, width: pixels of a frame.
        group: frames of a group.
    """
    groups = max(PIXELS_AT_ONCE // (height * width * group), 1)
    return min(max(groups // 32, 1), 8), min(groups, 32)


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


def encode_videos(
    vae: Vae, read: Callable[[int, int, int], np.ndarray], groups: Sequence[int], chunk: int, device: torch.device
) -> list[np.ndarray]:
    """Latents of videos of different lengths, side by side in one batch that shrinks as they end.

    Args:
        vae: the model.
        read: `read(video, first, count)` gives groups first .. first+count-1 of a video, uint8 [count * group, H, W, 3].
        groups: how many groups each video has.
        chunk: groups read at once of each; only speed and memory depend on it.
        device: where to compute.

    Returns:
        float32 [groups[k], C, h, w] for each video, as if it had been encoded alone.
    """
    parts: list[list[np.ndarray]] = [[] for _ in groups]
    longest_first = sorted(range(len(groups)), key=lambda video: -groups[video])  # who still runs is always a prefix
    cache: VaeCache | None = None
    for first in range(0, max(groups), chunk):
        running = [video for video in longest_first if groups[video] > first]
        blocks = [read(video, first, min(chunk, groups[video] - first)) for video in running]
        frames = np.zeros((len(running), *blocks[0].shape), np.uint8)
        for row, block in zip(frames, blocks, strict=True):
            row[: len(block)] = block  # behind the end of a video stands black, which nothing before it can see
        before = None if cache is None else cache.select(slice(len(running)))
        latents, cache = vae.encode(torch.from_numpy(frames).to(device), before)
        for video, block, of_video in zip(running, blocks, latents, strict=True):
            parts[video].append(of_video[: len(block) // vae.config.group].cpu().numpy())
    return [np.concatenate(of_video) for of_video in parts]


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
