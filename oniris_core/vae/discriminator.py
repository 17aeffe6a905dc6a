"""Paired discriminators: shown truth and reconstruction side by side, which of the two is the truth?

Seeing both takes away everything a reconstruction got right, so that what is left to tell them by is what it lost.
Axes: B batch, T frames, C channels, H, W.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class Verdict(NamedTuple):
    """Logits over places of a clip, positive where the first of a pair is taken for the truth."""

    frames: Tensor
    """[B * T, 1, h, w], of the 2D network, which sees single frames."""
    clips: Tensor
    """[B, 1, t, h, w], of the 3D network, which sees motion."""


class PairedDiscriminator(nn.Module):
    """A per-frame 2D and a 3D convolutional network over pairs of videos, concatenated along their channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.frames = _network(nn.Conv2d, channels, kernel=(4, 4), stride=(2, 2), padding=(1, 1))
        self.clips = _network(nn.Conv3d, channels, kernel=(3, 4, 4), stride=(1, 2, 2), padding=(1, 1, 1))

    def forward(self, first_BTCHW: Tensor, second_BTCHW: Tensor) -> Verdict:
        """Judge a pair of videos of the same shape, at least 4 pixels wide and high."""
        pair = torch.cat([first_BTCHW, second_BTCHW], dim=2)
        return Verdict(self.frames(pair.flatten(0, 1)), self.clips(rearrange(pair, "b t c h w -> b c t h w")))


def _network(
    conv: Callable[..., nn.Module], channels: int, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]
) -> nn.Sequential:  # fmt: skip
    # A logit sees 18 pixels across and, in 3D, 7 frames: enough for small moving things. GroupNorm does not mix clips.
    return nn.Sequential(
        conv(6, channels, kernel, stride, padding),
        nn.SiLU(),
        conv(channels, 2 * channels, kernel, stride, padding),
        nn.GroupNorm(1, 2 * channels),
        nn.SiLU(),
        conv(2 * channels, 1, 3, padding=1),
    )


def discriminator_loss(truth_first: Verdict, truth_second: Verdict) -> Tensor:
    """Cross-entropy of telling which is which, averaged over both networks and both orders."""
    wrong = [F.softplus(-a).mean() + F.softplus(b).mean() for a, b in zip(truth_first, truth_second, strict=True)]
    return torch.stack(wrong).mean() / 2


def adversarial_loss(truth_first: Verdict, truth_second: Verdict) -> Tensor:
    """What the decoder minimises: the cross-entropy of the swapped answers (the non-saturating form)."""
    return discriminator_loss(truth_second, truth_first)
