"""The denoiser in the form that trains: preconditioning around the UNet (arXiv 2206.00364, table 1; docs/design.md, section 3).

It runs whole clips, both streams in one pass; `generation_form` runs the same weights a frame at a time. Information crosses
frames in two modules only, `GatedCausalConv` and `Attention`, and only so:

    clean_i   reads clean_1 .. clean_i
    noised_i  reads clean_1 .. clean_{i-1} and itself

Axes: B batch, S streams (0 clean, 1 noised), T frames, C channels, H, W; A features of an action, E features of the embedding.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from oniris_core.common.plain import with_tuples
from oniris_core.nn.magnitude import MPConv, MPFourier, mp_silu, mp_sum
from oniris_core.world.forecast import Forecast, Forecaster
from oniris_core.world.outcomes import OutcomeConfig, OutcomeHeads
from oniris_core.world.unet import FrameInfo, UNet, UNetConfig
from oniris_core.world.video_attention import block_mask


@dataclass(frozen=True)
class DenoiserConfig:
    """Architecture of the denoiser.

    Attributes:
        unet: architecture of its network.
        latent_channels, latent_height, latent_width: shape of a latent frame.
        action_features: features of the actions of one latent frame, all of them in order.
        change_std: standard deviation of the change from one standardised latent frame to the next.
        forecast_channels: width of the network that forecasts.
        forecast_ages: how many frames ago the clean frames lie that it sees, 1 first.
        outcomes: rewards and ends that are predicted; None: none are.
    """

    unet: UNetConfig
    latent_channels: int
    latent_height: int
    latent_width: int
    action_features: int
    change_std: float
    forecast_channels: int
    forecast_ages: tuple[int, ...]
    outcomes: OutcomeConfig | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> "DenoiserConfig":
        """The inverse of `to_json`. Raises TypeError or KeyError if `value` is not such a thing."""
        outcomes = value.get("outcomes")
        return DenoiserConfig(**{
            **with_tuples(value), "unet": UNetConfig(**with_tuples(value["unet"])),
            "outcomes": OutcomeConfig(**outcomes) if outcomes else None,
        })  # fmt: skip


@dataclass(frozen=True)
class Frames:
    """Clean latent frames and what led to them.

    Attributes:
        x: standardised [B, T, C, H, W].
        sigma: the noise level that each is declared to have [B, T], above 0.
        actions: features of the actions that led to each [B, T, A].
        has_action: bool [B, T], false where no action is known: the first frame of an episode, or actions withheld.
    """

    x: Tensor
    sigma: Tensor
    actions: Tensor
    has_action: Tensor

    def last(self, count: int) -> "Frames":
        """The last `count` of them."""
        return Frames(*(part[:, -count:] for part in (self.x, self.sigma, self.actions, self.has_action)))


@dataclass(frozen=True)
class Expected:
    """What is known of frames before they are looked at, the same for both streams.

    Attributes:
        center: m [B, 1, T, C, H, W]: where a frame is expected.
        spread: how far from it, a standard deviation of each value.
        scale: of the change from the last clean frame [B, 1, T, 1, 1, 1], which the loss is measured against.
        forecast: where the first two come from, with gradients.
    """

    center: Tensor
    spread: Tensor
    scale: Tensor
    forecast: Forecast

    def drawn(self, noise_BTCHW: Tensor) -> Tensor:
        """Frames [B, T, C, H, W] as they are expected, by unit noise; without gradients."""
        return self.center[:, 0] + self.spread[:, 0] * noise_BTCHW

    def loss_weight(self, sigma_BT: Tensor) -> Tensor:
        """lambda [B, T] = (sigma^2 + scale^2) / (sigma scale)^2."""
        scale = self.scale[:, 0, :, 0, 0, 0]
        return (sigma_BT.square() + scale.square()) / (sigma_BT * scale).square()


@dataclass(frozen=True)
class Preconditioning:
    """The coefficients of D = m + c_skip (x - m) + c_out F(c_in (x - m), m, ...); m is `Expected.center`.

    Attributes:
        spread: standard deviation of x - m.
        sigma: noise level of x [B, S, T, 1, 1, 1].
    """

    spread: Tensor
    sigma: Tensor

    @property
    def c_skip(self) -> Tensor:
        """spread^2 / (sigma^2 + spread^2)."""
        return self.spread.square() / (self.sigma.square() + self.spread.square())

    @property
    def c_out(self) -> Tensor:
        """sigma spread / sqrt(sigma^2 + spread^2)."""
        return self.sigma * self.spread * torch.rsqrt(self.sigma.square() + self.spread.square())

    @property
    def c_in(self) -> Tensor:
        """1 / sqrt(sigma^2 + spread^2)."""
        return torch.rsqrt(self.sigma.square() + self.spread.square())


def told_of(actions: Tensor, has_action: Tensor) -> Tensor:
    """[..., A + 1]: what the network is told of actions [..., A], some of which may not be known: has_action [...]."""
    there = has_action[..., None].to(actions.dtype)
    return torch.cat([actions * there, (1 - there) * (actions.shape[-1] + 1) ** 0.5], dim=-1)


class Denoiser(nn.Module):
    """D(x; sigma, actions, past): the expected clean frame, given a noised one, its actions and the past."""

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        self.config = config
        embedding = 4 * config.unet.channels
        features = 2 * config.unet.channels
        self.fourier = MPFourier(features)
        self.noise = MPConv(features, embedding)
        self.action = MPConv(config.action_features + 1, embedding)  # one more feature: there was no action
        # Beside x - m the network sees what is expected, m, and its spread.
        self.unet = UNet(config.unet, 3 * config.latent_channels, 2 * config.latent_channels, embedding)
        self.forecaster = Forecaster(
            config.forecast_ages, config.latent_channels, config.forecast_channels, config.action_features + 1,
            config.change_std,
        )  # fmt: skip
        self.outcomes: OutcomeHeads | None = None
        if config.outcomes is not None:  # last: what is drawn for them changes nothing else
            latent = config.latent_channels, config.latent_height, config.latent_width
            self.outcomes = OutcomeHeads(
                config.outcomes, config.forecast_ages, latent, max(config.forecast_channels // 2, 4),
                config.action_features + 1,
            )  # fmt: skip

    def expect(self, clean: Frames, count: int) -> Expected:
        """What the clean frames before each of the last `count`, and its actions, say of it: a Gaussian for each value.

        Before its first frame, which is given, an episode stood still: what is not there is a copy of the first one. The loss
        is measured against the usual change from the last clean frame, to which that frame's declared noise adds:
        change_std^2 + sigma_clean^2.
        """
        last_sigma = torch.cat([clean.sigma[:, :1], clean.sigma], dim=1)[:, -count - 1 : -1]
        scale = (self.config.change_std**2 + last_sigma.square()).sqrt()[..., None, None, None]
        told = told_of(clean.actions, clean.has_action)
        forecast = self.forecaster(*self._seen(clean.x, told, count), last_sigma)
        return Expected(forecast.mean.detach()[:, None], forecast.spread.detach()[:, None], scale[:, None], forecast)

    def find_outcomes(self, clean: Frames, count: int, newest: Tensor | None = None) -> Tensor:
        """What the heads say of each of the last `count` clean frames, [B, count, 3, c]: see `OutcomeHeads.tell`.

        Args:
            clean: the frames, any number more of them in front.
            count: of how many.
            newest: [B, count, C, H, W], what is seen in place of each of these, but not as the past of others.
        """
        assert self.outcomes is not None
        return self.outcomes(clean.x, told_of(clean.actions, clean.has_action), clean.sigma, count, newest)

    def make_masks(self, frames: int, device: torch.device) -> None:
        """Make the masks that attention needs on a GPU for clips of `frames` frames, before the network is compiled."""
        if device.type != "cuda":
            return
        height, width = self.config.latent_height, self.config.latent_width
        for level, attends in enumerate(self.config.unet.video_attention):
            if attends:
                block_mask(frames, (height >> level) * (width >> level), self.config.unet.window, device)

    def _seen(self, clean_BTCHW: Tensor, told_BTA: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """What the forecaster sees for each of the last `count` frames; before the first one nothing moved or was asked for."""
        ages = self.config.forecast_ages
        oldest = ages[-1]
        none = told_of(told_BTA[:, :1, :-1], told_BTA.new_zeros(len(told_BTA), 1))
        clean = torch.cat([clean_BTCHW[:, :1].expand(-1, oldest, -1, -1, -1), clean_BTCHW], dim=1)
        told = torch.cat([none.expand(-1, oldest, -1), told_BTA], dim=1)

        def ago(values: Tensor, ages: Iterable[int]) -> Tensor:
            end = values.shape[1]
            return torch.stack([values[:, end - count - age : end - age] for age in ages], dim=2)

        return ago(clean, ages), ago(told, range(oldest - 1))

    def forward(self, clean: Frames, x_BTCHW: Tensor, sigma_BT: Tensor, expected: Expected | None = None) -> Tensor:
        """Denoise both streams of a clip.

        Args:
            clean: the clip's clean frames, and in front of them any number more, which only what is expected rests on.
            x_BTCHW: its T frames noised.
            sigma_BT: their noise levels, above 0.
            expected: from `expect(clean, T)`, where it is known already.

        Returns:
            D [B, 2, T, C, H, W]: of the clean stream and of the noised one.

        Raises:
            ValueError: shapes do not fit each other or the architecture.
        """
        self._check(clean, x_BTCHW, sigma_BT)
        T = x_BTCHW.shape[1]
        known, clip = expected or self.expect(clean, T), clean.last(T)
        x_BSTCHW, sigma_BST = torch.stack([clip.x, x_BTCHW], dim=1), torch.stack([clip.sigma, sigma_BT], dim=1)
        pre, center = Preconditioning(known.spread, sigma_BST[..., None, None, None]), known.center
        c_noise_BST = sigma_BST.log() / 4
        actions = self.action(told_of(clip.actions, clip.has_action))[:, None]
        embedding = mp_silu(mp_sum(self.noise(self.fourier(c_noise_BST)), actions, 0.5))
        info = FrameInfo(embedding, c_noise_BST, torch.arange(T, device=x_BTCHW.device))

        unit_change = pre.c_in * (x_BSTCHW - center)
        # Where x - m is mostly noise there is little to be seen in it: it fades, rather than drown what the past says.
        spread = (pre.spread / self.config.change_std).log()
        inputs = [pre.c_skip.sqrt() * unit_change, center.expand_as(x_BSTCHW), spread.expand_as(x_BSTCHW)]
        # Half of the output scales the network's own input, pixel by pixel: where nothing moves, all that x - m holds is
        # noise, and a narrow network that had to carry it through to subtract it would leave grain.
        added, gain = self.unet(torch.cat(inputs, dim=3), info).chunk(2, dim=3)
        F_x = added + gain * unit_change
        return center + pre.c_skip * (x_BSTCHW - center) + pre.c_out * F_x

    def _check(self, clean: Frames, x: Tensor, sigma: Tensor) -> None:
        c = self.config
        shape, T = (c.latent_channels, c.latent_height, c.latent_width), x.shape[1] if x.ndim == 5 else 0
        if not T or tuple(x.shape[2:]) != shape:
            raise ValueError(f"latents of shape {list(x.shape)} do not fit [B, T, {', '.join(map(str, shape))}]")
        B, frames = len(x), clean.x.shape[1] if clean.x.ndim == 5 else 0
        if frames < T or clean.x.shape != (B, frames, *shape):
            raise ValueError(f"clean latents of shape {list(clean.x.shape)} do not fit noised ones of {list(x.shape)}")
        if sigma.shape != (B, T) or clean.sigma.shape != (B, frames):
            raise ValueError(
                f"sigma of shape {list(sigma.shape)} and {list(clean.sigma.shape)} do not fit [{B}, {T}] and [{B}, {frames}]"
            )
        if clean.actions.shape != (B, frames, c.action_features) or clean.has_action.shape != (B, frames):
            raise ValueError(
                f"actions of shape {list(clean.actions.shape)} and {list(clean.has_action.shape)} do not fit "
                f"[{B}, {frames}, {c.action_features}] and [{B}, {frames}]"
            )
