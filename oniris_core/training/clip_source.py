"""Where a training step's clips come from: the memory of the device if they fit, else this machine's memory or disk."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from oniris_core.data.frame_clips import FrameClips
from oniris_core.data.latent_clips import LatentClips, action_features

SHARE = 0.4
"""Of the free memory of a GPU that data may take."""


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """On a GPU by way of pinned memory, so that nothing waits for the copy."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def clip_source(clips: LatentClips, device: torch.device) -> Callable[[np.ndarray], tuple[Tensor, Tensor, Tensor]]:
    """A function that makes of numbers of clips their `LatentBatch` in tensors on the device."""
    store = clips.store
    if device.type != "cuda" or not clips.in_memory or not _fits(store.latents.nbytes, device):

        def read(chosen: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
            found = clips[chosen]
            return tuple(to_device(part, device) for part in (found.latents, found.actions, found.has_action))  # type: ignore[return-value]

        return read
    latents = torch.from_numpy(store.latents).to(device)
    features = torch.from_numpy(action_features(store, 0, len(store.latents))).to(device)
    mean, std = (torch.from_numpy(part).to(device)[:, None, None] for part in (store.mean, store.std))

    def gather(chosen: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        rows, has_action = (to_device(part, device) for part in clips.places(chosen))
        return (latents[rows].float() - mean) / std, features[rows], has_action

    return gather


def frame_source(clips: FrameClips, device: torch.device) -> Callable[[np.ndarray], Tensor]:
    """The same for clips of frames: uint8 [B, T, H, W, 3]."""
    frames = clips.frames
    if device.type != "cuda" or not clips.in_memory or not _fits(frames.nbytes, device):
        return lambda chosen: to_device(clips[chosen], device)
    held = torch.from_numpy(frames).to(device)
    return lambda chosen: held[to_device(clips.rows(chosen), device)]


def _fits(size: int, device: torch.device) -> bool:
    return size <= SHARE * torch.cuda.mem_get_info(device)[0]
