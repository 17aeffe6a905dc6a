"""The two modules in which information crosses frames (docs/design.md, sections 1 and 3).

Axes: B batch, S streams, T frames, C channels, H, W; N heads, P pixels, D channels of a head.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oniris_core.nn.magnitude import MPConv, mp_sum, normalize
from oniris_core.nn.rotary import rotary_angles, rotate
from oniris_core.world.video_attention import attend_parallel

GATE_START = 0.6
"""How open a gate on the past is before training."""


def per_frame(layer: nn.Module, x_BSTCHW: Tensor) -> Tensor:
    """Apply a 2D layer to every frame."""
    return layer(x_BSTCHW.flatten(0, 2)).unflatten(0, x_BSTCHW.shape[:3])


class GatedCausalConv(nn.Module):
    """A convolution of each frame, mixed with one over the two clean frames before it.

    mp_sum(conv(frame), past(two clean frames), gate), gate = sigmoid(a c_noise + b log(1 + position) + c), one per frame.
    Before the second frame the first stands for both; a frame without a past is not mixed at all.
    """

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.frame = MPConv(c_in, c_out, kernel=3)
        self.past = MPConv(2 * c_in, c_out, kernel=3)
        self.gate = nn.Parameter(torch.tensor([0.0, 0.0, math.log(GATE_START / (1 - GATE_START))]))

    def forward(self, x_BSTCHW: Tensor, c_noise_BST: Tensor, positions_T: Tensor) -> Tensor:
        """Convolve.

        Args:
            x_BSTCHW: activations of both streams, stream 0 clean and stream 1 noised.
            c_noise_BST: ln(sigma) / 4 of each frame.
            positions_T: int64, frame numbers.

        Returns:
            [B, S, T, c_out, H, W].
        """
        y = per_frame(self.frame, x_BSTCHW)
        clean = x_BSTCHW[:, 0]
        if clean.shape[1] == 1:
            return y  # the first frame has no past
        # The pair before frame e is (max(e - 2, 0), e - 1): with one more copy of the first frame in front, two slices.
        older = torch.cat([clean[:, :1], clean[:, :-2]], dim=1)
        pairs = torch.cat([older, clean[:, :-1]], dim=2)
        past = self.past(pairs.flatten(0, 1)).unflatten(0, pairs.shape[:2])[:, None]  # one for both streams
        a, b, c = self.gate
        position = torch.log1p(positions_T[1:].to(c_noise_BST.dtype))
        gate = torch.sigmoid(a * c_noise_BST[:, :, 1:] + b * position + c)[..., None, None, None]
        return torch.cat([y[:, :, :1], mp_sum(y[:, :, 1:], past, gate)], dim=2)


class Attention(nn.Module):
    """Self-attention over the pixels of a frame and, if `window` > 0, of up to `window` clean frames before it.

    Queries, keys and values are normalised per head; positions over time are rotary and the same for both streams.
    """

    def __init__(self, channels: int, head_channels: int, window: int):
        super().__init__()
        self.head_channels, self.window = head_channels, window
        self.qkv, self.out = MPConv(channels, 3 * channels, kernel=1), MPConv(channels, channels, kernel=1)

    def forward(self, x_BSTCHW: Tensor, positions_T: Tensor | None = None) -> Tensor:
        """Attend; arguments and result as in `GatedCausalConv.forward`. Without a window positions are not looked at."""
        # Plain torch here and in `block_sparse`: the compiler spends most of its time on the patterns of einops.
        qkv = (
            per_frame(self.qkv, x_BSTCHW).flatten(4).unflatten(3, (-1, self.head_channels, 3))
        )  # [B, S, T, N, D, 3, P]
        q, k, v = normalize(qkv.movedim(-1, -3), (-2,)).unbind(-1)  # [B, S, T, N, P, D] each
        if not self.window or positions_T is None:
            q_4D, k_4D, v_4D = (z.flatten(0, 2) for z in (q, k, v))  # four axes: ONNX knows no more
            y = F.scaled_dot_product_attention(q_4D, k_4D, v_4D).unflatten(0, q.shape[:3])
        else:
            cos, sin = rotary_angles(positions_T, self.head_channels)
            angles = cos[:, None, None], sin[:, None, None]
            y = attend_parallel(rotate(q, angles), rotate(k, angles), v, self.window)
        y = y.transpose(-1, -2).flatten(3, 4).unflatten(-1, x_BSTCHW.shape[-2:])  # [B, S, T, C, H, W]
        return per_frame(self.out, y)
