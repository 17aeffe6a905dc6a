"""The group-causal video VAE: no attention and nothing normalised over time, so a chunk at a time gives the same numbers.

Axes: B batch, T frames (t latent frames), C channels, H, W. Pixels are scaled to -1..1.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from oniris_core.common.errors import UserError
from oniris_core.vae.layers import ResampledProjection, ResidualBlock, per_frame


@dataclass(frozen=True)
class VaeConfig:
    """Architecture of a VAE.

    Attributes:
        time_compression, space_compression, channels: one entry per level, first (full resolution) level first.
        blocks: residual blocks of each level.
        kernel: extent of the convolutions in space.
        latent_channels: channels of a latent frame.
    """

    time_compression: tuple[int, ...]
    space_compression: tuple[int, ...]
    channels: tuple[int, ...]
    blocks: int
    kernel: int
    latent_channels: int

    @property
    def group(self) -> int:
        """Frames that one latent frame stands for."""
        return math.prod(self.time_compression)

    @property
    def space(self) -> int:
        """Pixels, along height and width, that one latent pixel stands for."""
        return math.prod(self.space_compression)

    @property
    def compression(self) -> float:
        """Numbers of a video per number of its latents."""
        return self.group * self.space**2 * 3 / self.latent_channels

    def group_after(self, level: int) -> int:
        """Frames of a group that are left after `level`: the total compression over the compression so far."""
        return self.group // math.prod(self.time_compression[: level + 1])

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """[T, C, H, W] of the latents of a video of `frames` frames of height x width pixels."""
        return frames // self.group, self.latent_channels, height // self.space, width // self.space

    def check_frame_size(self, height: int, width: int) -> None:
        """Raise UserError, with the nearest valid size, unless the space compression divides the frame."""
        if height % self.space or width % self.space:
            nearest = [max(round(size / self.space), 1) * self.space for size in (height, width)]
            raise UserError(
                f"frames of {height} x {width} are not divisible by the space compression {self.space}: "
                f"the nearest valid size is {nearest[0]} x {nearest[1]}"
            )


@dataclass(frozen=True)
class VaeCache:
    """What encoder or decoder remember between two chunks: the last group each convolution read, in order."""

    pasts: tuple[Tensor, ...]

    def select(self, rows: slice | Tensor) -> "VaeCache":
        """The cache of some of the videos of the batch."""
        return VaeCache(tuple(past[rows] for past in self.pasts))


class Encoder(nn.Module):
    """Frames to the mean and log-variance of their latents."""

    def __init__(self, config: VaeConfig):
        super().__init__()
        self.config = config
        self.projections, self.blocks = nn.ModuleList(), nn.ModuleList()
        c_in = 3
        for level, (t, s, c) in enumerate(_levels(config)):
            self.projections.append(ResampledProjection(c_in * t * s * s, c))
            group = config.group_after(level)
            self.blocks.append(nn.ModuleList(ResidualBlock(c, group, config.kernel) for _ in range(config.blocks)))
            c_in = c
        self.head = ResampledProjection(c_in, 2 * config.latent_channels)

    def forward(self, x_BTCHW: Tensor, cache: VaeCache | None = None) -> tuple[Tensor, Tensor, VaeCache]:
        """Encode whole groups.

        Args:
            x_BTCHW: float, T a multiple of the group, C = 3, -1..1.
            cache: from the chunk before, or None at the start of a video.

        Returns:
            mean and log-variance [B, t, latent_channels, h, w], and the cache for the next chunk.
        """
        pasts, h = _Pasts(cache), x_BTCHW
        for (t, s, _), projection, blocks in zip(_levels(self.config), self.projections, self.blocks, strict=True):
            h = rearrange(h, "b (n t) c (h p) (w q) -> b n (c t p q) h w", t=t, p=s, q=s)
            h = per_frame(projection, h)
            for block in blocks.children():
                h = pasts.through(block, h)
        mean, logvar = per_frame(self.head, h).chunk(2, dim=2)
        return mean, logvar.clamp(-20, 4), pasts.cache()


class Decoder(nn.Module):
    """Latents, with the share of noise in them, to mean and log-variance of the pixels."""

    def __init__(self, config: VaeConfig, embedding: int = 32):
        super().__init__()
        self.config = config
        self.stem = ResampledProjection(config.latent_channels, config.channels[-1])
        self.noise = nn.Sequential(nn.Linear(1, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        self.projections, self.blocks = nn.ModuleList(), nn.ModuleList()
        outputs = (6, *config.channels[:-1])  # the outermost level gives mean and log-variance of three colours
        for level, (t, s, c) in enumerate(_levels(config)):
            group = config.group_after(level)
            blocks = (ResidualBlock(c, group, config.kernel, embedding) for _ in range(config.blocks))
            self.blocks.append(nn.ModuleList(blocks))
            self.projections.append(ResampledProjection(c, outputs[level] * t * s * s))

    def forward(
        self, z_BTCHW: Tensor, noise_B: Tensor, cache: VaeCache | None = None
    ) -> tuple[Tensor, Tensor, VaeCache]:
        """Decode latent frames.

        Args:
            z_BTCHW: [B, t, latent_channels, h, w].
            noise_B: share of noise in each video's latents, 0 to 1.
            cache: from the chunk before, or None at the start of a video.

        Returns:
            mean (about -1..1) and log-variance of the pixels, [B, T, 3, H, W], and the cache for the next chunk.
        """
        pasts, h = _Pasts(cache), per_frame(self.stem, z_BTCHW)
        embedding = self.noise(noise_B[:, None])
        levels = list(zip(_levels(self.config), self.projections, self.blocks, strict=True))
        for (t, s, _), projection, blocks in reversed(levels):
            for block in blocks.children():
                h = pasts.through(block, h, embedding)
            h = per_frame(projection, h)
            h = rearrange(h, "b n (c t p q) h w -> b (n t) c (h p) (w q)", t=t, p=s, q=s)
        mean, logvar = h.chunk(2, dim=2)
        # A pixel is known to half a grey level at best (2/255 in these units), and never worse than the whole range.
        return mean, -11 + F.softplus(logvar + 6).clamp(max=12), pasts.cache()


class Vae(nn.Module):
    """Encoder and decoder with their configuration."""

    def __init__(self, config: VaeConfig):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    @torch.no_grad()
    def encode(self, frames_BTHWC: Tensor, cache: VaeCache | None = None) -> tuple[Tensor, VaeCache]:
        """Latents (posterior means) of uint8 frames, a chunk at a time.

        Args:
            frames_BTHWC: uint8 [B, T, H, W, 3], T a multiple of `config.group`.
            cache: from the chunk before, or None at the start of a video.

        Returns:
            Latents [B, T / group, C, h, w], and the cache for the next chunk.

        Raises:
            ValueError: another dtype, an incomplete group, or a frame size the compression does not divide.
        """
        if frames_BTHWC.dtype != torch.uint8 or frames_BTHWC.ndim != 5 or frames_BTHWC.shape[-1] != 3:
            raise ValueError(
                f"frames must be uint8 [B, T, H, W, 3], not {frames_BTHWC.dtype} {list(frames_BTHWC.shape)}"
            )
        if not frames_BTHWC.shape[1] or frames_BTHWC.shape[1] % self.config.group:
            group, n = self.config.group, frames_BTHWC.shape[1]
            below, above = n // group * group, -(-n // group) * group
            nearest = f"{below} or {above}" if below else f"{group}"
            raise ValueError(f"{n} frames are not a multiple of the group of {group}: give {nearest}")
        self.config.check_frame_size(*frames_BTHWC.shape[2:4])
        mean, _, cache = self.encoder(to_unit(frames_BTHWC), cache)
        return mean, cache

    @torch.no_grad()
    def decode(self, latents_BTCHW: Tensor, cache: VaeCache | None = None) -> tuple[Tensor, VaeCache]:
        """uint8 frames [B, T, H, W, 3] of latents [B, t, C, h, w], and the cache for the next chunk.

        Raises:
            ValueError: another number of axes or channels, no latents, or values that are not finite.
        """
        c = self.config.latent_channels
        if latents_BTCHW.ndim != 5 or latents_BTCHW.shape[2] != c or not latents_BTCHW.shape[1]:
            raise ValueError(f"latents must be [videos, t, {c} channels, h, w], not {list(latents_BTCHW.shape)}")
        if not torch.isfinite(latents_BTCHW).all():
            raise ValueError(f"latents {list(latents_BTCHW.shape)} hold values that are not finite")
        noise = latents_BTCHW.new_zeros(len(latents_BTCHW))
        mean, _, cache = self.decoder(latents_BTCHW, noise, cache)
        return to_uint8(mean), cache


def to_unit(frames_BTHWC: Tensor) -> Tensor:
    """uint8 [B, T, H, W, C] to float [B, T, C, H, W] in -1..1."""
    return rearrange(frames_BTHWC, "b t h w c -> b t c h w").float() / 127.5 - 1


def to_uint8(x_BTCHW: Tensor) -> Tensor:
    """Float [B, T, C, H, W] in -1..1 to uint8 [B, T, H, W, C]."""
    return rearrange(((x_BTCHW + 1) * 127.5).round().clamp(0, 255).to(torch.uint8), "b t c h w -> b t h w c")


def _levels(config: VaeConfig) -> list[tuple[int, int, int]]:
    return list(zip(config.time_compression, config.space_compression, config.channels, strict=True))


class _Pasts:
    """Hands each block the past it left in the chunk before, and gathers what it leaves for the next."""

    def __init__(self, cache: VaeCache | None):
        self._before = iter(cache.pasts) if cache else None
        self._after: list[Tensor] = []

    def through(self, block: nn.Module, h: Tensor, *args: Tensor) -> Tensor:
        h, past = block(h, next(self._before) if self._before else None, *args)
        self._after.append(past)
        return h

    def cache(self) -> VaeCache:
        return VaeCache(tuple(self._after))
