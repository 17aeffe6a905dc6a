"""The denoiser: preconditioning around the UNet (arXiv 2206.00364, table 1; DESIGN.md section 4).

Axes: B batch, S streams, T frames, C channels, H, W; A features of an action, E features of the embedding.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from oniris_core.common.plain import with_tuples
from oniris_core.nn.magnitude import MPConv, MPFourier, mp_silu, mp_sum
from oniris_core.world.context import BlockCache, Cache, Context, FrameOnly, Parallel, Ring, Step
from oniris_core.world.forecast import Forecast, Forecaster
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
        precondition: "forecast" (predict what a forecast from the last clean frames leaves open), "past" (the change
            from the last clean frame) or "plain".
        forecast_channels: width of the network that forecasts.
        forecast_ages: how many frames ago the clean frames lie that it sees, 1 first.
        forecast_attention: whether each of its pixels sees the whole frame.
    """

    unet: UNetConfig
    latent_channels: int
    latent_height: int
    latent_width: int
    action_features: int
    change_std: float
    precondition: str
    forecast_channels: int = 0
    forecast_ages: tuple[int, ...] = (1, 2)
    forecast_attention: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> "DenoiserConfig":
        """The inverse of `to_json`. Raises TypeError or KeyError if `value` is not such a thing."""
        return DenoiserConfig(**{**with_tuples(value), "unet": UNetConfig(**with_tuples(value["unet"]))})


