"""Encoder and decoder ready to step, one latent frame of each video at a time: constants folded, state in and out as tensors.

They give the numbers of `Encoder` and `Decoder` (of latents without noise), for videos of any age side by side. Nothing
depends on a tensor's value, so they compile and export. Shapes are checked where frames and latents enter, in
`oniris_core.sampling`.

Axes: B videos, g frames that are left of a group at a level, C channels, H, W. Pixels are scaled to -1..1.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oniris_core.vae.layers import ResampledProjection, ResidualBlock
from oniris_core.vae.model import Decoder, Encoder, VaeConfig


class StreamState(NamedTuple):
    """What an encoder or decoder remembers of each video: whether it has begun, bool [B], and of each block [B, g C, H, W]."""

    started: Tensor
    pasts: tuple[Tensor, ...]

    def map(self, change: Callable[[Tensor], Tensor]) -> "StreamState":
        """The state of which each tensor has been changed."""
        return StreamState(change(self.started), tuple(map(change, self.pasts)))

    def select(self, rows: Sequence[int]) -> "StreamState":
        """The videos `rows`, in that order, any of them once, often or never."""
        index = torch.tensor(list(rows), device=self.started.device)
        return self.map(lambda part: part[index])

    def beside(self, others: "Sequence[StreamState]") -> "StreamState":
        """These videos, and after them those of others."""
        rest = [iter((other.started, *other.pasts)) for other in others]
        return self.map(lambda part: torch.cat([part, *map(next, rest)]))

    def replace_rows(self, rows: Sequence[int], fresh: "StreamState") -> "StreamState":
        """The same with the videos of `fresh`, in order, in the places `rows`."""
        index = torch.tensor(list(rows), device=self.started.device)
        others = iter((fresh.started, *fresh.pasts))
        return self.map(lambda part: part.index_copy(0, index, next(others)))


class _Block(nn.Module):
    """`ResidualBlock` for one group of frames."""

    scale: Tensor
    shift: Tensor | None

    def __init__(self, block: ResidualBlock, embedding_E: Tensor | None):
        super().__init__()
        self.norm, self.temporal, self.spatial = block.norm1, block.temporal.conv, block.spatial
        self.group = block.temporal.group
        scale, shift = block.norm2.gain.detach().clone(), None
        if block.modulate is not None:
            assert embedding_E is not None
            more, shift = block.modulate(embedding_E).detach().chunk(2)
            scale, shift = scale * (1 + more), shift[:, None, None].clone()
        self.register_buffer("scale", scale[:, None, None])
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor, started: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """[B, g, C, H, W] to the same shape, and what to remember."""
        read = F.silu(self.norm(x)).flatten(1, 2)
        before = torch.where(started[:, None, None, None], past, read)  # before the first group stands a copy of it
        y = self.temporal(torch.cat([before, read], dim=1)).unflatten(1, (self.group, -1))
        y = y * torch.rsqrt(y.square().mean(2, keepdim=True) + 1e-6) * self.scale
        y = F.silu(y if self.shift is None else y + self.shift)
        return x + self.spatial(y.flatten(0, 1)).unflatten(0, x.shape[:2]), read


class _Projection(nn.Module):
    """`ResampledProjection` as one convolution."""

    weight: Tensor
    bias: Tensor

    def __init__(self, projection: ResampledProjection):
        super().__init__()
        weight = (projection.weight + projection.shortcut)[:, :, None, None]
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", projection.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """[B, g, C, H, W] to [B, g, C', H, W]."""
        return F.conv2d(x.flatten(0, 1), self.weight, self.bias).unflatten(0, x.shape[:2])


class _Form(nn.Module):
    """What encoder and decoder have in common."""

    def __init__(self, model: Encoder | Decoder, embedding_E: Tensor | None):
        super().__init__()
        self.config: VaeConfig = model.config
        self.projections = nn.ModuleList(
            _Projection(projection) for projection in model.projections if isinstance(projection, ResampledProjection)
        )
        self.blocks = nn.ModuleList(
            nn.ModuleList(_Block(block, embedding_E) for block in level.children() if isinstance(block, ResidualBlock))
            for level in model.blocks.children()
        )
        self.edge = _Projection(model.head if isinstance(model, Encoder) else model.stem)
        self.requires_grad_(False).eval()

    def _level(self, level: int) -> tuple[int, int]:
        return self.config.time_compression[level], self.config.space_compression[level]

    def _begin(self, batch: int, height: int, width: int, levels: Sequence[int]) -> StreamState:
        """For latents of height x width, blocks in the order in which `levels` are passed."""
        c, like, pasts = self.config, self.edge.weight, list[Tensor]()
        for level in levels:
            space = c.space
            for compression in c.space_compression[: level + 1]:
                space //= compression
            shape = (batch, c.group_after(level) * c.channels[level], height * space, width * space)
            pasts += [like.new_zeros(shape) for _ in range(c.blocks)]
        return StreamState(torch.zeros(batch, dtype=torch.bool, device=like.device), tuple(pasts))

    def _through(self, level: int, x: Tensor, state: StreamState, after: list[Tensor]) -> Tensor:
        blocks = self.blocks[level]
        assert isinstance(blocks, nn.ModuleList)
        for block in blocks:
            x, past = block(x, state.started, state.pasts[len(after)])
            after.append(past)
        return x


class EncoderForm(_Form):
    """Groups of frames to latent frames: the posterior's mean."""

    def __init__(self, encoder: Encoder):
        super().__init__(encoder, None)

    def begin(self, batch: int, height: int, width: int) -> StreamState:
        """The state before the first frames of videos whose latents are of height x width."""
        return self._begin(batch, height, width, range(len(self.config.channels)))

    def forward(self, state: StreamState, x_BTCHW: Tensor) -> tuple[StreamState, Tensor]:
        """The next group of frames [B, c, 3, H, W] to its latent frame [B, C, h, w]."""
        after, h = list[Tensor](), x_BTCHW
        for level, projection in enumerate(self.projections):
            t, s = self._level(level)
            B, T, C, H, W = h.shape
            h = h.reshape(B, T // t, t, C, H // s, s, W // s, s)  # b n t c h p w q
            h = h.permute(0, 1, 3, 2, 5, 7, 4, 6).flatten(2, 5)  # b n (c t p q) h w
            h = self._through(level, projection(h), state, after)
        mean, _ = self.edge(h)[:, 0].chunk(2, dim=1)
        return StreamState(torch.ones_like(state.started), tuple(after)), mean


class DecoderForm(_Form):
    """Latent frames to groups of frames: the mean of the pixels."""

    def __init__(self, decoder: Decoder):
        nothing = next(decoder.parameters()).new_zeros(1)
        with torch.no_grad():
            super().__init__(decoder, decoder.noise(nothing))

    def begin(self, batch: int, height: int, width: int) -> StreamState:
        """The state before the first of latent frames of height x width."""
        return self._begin(batch, height, width, range(len(self.config.channels))[::-1])

    def forward(self, state: StreamState, z_BCHW: Tensor) -> tuple[StreamState, Tensor]:
        """The next latent frame [B, C, h, w] to its frames [B, c, 3, H, W], about -1..1."""
        after, h = list[Tensor](), self.edge(z_BCHW[:, None])
        for level in range(len(self.projections))[::-1]:
            t, s = self._level(level)
            h = self.projections[level](self._through(level, h, state, after))
            B, T, C, H, W = h.shape
            h = h.reshape(B, T, C // (t * s * s), t, s, s, H, W)  # b n c t p q h w
            h = h.permute(0, 1, 3, 2, 6, 4, 7, 5)  # b n t c h p w q
            h = h.reshape(B, T * t, C // (t * s * s), H * s, W * s)
        return StreamState(torch.ones_like(state.started), tuple(after)), h[:, :, :3]
