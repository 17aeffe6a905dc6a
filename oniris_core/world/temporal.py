"""The two modules in which information crosses frames (DESIGN.md sections 2 and 4).

Axes: B batch, S streams, T new frames, C channels, H, W; N heads, P pixels, D channels of a head.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oniris_core.nn.magnitude import MPConv, mp_sum, normalize
from oniris_core.nn.rotary import rotary_angles, rotate
from oniris_core.world.context import AttentionCache, Context, ConvCache, FrameOnly, Step
from oniris_core.world.video_attention import attend_parallel, attend_to_ring


def per_frame(layer: nn.Module, x_BSTCHW: Tensor) -> Tensor:
    """Apply a 2D layer to every frame."""
    return layer(x_BSTCHW.flatten(0, 2)).unflatten(0, x_BSTCHW.shape[:3])


class GatedCausalConv(nn.Module):
    """A convolution of each frame, mixed with one over the two clean frames before it.

    mp_sum(conv(frame), past(two clean frames), gate), gate = sigmoid(a c_noise + b log(1 + position) + c), one per frame.
    Before the second frame the first stands for both; a frame without a past is not mixed at all.
    """

    def __init__(self, c_in: int, c_out: int, gate_start: float):
        super().__init__()
        self.frame = MPConv(c_in, c_out, kernel=3)
        self.past = MPConv(2 * c_in, c_out, kernel=3)
        self.gate = nn.Parameter(torch.tensor([0.0, 0.0, math.log(gate_start / (1 - gate_start))]))

    def forward(
        self, x_BSTCHW: Tensor, c_noise_BST: Tensor, positions_T: Tensor, context: Context, cache: ConvCache | None
    ) -> tuple[Tensor, ConvCache | None]:
        """Convolve.

        Args:
            x_BSTCHW: activations.
            c_noise_BST: ln(sigma) / 4 of each frame.
            positions_T: int64, frame numbers.
            context: how frames see each other.
            cache: of this module, if the context has one.

        Returns:
            [B, S, T, c_out, H, W], and the new cache if the context has one.
        """
        y = per_frame(self.frame, x_BSTCHW)
        if isinstance(context, FrameOnly):
            return y, None
        clean = x_BSTCHW[:, 0]
        known = clean if cache is None else torch.cat([cache.frames, clean], dim=1)  # [B, K+T, C, H, W]
        T = clean.shape[1]
        first = max(1 - (known.shape[1] - T), 0)  # the first new frame that has a past
        if first < T:
            # For frame e of `known` the pair is (max(e-2, 0), e-1): with one more copy of the first frame in front,
            # both are plain slices.
            end, start = known.shape[1] - 1, known.shape[1] - T + first - 1

            def of_pairs() -> Tensor:
                older = torch.cat([known[:, :1], known], dim=1)[:, start:end]
                pairs = torch.cat([older, known[:, start:end]], dim=2)
                return self.past(pairs.flatten(0, 1)).unflatten(0, pairs.shape[:2])[:, None]  # one for both streams

            past = of_pairs() if cache is None or T > 1 else cache.for_next(of_pairs)
            a, b, c = self.gate
            position = torch.log1p(positions_T[first:].to(c_noise_BST.dtype))
            gate = torch.sigmoid(a * c_noise_BST[:, :, first:] + b * position + c)[..., None, None, None]
            mixed = mp_sum(y[:, :, first:], past, gate)
            y = torch.cat([y[:, :, :first], mixed], dim=2) if first else mixed
        return y, ConvCache(known[:, -2:].clone()) if isinstance(context, Step) else None


class Attention(nn.Module):
    """Self-attention over the pixels of a frame and, if `window` > 0, of up to `window` clean frames before it.

    Queries, keys and values are normalised per head; positions over time are rotary and the same for both streams.
    """

    def __init__(self, channels: int, head_channels: int, window: int):
        super().__init__()
        self.head_channels, self.window = head_channels, window
        self.qkv, self.out = MPConv(channels, 3 * channels, kernel=1), MPConv(channels, channels, kernel=1)

    def forward(
        self, x_BSTCHW: Tensor, positions_T: Tensor, context: Context, cache: AttentionCache | None
    ) -> tuple[Tensor, AttentionCache | None]:
        """Attend; arguments and result as in `GatedCausalConv.forward`."""
        # Plain torch here and in `block_sparse`: the compiler spends most of its time on the patterns of einops.
        qkv = (
            per_frame(self.qkv, x_BSTCHW).flatten(4).unflatten(3, (-1, self.head_channels, 3))
        )  # [B, S, T, N, D, 3, P]
        q, k, v = normalize(qkv.movedim(-1, -3), (-2,)).unbind(-1)  # [B, S, T, N, P, D] each
        after = None
        if isinstance(context, FrameOnly) or not self.window:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            cos, sin = rotary_angles(positions_T, self.head_channels)
            angles = cos[:, None, None], sin[:, None, None]
            q, k = rotate(q, angles), rotate(k, angles)
            if isinstance(context, Step):
                y, after = attend_to_ring(q[:, 0], k[:, 0], v[:, 0], self.window, cache)
                y = y[:, None]
            else:
                y = attend_parallel(q, k, v, self.window)
        y = y.transpose(-1, -2).flatten(3, 4).unflatten(-1, x_BSTCHW.shape[-2:])  # [B, S, T, C, H, W]
        return per_frame(self.out, y), after
