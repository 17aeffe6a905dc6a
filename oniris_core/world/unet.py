"""The magnitude-preserving UNet (arXiv 2312.02696, figure 21), with a past in two of its modules.

Axes: B batch, S streams, T frames, C channels, H, W; E features of the embedding.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oniris_core.common.errors import UserError
from oniris_core.nn.magnitude import MPConv, mp_cat, mp_silu, mp_sum, normalize
from oniris_core.world.temporal import Attention, GatedCausalConv, per_frame


@dataclass(frozen=True)
class UNetConfig:
    """Architecture of the UNet.

    Attributes:
        channels: multiplied by `channel_mult`, one entry per resolution, finest first.
        blocks: blocks of each resolution on the way down; one more on the way up.
        video_attention, frame_attention: per resolution.
        head_channels: channels of an attention head.
        window: latent frames of the past that attention remembers.
    """

    channels: int
    channel_mult: tuple[int, ...]
    blocks: int
    video_attention: tuple[bool, ...]
    frame_attention: tuple[bool, ...]
    head_channels: int
    window: int

    def check_latent_size(self, height: int, width: int) -> None:
        """Raise UserError unless every resolution but the last can be halved."""
        factor = 2 ** (len(self.channel_mult) - 1)
        if height % factor or width % factor:
            raise UserError(
                f"latents of {height} x {width} cannot be halved {len(self.channel_mult) - 1} times: "
                "give train.channels fewer entries or choose another frame size"
            )


@dataclass(frozen=True)
class FrameInfo:
    """What every block is told about the frames: embedding [B, S, T, E], c_noise [B, S, T], positions int64 [T]."""

    embedding: Tensor
    c_noise: Tensor
    positions: Tensor


class Block(nn.Module):
    """A residual block (arXiv 2312.02696, figure 21, "Encoder" and "Decoder") whose first convolution sees the past."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        embedding: int,
        config: UNetConfig,
        *,
        level: int,
        decoder: bool,
        resample: str = "",
    ):
        super().__init__()
        self.decoder, self.resample = decoder, resample
        self.skip = MPConv(c_in, c_out, kernel=1) if c_in != c_out else None
        self.conv0 = GatedCausalConv(c_in if decoder else c_out, c_out)
        self.conv1 = MPConv(c_out, c_out, kernel=3)
        self.embedding = MPConv(embedding, c_out)
        self.embedding_gain = nn.Parameter(torch.zeros(()))
        window = config.window if config.video_attention[level] else 0
        attends = window or config.frame_attention[level]
        self.attention = Attention(c_out, config.head_channels, window) if attends else None

    def forward(self, x: Tensor, info: FrameInfo) -> Tensor:
        """[B, S, T, C, H, W] to the same with c_out channels, at another resolution if the block resamples."""
        x = _resample(x, self.resample)
        if not self.decoder:
            x = normalize(per_frame(self.skip, x) if self.skip else x, (3,))
        y = self.conv0(mp_silu(x), info.c_noise, info.positions)
        scale = self.embedding(info.embedding, gain=self.embedding_gain) + 1
        y = per_frame(self.conv1, mp_silu(y * scale[..., None, None]))
        if self.decoder and self.skip:
            x = per_frame(self.skip, x)
        x = mp_sum(x, y, 0.3)
        if self.attention:
            x = mp_sum(x, self.attention(x, info.positions), 0.3)
        return x.clamp(-256, 256)


class UNet(nn.Module):
    """Frames with their embeddings to frames of another number of channels."""

    def __init__(self, config: UNetConfig, c_in: int, c_out: int, embedding: int):
        super().__init__()
        widths = [config.channels * mult for mult in config.channel_mult]
        self.stem = MPConv(c_in + 1, widths[0], kernel=3)  # one more channel of ones: there are no biases
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        skips, c = [widths[0]], widths[0]
        for level, width in enumerate(widths):
            if level:
                self.encoder.append(Block(c, c, embedding, config, level=level, decoder=False, resample="down"))
                skips.append(c)
            for _ in range(config.blocks):
                self.encoder.append(Block(c, width, embedding, config, level=level, decoder=False))
                c = width
                skips.append(c)
        self.uses_skip = []
        for level, width in reversed(list(enumerate(widths))):
            resample = "" if level == len(widths) - 1 else "up"
            self.decoder.append(Block(c, c, embedding, config, level=level, decoder=True, resample=resample))
            self.uses_skip.append(False)
            for _ in range(config.blocks + 1):
                self.decoder.append(Block(c + skips.pop(), width, embedding, config, level=level, decoder=True))
                self.uses_skip.append(True)
                c = width
        self.head = MPConv(c, c_out, kernel=3)
        self.head_gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, info: FrameInfo) -> Tensor:
        """[B, S, T, c_in, H, W] to [B, S, T, c_out, H, W]."""
        x = per_frame(self.stem, torch.cat([x, torch.ones_like(x[:, :, :, :1])], dim=3))
        skips = [x]
        for block in self.encoder:
            x = block(x, info)
            skips.append(x)
        for block, uses_skip in zip(self.decoder, self.uses_skip, strict=True):
            x = block(mp_cat(x, skips.pop(), dim=3) if uses_skip else x, info)
        return self.head(x.flatten(0, 2), gain=self.head_gain).unflatten(0, x.shape[:3])


def _resample(x: Tensor, how: str) -> Tensor:
    if how == "down":
        return F.avg_pool2d(x.flatten(0, 2), 2).unflatten(0, x.shape[:3])
    if how == "up":
        return x.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)
    return x