@dataclass(frozen=True)
class Expected:
    """What is known of frames before they are looked at, the same for both streams.

    Attributes:
        center: m [B, 1, T, C, H, W]: where a frame is expected; zero where it has no past.
        spread: how far from it, a standard deviation: of a whole frame [B, 1, T, 1, 1, 1] or of each value.
        scale: of the change from the last clean frame [B, 1, T, 1, 1, 1], which the loss is measured against.
        forecast: where the first two come from, if from a forecast.
    """

    center: Tensor
    spread: Tensor
    scale: Tensor
    forecast: Forecast | None = None

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
        # Beside x - m the network sees what is expected: m and, where values differ in it, their spread.
        inputs = config.latent_channels * {"plain": 1, "past": 2, "forecast": 3}[config.precondition]
        self.unet = UNet(config.unet, inputs, 2 * config.latent_channels, embedding)
        self.forecaster = None
        if config.precondition == "forecast":
            self.forecaster = Forecaster(
                config.forecast_ages, config.latent_channels, config.forecast_channels, config.action_features + 1,
                config.change_std, config.forecast_attention,
            )  # fmt: skip

    def expect(
        self, x_BSTCHW: Tensor, sigma_BST: Tensor, actions_BTA: Tensor, has_action_BT: Tensor, context: Context
    ) -> Expected:
        """What the clean frames before each frame, and its actions, say of it.

        Arguments as in `forward`; of x only clean frames that lie before another one are read. A Step of one frame reads
        none, so that one answer serves all noise levels.

        With `precondition: past` that is the last clean frame, and the usual change from it; the frame's own declared noise
        adds to that: Var[x_i - m_i] = change_std^2 + sigma_clean^2. With `forecast` it is a Gaussian for each value.
        """
        self._check(x_BSTCHW, sigma_BST, actions_BTA, has_action_BT, context)
        T = x_BSTCHW.shape[2]
        clean, sigma, told = self._with_past(x_BSTCHW, sigma_BST, actions_BTA, has_action_BT, context)
        held = clean.shape[1] - T
        first = T if isinstance(context, FrameOnly) or self.config.precondition == "plain" else max(1 - held, 0)
        # The first frames have no past; of the others each has a last one.
        last = clean[:, held + first - 1 : -1] if first < T else clean[:, :0]
        last_sigma = sigma[:, held + first - 1 : -1] if first < T else sigma[:, :0]
        center, scale = last, (self.config.change_std**2 + last_sigma.square()).sqrt()[..., None, None, None]
        spread, forecast = scale, None
        if self.forecaster is not None and first < T:
            forecast = self.forecaster(*self._seen(clean, told, T - first), last_sigma)
            center, spread = forecast.mean.detach(), forecast.spread.detach()
        shape = (len(clean), first, *clean.shape[2:])
        center = torch.cat([center.new_zeros(shape), center], dim=1)
        spread, scale = (
            torch.cat([value.new_ones((*shape[:2], *value.shape[2:])), value], dim=1) for value in (spread, scale)
        )
        return Expected(center[:, None], spread[:, None], scale[:, None], forecast)

    def make_masks(self, frames: int, device: torch.device) -> None:
        """Make the masks that attention needs on a GPU for clips of `frames` frames, before the network is compiled."""
        if device.type != "cuda":
            return
        height, width = self.config.latent_height, self.config.latent_width
        for level, attends in enumerate(self.config.unet.video_attention):
            if attends:
                block_mask(frames, (height >> level) * (width >> level), self.config.unet.window, device)

    def _with_past(
        self, x_BSTCHW: Tensor, sigma_BST: Tensor, actions_BTA: Tensor, has_action_BT: Tensor, context: Context
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Clean frames, their noise levels and what was told of their actions, after those that the context knows of."""
        clean, sigma, told = x_BSTCHW[:, 0], sigma_BST[:, 0], self._told(actions_BTA, has_action_BT)
        if isinstance(context, Step):
            cache = context.cache
            return _after(cache.clean, clean), _after(cache.clean_sigma, sigma), _after(cache.told, told)
        if isinstance(context, Parallel) and context.before is not None:
            before = context.before
            return (
                _after(before.x, clean),
                _after(before.sigma, sigma),
                _after(self._told(before.actions, before.has_action), told),
            )
        return clean, sigma, told

    def _seen(self, clean_BTCHW: Tensor, told_BTA: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """What the forecaster sees for each of the last `count` frames; before the first one nothing moved or was asked for."""
        ages = self.config.forecast_ages
        oldest = ages[-1]
        none = self._told(told_BTA[:, :1, :-1], told_BTA.new_zeros(len(told_BTA), 1))
        clean = torch.cat([clean_BTCHW[:, :1].expand(-1, oldest, -1, -1, -1), clean_BTCHW], dim=1)
        told = torch.cat([none.expand(-1, oldest, -1), told_BTA], dim=1)

        def ago(values: Tensor, ages: Iterable[int]) -> Tensor:
            end = values.shape[1]
            return torch.stack([values[:, end - count - age : end - age] for age in ages], dim=2)

        return ago(clean, ages), ago(told, range(oldest - 1))

    def _told(self, actions_BTA: Tensor, has_action_BT: Tensor) -> Tensor:
        there = has_action_BT[..., None].to(actions_BTA.dtype)
        no_action = (1 - there) * (self.config.action_features + 1) ** 0.5
        return torch.cat([actions_BTA * there, no_action], dim=-1)

    def forward(
        self,
        x_BSTCHW: Tensor,
        sigma_BST: Tensor,
        actions_BTA: Tensor,
        has_action_BT: Tensor,
        context: Context,
        expected: Expected | None = None,
    ) -> tuple[Tensor, Cache]:
        """Denoise.

        Args:
            x_BSTCHW: standardised latent frames; S = 2 (clean, noised) for Parallel, else 1.
            sigma_BST: the noise level each is declared to have, above 0.
            actions_BTA: features of the actions that led to each frame.
            has_action_BT: bool, false where no action is known: the first frame of an episode, or actions dropped.
            context: how frames see each other.
            expected: from `expect` with the same arguments, where it is known already.

        Returns:
            D, of x's shape, and the cache that x has entered (an empty one unless Step).

        Raises:
            ValueError: shapes do not fit each other, the architecture or the cache; the cache is stale or another
                model's. In a Step also: a sigma not above 0 or latents that are not finite (looking at values makes a
                GPU wait, which training cannot afford).
        """
        self._check(x_BSTCHW, sigma_BST, actions_BTA, has_action_BT, context)
        if not isinstance(context, Step):
            return self._denoise(x_BSTCHW, sigma_BST, actions_BTA, has_action_BT, context, expected)[0], Cache()
        cache, T, window = context.cache, x_BSTCHW.shape[2], self.config.unet.window
        self._check_step(x_BSTCHW, sigma_BST, cache)
        ring = cache.ring or Ring(window + 1)
        step = ring.write(cache.length, T)
        with torch.no_grad():
            D_x, blocks = self._denoise(x_BSTCHW, sigma_BST, actions_BTA, has_action_BT, context, expected)
            clean, sigma, told = (
                values[:, -self.config.forecast_ages[-1] :].clone()
                for values in self._with_past(x_BSTCHW, sigma_BST, actions_BTA, has_action_BT, context)
            )
            return D_x, Cache(
                start=cache.start, length=cache.length + T, model=self,
                clean=clean, clean_sigma=sigma, told=told, blocks=blocks,
                ring=ring, writers=(cache.writers + (step,) * T)[-window:],
            )  # fmt: skip

    def _denoise(
        self,
        x_BSTCHW: Tensor,
        sigma_BST: Tensor,
        actions_BTA: Tensor,
        has_action_BT: Tensor,
        context: Context,
        expected: Expected | None,
    ) -> tuple[Tensor, tuple[BlockCache, ...]]:
        cache = context.cache if isinstance(context, Step) else Cache()
        T = x_BSTCHW.shape[2]
        known = expected or self.expect(x_BSTCHW, sigma_BST, actions_BTA, has_action_BT, context)
        pre, center = Preconditioning(known.spread, sigma_BST[..., None, None, None]), known.center
        c_noise_BST = sigma_BST.log() / 4
        actions = self.action(self._told(actions_BTA, has_action_BT))[:, None]
        embedding = mp_silu(mp_sum(self.noise(self.fourier(c_noise_BST)), actions, 0.5))
        info = FrameInfo(
            embedding, c_noise_BST, torch.arange(cache.position, cache.position + T, device=x_BSTCHW.device)
        )

        unit_change = pre.c_in * (x_BSTCHW - center)
        # Where x - m is mostly noise there is little to be seen in it: it fades, rather than drown what the past says.
        inputs = [pre.c_skip.sqrt() * unit_change]
        if self.config.precondition != "plain":
            inputs.append(center.expand_as(x_BSTCHW))
        if self.forecaster is not None:
            inputs.append((pre.spread / self.config.change_std).log().expand_as(x_BSTCHW))
        out, blocks = self.unet(torch.cat(inputs, dim=3), info, context, cache.blocks)
        # Half of the output scales the network's own input, pixel by pixel: where nothing moves, all that x - m holds is
        # noise, and a narrow network that had to carry it through to subtract it would leave grain.
        added, gain = out.chunk(2, dim=3)
        F_x = added + gain * unit_change
        D_x = center + pre.c_skip * (x_BSTCHW - center) + pre.c_out * F_x
        return D_x, blocks

    def _check(self, x: Tensor, sigma: Tensor, actions: Tensor, has_action: Tensor, context: Context) -> None:
        c = self.config
        streams = 2 if isinstance(context, Parallel) else 1
        if (
            x.ndim != 6
            or tuple(x.shape[3:]) != (c.latent_channels, c.latent_height, c.latent_width)
            or x.shape[1] != streams
            or not x.shape[2]
        ):
            raise ValueError(
                f"latents of shape {list(x.shape)} do not fit [B, {streams}, T, {c.latent_channels}, "
                f"{c.latent_height}, {c.latent_width}] for {type(context).__name__}"
            )
        B, _, T = x.shape[:3]
        if sigma.shape != x.shape[:3]:
            raise ValueError(f"sigma of shape {list(sigma.shape)} does not fit {list(x.shape[:3])}")
        if actions.shape != (B, T, c.action_features) or has_action.shape != (B, T):
            raise ValueError(
                f"actions of shape {list(actions.shape)} and {list(has_action.shape)} do not fit "
                f"[{B}, {T}, {c.action_features}] and [{B}, {T}]"
            )

    def _check_step(self, x: Tensor, sigma: Tensor, cache: Cache) -> None:
        if not bool((sigma > 0).all() & x.isfinite().all()):
            what = "latents must be finite" if bool((sigma > 0).all()) else "sigma must be above 0"
            raise ValueError(f"{what}: latents of shape {list(x.shape)}, sigma from {float(sigma.min()):g}")
        if cache.clean is None:
            return
        if cache.model is not self:
            raise ValueError(
                f"the cache of {[len(cache.clean), *cache.clean.shape[2:]]} is of another model than this one "
                f"of [B, {self.config.latent_channels}, {self.config.latent_height}, {self.config.latent_width}]"
            )
        if len(cache.clean) != len(x):
            raise ValueError(f"the cache is of {len(cache.clean)} rollouts, the frames are of {len(x)}")
        cache.refuse_stale()


def _after(old: Tensor | None, new: Tensor) -> Tensor:
    return new if old is None else torch.cat([old, new], dim=1)
