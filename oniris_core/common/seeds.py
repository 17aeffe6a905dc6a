"""Randomness as a function of its place: every draw is keyed by (seed, purpose, indices), none depends on history.

So a run may be interrupted, split over workers or replayed from any step and draws the same numbers.
"""

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def numpy_rng(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """An independent NumPy generator for this seed, purpose and indices."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *indices])


def torch_generator(seed: int, purpose: str, *indices: int, device: str = "cpu") -> "torch.Generator":
    """An independent torch generator for this seed, purpose and indices."""
    import torch

    entropy = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *indices]).generate_state(2, np.uint64)
    return torch.Generator(device).manual_seed(int(entropy[0] >> np.uint64(1)))
