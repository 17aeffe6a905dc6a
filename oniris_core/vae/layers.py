"""Layers of the group-causal VAE (docs/design.md, section 2). Axes: B batch, T frames, C channels, H, W.

Every frame at a level belongs to a group of `g` frames that one latent frame will stand for. Output group n depends on
input groups up to n; the only memory between chunks of a video is the last group that each convolution read.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def per_frame(layer: nn.Module, x_BTCHW: Tensor) -> Tensor:
    """Apply a 2D layer to every frame."""
    return layer(x_BTCHW.flatten(0, 1)).unflatten(0, x_BTCHW.shape[:2])


def area_resampling(c_in: int, c_out: int) -> Tensor:
    """The matrix [c_out, c_in] that resamples a channel axis by area: means when it shrinks, copies when it grows."""
    return F.adaptive_avg_pool1d(torch.eye(c_in)[:, None], c_out)[:, 0].T.contiguous()


class RMSNorm(nn.Module):
    """x / rms(x) over channels, times a learned gain per channel; nothing is normalised over time or space."""

    def __init__(self, channels: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """Normalise; same shape."""
        scale = torch.rsqrt(x_BTCHW.square().mean(2, keepdim=True) + 1e-6)
        return x_BTCHW * scale * self.gain[:, None, None]


class ResampledProjection(nn.Module):
    """A 1x1 convolution plus the parameter-free shortcut that area-resamples the channels, as one matrix product."""

    shortcut: Tensor

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in) / math.sqrt(c_in) * 0.5)
        self.bias = nn.Parameter(torch.zeros(c_out))
        self.register_buffer("shortcut", area_resampling(c_in, c_out), persistent=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """[N, c_in, H, W] to [N, c_out, H, W]."""
        return F.conv2d(x_NCHW, (self.weight + self.shortcut)[:, :, None, None], self.bias)


class GroupCausalConv(nn.Module):
    """A convolution whose output group sees its own input group, whole, and the one before it.

    Kernel (2g, k, k) with time stride g and g times the output channels, unfolded into g frames. Before the first group
    stands a copy of it. The taps on the past start at zero.
    """

    def __init__(self, channels: int, group: int, kernel: int):
        super().__init__()
        self.group = group
        self.conv = nn.Conv2d(2 * group * channels, group * channels, kernel, padding=kernel // 2)
        with torch.no_grad():
            self.conv.weight[:, : group * channels] = 0

    def forward(self, x_BTCHW: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """Convolve whole groups.

        Args:
            x_BTCHW: T is a multiple of the group.
            past: [B, 1, g*C, H, W], the group read last, or None at the start of a video.

        Returns:
            The output, of the same shape, and the past for the next chunk.
        """
        groups = rearrange(x_BTCHW, "b (n g) c h w -> b n (g c) h w", g=self.group)
        before = torch.cat([groups[:, :1] if past is None else past, groups[:, :-1]], dim=1)
        y = per_frame(self.conv, torch.cat([before, groups], dim=2))
        return rearrange(y, "b n (g c) h w -> b (n g) c h w", g=self.group), groups[:, -1:].detach()


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(group_causal_conv(silu(norm(x)))))); the last convolution starts at zero.

    With `embedding` channels given, the second norm is followed by a scale and shift per channel computed from an
    embedding of the latent's noise level.
    """

    def __init__(self, channels: int, group: int, kernel: int, embedding: int = 0):
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(channels), RMSNorm(channels)
        self.temporal = GroupCausalConv(channels, group, kernel)
        self.spatial = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
        nn.init.zeros_(self.spatial.weight)
        self.modulate = nn.Linear(embedding, 2 * channels) if embedding else None
        if self.modulate is not None:
            nn.init.zeros_(self.modulate.weight)

    def forward(self, x: Tensor, past: Tensor | None, embedding_BE: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[B, T, C, H, W] to the same shape, and the past for the next chunk."""
        y, past = self.temporal(F.silu(self.norm1(x)), past)
        y = self.norm2(y)
        if self.modulate is not None:
            assert embedding_BE is not None
            scale, shift = self.modulate(embedding_BE)[:, None, :, None, None].chunk(2, dim=2)
            y = y * (1 + scale) + shift
        return x + per_frame(self.spatial, F.silu(y)), past
