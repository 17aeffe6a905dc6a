"""Measures on arrays, never on decoded video."""

import numpy as np
import torch
from einops import rearrange
from torchmetrics.functional.image import structural_similarity_index_measure

_SSIM_BATCH = 8  # images at once; more is slower on the CPU


def psnr(a: np.ndarray, b: np.ndarray, axes: int = 3) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of uint8 images, over the last `axes` axes; identical images give 100 dB."""
    difference = a.astype(np.float32) - b.astype(np.float32)
    mse = np.square(difference).mean(axis=tuple(range(-axes, 0)))
    return 10 * np.log10(255**2 / np.maximum(mse, 255**2 * 1e-10))


def ssim(a_THWC: np.ndarray, b_THWC: np.ndarray) -> np.ndarray:
    """Structural similarity [T] of uint8 images: torchmetrics' (Gaussian window of 11 pixels, sigma 1.5, range 1)."""
    parts = []
    for first in range(0, len(a_THWC), _SSIM_BATCH):
        a, b = (
            torch.from_numpy(rearrange(x[first : first + _SSIM_BATCH], "t h w c -> t c h w") / np.float32(255))
            for x in (a_THWC, b_THWC)
        )
        # Double precision takes 5 to 100 times as long on the CPU. Single is 1e-6 off on recorded frames, and 2e-4 where
        # both are flat and bright, because its variances are differences of large numbers there.
        found = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
        assert isinstance(found, torch.Tensor)
        parts.append(found.reshape(-1).numpy())
    return np.concatenate(parts)


def crop_psnr(truth: np.ndarray, other: np.ndarray, background: np.ndarray, threshold: int = 24) -> np.ndarray:
    """PSNR over the pixels of each true frame that differ from the background, where things move.

    Args:
        truth, other: uint8 [T, H, W, 3].
        background: uint8 [H, W, 3], the episode's median frame.
        threshold: difference of any colour, in grey levels, that counts as moving.

    Returns:
        [T], NaN where nothing differs.
    """
    moving = (np.abs(truth.astype(np.int16) - background) > threshold).any(-1)
    error = np.square(truth.astype(np.float32) - other).mean(-1)
    count = moving.sum((1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        mse = np.where(moving, error, 0).sum((1, 2)) / count
        return np.where(count > 0, 10 * np.log10(255**2 / np.maximum(mse, 255**2 * 1e-10)), np.nan)
