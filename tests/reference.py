"""The dense-mask reference: the same weights, run as one long sequence of frames with an explicit mask, no cuts.

It shares no code with `attend_parallel` or the pairing in `GatedCausalConv`; it patches both with the plain forms.
"""

import contextlib
from unittest.mock import patch

import torch
import torch.nn.functional as F
from einops import rearrange

from oniris_core.nn.magnitude import mp_sum, normalize
from oniris_core.nn.rotary import rotary_angles, rotate
from oniris_core.world.denoiser import Frames
from oniris_core.world.generation_form import GenerationForm
from oniris_core.world.temporal import Attention, GatedCausalConv, per_frame


def visible(T: int, window: int) -> torch.Tensor:
    """bool [2T, 2T]: row reads column. Frames 0..T-1 are clean, T..2T-1 noised."""
    mask = torch.zeros(2 * T, 2 * T, dtype=torch.bool)
    for i in range(T):
        for j in range(T):
            in_window = i - window <= j
            mask[i, j] = (j <= i) and in_window  # clean_i reads clean_j, j <= i
            mask[T + i, j] = (j < i) and in_window  # noised_i reads clean_j, j < i
        mask[T + i, T + i] = True
    return mask


def dense_attention(self: Attention, x, positions=None):
    S, T, _, H, W = x.shape[1:]
    qkv = rearrange(per_frame(self.qkv, x), "b s t (n d k) h w -> k b s t n (h w) d", k=3, d=self.head_channels)
    q, k, v = normalize(qkv, (-1,))
    if self.window:
        angles = tuple(part[:, None, None] for part in rotary_angles(positions, self.head_channels))
        q, k = rotate(q, angles), rotate(k, angles)
        mask = visible(T, self.window)
    else:
        mask = torch.eye(S * T, dtype=torch.bool)  # within a frame: of one stream as well
    mask = mask.repeat_interleave(H * W, 0).repeat_interleave(H * W, 1).to(x.device)
    q, k, v = (rearrange(z, "b s t n p d -> b n (s t p) d") for z in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    y = rearrange(y, "b n (s t h w) d -> b s t (n d) h w", s=S, t=T, h=H)
    return per_frame(self.out, y)


def dense_conv(self: GatedCausalConv, x, c_noise, positions):
    S, T = x.shape[1:3]
    frames = []
    for s in range(S):
        for t in range(T):
            y = self.frame(x[:, s, t])
            if t:
                pair = torch.cat([x[:, 0, max(t - 2, 0)], x[:, 0, t - 1]], dim=1)
                a, b, c = self.gate
                gate = torch.sigmoid(a * c_noise[:, s, t] + b * torch.log1p(positions[t].to(c_noise.dtype)) + c)
                y = mp_sum(y, self.past(pair), gate[:, None, None, None])
            frames.append(y)
    return torch.stack(frames, dim=1).unflatten(1, (S, T))


@contextlib.contextmanager
def dense():
    """Inside, networks run as one long sequence with the mask written out."""
    with patch.object(Attention, "forward", dense_attention), patch.object(GatedCausalConv, "forward", dense_conv):
        yield


@torch.no_grad()
def stepwise(form: GenerationForm, clean: Frames, x_BTCHW: torch.Tensor, sigma_BT: torch.Tensor, slots=None):
    """Both streams [B, 2, T, ...] of a clip by the generation form: looked at frame by frame, then entered clean."""
    T = x_BTCHW.shape[1]
    state, found = form.begin(clean.x[:, 0], clean.sigma[:, 0], slots), []
    for t in range(T):
        if slots is not None and t >= slots:
            slots *= 2
            state = form.grow(state, slots)
        told = form.tell(clean.actions[:, t], clean.has_action[:, t])
        ahead = form.look_ahead(state, told)
        looks = [(clean.x[:, t], clean.sigma[:, t]), (x_BTCHW[:, t], sigma_BT[:, t])]
        found.append(torch.stack([form.denoise(state, ahead, *look) for look in looks], dim=1))
        state = form.enter(state, ahead, told, *looks[0])
    return torch.stack(found, dim=2)
