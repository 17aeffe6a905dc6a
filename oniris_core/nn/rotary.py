"""Rotary positions over time (arXiv 2104.09864), exact at any frame number."""

import math

import torch
from torch import Tensor


def rotary_angles(positions: Tensor, channels: int, base: float = 1000.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's rotation.

    The angle is reduced to one turn in double precision before it is rounded, so that the rotation between frames
    1,000,000 and 1,000,004 is the one between frames 0 and 4 to float32 accuracy.

    Args:
        positions: int64 [T], frame numbers.
        channels: channels D of a head, even.
        base: the slowest pair turns once in about 2 pi base frames.

    Returns:
        Two float32 tensors [T, D / 2].
    """
    frequency = base ** (-torch.arange(channels // 2, dtype=torch.float64, device=positions.device) / (channels // 2))
    angle = torch.remainder(positions[:, None].double() * frequency, 2 * math.pi)
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate pairs of channels (the first half with the second half) of x [..., D]; angles broadcast to [..., D/2]."""
    cos, sin = (part.to(x.dtype) for part in angles)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
