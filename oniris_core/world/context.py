"""The three ways to run the same weights, and what is remembered between steps. Axes: see `oniris_core.common.axes`.

Information crosses frames in two modules only, `GatedCausalConv` and `Attention`, and only as the context says:

    clean_i   reads clean_1 .. clean_i
    noised_i  reads clean_1 .. clean_{i-1} and itself
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ConvCache:
    """The last two clean activations a gated convolution read: frames [B, 0..2, C, H, W]."""

    frames: Tensor


@dataclass(frozen=True)
class AttentionCache:
    """Keys and values of the last frames, at most the window: [B, T, N, P, D] each; keys are rotated already."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class BlockCache:
    """What one block remembers."""

    conv: ConvCache | None = None
    attention: AttentionCache | None = None


@dataclass(frozen=True)
class Cache:
    """What a denoiser remembers of the past. Never changed in place: a step returns a new one.

    Attributes:
        position: how many frames went in.
        last: the last clean frame [B, C, H, W], None before the first.
        last_sigma: the noise level it was declared to have [B], None before the first.
        blocks: one entry per block of the network; empty before the first frame.
    """

    position: int = 0
    last: Tensor | None = None
    last_sigma: Tensor | None = None
    blocks: tuple[BlockCache, ...] = ()


@dataclass(frozen=True)
class Parallel:
    """Clean and noised streams of a whole clip that has no past: S = 2, stream 0 clean and stream 1 noised."""


@dataclass(frozen=True)
class Step:
    """New frames that follow the cache, each reading the cache, the new frames before it and itself: S = 1."""

    cache: Cache = Cache()


@dataclass(frozen=True)
class FrameOnly:
    """Every frame by itself, the temporal paths skipped: S = 1. The weak model of guidance."""


Context = Parallel | Step | FrameOnly
