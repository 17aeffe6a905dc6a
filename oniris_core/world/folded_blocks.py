"""The UNet's blocks with everything that is constant after training folded into their weights.

Weights come normalised and hold the gains, the border gains, and the constants of mp_silu and mp_sum of what reads or adds
their output (arXiv 2312.02696, eq. 47, 81, 88; `oniris_core.nn.magnitude`). One frame of each rollout at a time.

Axes: B rollouts side by side, C channels, H, W; N heads, P pixels, D channels of a head, V slots of the window.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oniris_core.nn.magnitude import MPConv, normalize
from oniris_core.world.temporal import Attention
from oniris_core.world.unet import Block

SILU = 1 / 0.596  # of mp_silu
STAYS, ADDED = (share / math.hypot(0.7, 0.3) for share in (0.7, 0.3))  # of mp_sum(x, y, 0.3)


def folded(conv: MPConv, height: int = 0, width: int = 0, gain: Tensor | float = 1.0) -> Tensor:
    """The weight by which `conv` multiplies, for frames of height x width pixels if it is a convolution, times `gain`."""
    return conv.scaled_weight(gain, height, width).detach().clone()


def same_conv(x: Tensor, weight: Tensor) -> Tensor:
    """A convolution that keeps height and width."""
    return F.conv2d(x, weight, padding=weight.shape[-1] // 2)


class Entering(NamedTuple):
    """What a block remembers of a frame: what its gated convolution read [B, C, H, W]; key and value, if it looks back."""

    conv: Tensor
    attention: tuple[Tensor, Tensor] | None


class FoldedAttention(nn.Module):
    """`temporal.Attention` for one new frame: over its own pixels and, if it looks back, over the slots of the window.

    Softmax as exponentials over their sum: normalised queries and keys keep the scores within sqrt(D), so that no maximum
    need be subtracted, and the past and the frame itself are simply added. Values carry a channel of ones for the sum.
    """

    qkv: Tensor
    out: Tensor

    def __init__(self, attention: Attention, height: int, width: int):
        super().__init__()
        self.head_channels, self.looks_back = attention.head_channels, attention.window > 0
        # Channels lie as (head, channel, one of q, k, v); here q, k and v one after the other.
        qkv = folded(attention.qkv, height, width)
        D = self.head_channels
        self.register_buffer("qkv", qkv.unflatten(0, (-1, D, 3)).movedim(2, 0).flatten(0, 2).contiguous())
        self.register_buffer("out", folded(attention.out, height, width, ADDED))

    def forward(
        self, x: Tensor, keys: Tensor | None, values: Tensor | None, angles: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[B, C, H, W] to what is added to it, and the frame's own key [B, N, D, P] and value [B, N, D + 1, P]."""
        D = self.head_channels
        qkv = same_conv(x, self.qkv).flatten(2).unflatten(1, (3, -1, D))  # [B, 3, N, D, P]
        qkv = normalize(qkv, (3,))
        if self.looks_back:
            a, b = qkv[:, :2].chunk(2, dim=3)
            cos, sin = angles
            q, k = torch.cat([a * cos - b * sin, a * sin + b * cos], dim=3).unbind(1)
        else:
            q, k = qkv[:, 0] * D**-0.5, qkv[:, 1]
        v = F.pad(qkv[:, 2], (0, 0, 0, 1), value=1.0)  # [B, N, D + 1, P]
        y = v @ (k.transpose(-1, -2) @ q).exp_()
        if self.looks_back:
            assert keys is not None
            assert values is not None
            y = y + values @ (keys.transpose(-1, -2) @ q).exp_()
        y = (y[:, :, :D] / y[:, :, D:]).flatten(1, 2).unflatten(-1, x.shape[-2:])
        return same_conv(y, self.out), k, v


class FoldedBlock(nn.Module):
    """`unet.Block` for one new frame of each rollout; height and width are those of its output."""

    skip: Tensor | None
    frame: Tensor
    past: Tensor
    second: Tensor
    embedding: Tensor
    gate: Tensor

    def __init__(self, block: Block, height: int, width: int):
        super().__init__()
        self.decoder, self.resample = block.decoder, block.resample
        skip_gain = STAYS if block.decoder else 1.0
        self.register_buffer("skip", None if block.skip is None else folded(block.skip, height, width, skip_gain))
        self.register_buffer("frame", folded(block.conv0.frame, height, width, SILU))
        self.register_buffer("past", folded(block.conv0.past, height, width, SILU))
        self.register_buffer("second", folded(block.conv1, height, width, SILU * ADDED))
        self.register_buffer("embedding", folded(block.embedding, gain=SILU * block.embedding_gain))
        self.register_buffer("gate", block.conv0.gate.detach().clone())
        self.attention = FoldedAttention(block.attention, height, width) if block.attention else None

    @property
    def looks_back(self) -> bool:
        """Whether its attention reads earlier frames."""
        return self.attention is not None and self.attention.looks_back

    def forward(
        self,
        x: Tensor,
        of_frame: Tensor,
        of_past: Tensor,
        keys: Tensor | None,
        values: Tensor | None,
        angles: tuple[Tensor, ...],
    ) -> tuple[Tensor, Entering]:
        """One block.

        Args:
            x: [B, C, H, W].
            of_frame: [B, C', 1, 1], by which what the first convolution makes of the frame is multiplied.
            of_past: [B, C', H', W'], what is added to that: of the two frames before.
            keys, values: of the window, if it looks back.
            angles: see `Ahead`.
        """
        if self.resample == "down":
            x = F.avg_pool2d(x, 2)
        elif self.resample == "up":
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        if not self.decoder:
            x = normalize(x if self.skip is None else same_conv(x, self.skip), (1,))
        read = F.silu(x)
        y = F.silu(torch.addcmul(of_past, same_conv(read, self.frame), of_frame))
        y = same_conv(y, self.second)
        joined = None if self.skip is None or not self.decoder else y + same_conv(x, self.skip)
        x = torch.add(y, x, alpha=STAYS) if joined is None else joined
        entering = None
        if self.attention is not None:
            y, key, value = self.attention(x, keys, values, angles)
            x = torch.add(y, x, alpha=STAYS)
            entering = (key, value) if self.looks_back else None
        return x.clamp(-256, 256), Entering(read, entering)
