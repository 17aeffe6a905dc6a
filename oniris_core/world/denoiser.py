"""The denoiser: preconditioning around the UNet (arXiv 2206.00364, table 1; DESIGN.md section 4).

Axes: B batch, S streams, T frames, C channels, H, W; A features of an action, E features of the embedding.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from oniris_core.common.plain import with_tuples
from oniris_core.nn.magnitude import MPConv, MPFourier, mp_silu, mp_sum
from oniris_core.world.context import BlockCache, Cache, Context, FrameOnly, Parallel, Ring, Step
from oniris_core.world.unet import FrameInfo, UNet, UNetConfig


@dataclass(frozen=True)
class DenoiserConfig:
    """Architecture of the denoiser.

    Attributes:
        unet: architecture of its network.
        latent_channels, latent_height, latent_width: shape of a latent frame.
        action_features: features of the actions of one latent frame, all of them in order.
        change_std: standard deviation of the change from one standardised latent frame to the next.
        precondition: "past" (predict the change from the last clean frame) or "plain".
    """

    unet: UNetConfig
    latent_channels: int
    latent_height: int
    latent_width: int
    action_features: int
    change_std: float
    precondition: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> "DenoiserConfig":
        """The inverse of `to_json`. Raises TypeError or KeyError if `value` is not such a thing."""
        return DenoiserConfig(**{**value, "unet": UNetConfig(**with_tuples(value["unet"]))})


@dataclass(frozen=True)
class Preconditioning:
    """The coefficients of D = m + c_skip (x - m) + c_out F(c_in (x - m), m, ...), each [B, S, T, 1, 1, 1].

    Attributes:
        center: m [B, S, T, C, H, W]: the last clean frame, zero where there is none.
        spread: standard deviation of x - m.
        sigma: noise level of x.
    """

    center: Tensor
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

    @property
    def loss_weight(self) -> Tensor:
        """lambda = (sigma^2 + spread^2) / (sigma spread)^2 = 1 / c_out^2."""
        return 1 / self.c_out.square()


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
        inputs = config.latent_channels * (2 if config.precondition == "past" else 1)
        self.unet = UNet(config.unet, inputs, 2 * config.latent_channels, embedding)

    def precondition(self, x_BSTCHW: Tensor, sigma_BST: Tensor, context: Context) -> Preconditioning:
        """Around what, and how widely, each frame lies before it is looked at.

        With `precondition: past` that is the clean frame before it. Its own declared noise adds to the spread of the
        difference: Var[x_i - m_i] = change_std^2 + sigma_clean^2.
        """
        sigma = sigma_BST[..., None, None, None]
        if self.config.precondition == "plain" or isinstance(context, FrameOnly):
            return Preconditioning(torch.zeros_like(x_BSTCHW), torch.ones_like(sigma), sigma)
        last, last_sigma = x_BSTCHW[:, :1, :-1], sigma[:, :1, :-1]
        if isinstance(context, Step) and context.cache.last is not None and context.cache.last_sigma is not None:
            first = context.cache.last[:, None, None]
            first_spread = (self.config.change_std**2 + context.cache.last_sigma.square())[
                :, None, None, None, None, None
            ]
        else:
            first = torch.zeros_like(x_BSTCHW[:, :1, :1])
            first_spread = torch.ones_like(sigma[:, :1, :1])
        center = torch.cat([first, last], dim=2)
        spread = torch.cat([first_spread, self.config.change_std**2 + last_sigma.square()], dim=2).sqrt()
        return Preconditioning(center.expand_as(x_BSTCHW), spread.expand_as(sigma), sigma)

    def forward(
        self, x_BSTCHW: Tensor, sigma_BST: Tensor, actions_BTA: Tensor, has_action_BT: Tensor, context: Context
    ) -> tuple[Tensor, Cache]:
        """Denoise.

        Args:
            x_BSTCHW: standardised latent frames; S = 2 (clean, noised) for Parallel, else 1.
            sigma_BST: the noise level each is declared to have, above 0.
            actions_BTA: features of the actions that led to each frame.
            has_action_BT: bool, false where no action is known: the first frame of an episode, or actions dropped.
            context: how frames see each other.

        Returns:
            D, of x's shape, and the cache that x has entered (an empty one unless Step).

        Raises:
            ValueError: shapes do not fit each other, the architecture or the cache; the cache is stale or another
                model's. In a Step also: a sigma not above 0 or latents that are not finite (looking at values makes a
                GPU wait, which training cannot afford).
        """
        self._check(x_BSTCHW, sigma_BST, actions_BTA, has_action_BT, context)
        if not isinstance(context, Step):
            return self._denoise(x_BSTCHW, sigma_BST, actions_BTA, has_action_BT, context)[0], Cache()
        cache, T, window = context.cache, x_BSTCHW.shape[2], self.config.unet.window
        self._check_step(x_BSTCHW, sigma_BST, cache)
        ring = cache.ring or Ring(window + 1)
        step = ring.write(cache.length, T)
        with torch.no_grad():
            D_x, blocks = self._denoise(x_BSTCHW, sigma_BST, actions_BTA, has_action_BT, context)
            return D_x, Cache(
                start=cache.start, length=cache.length + T, model=self,
                last=x_BSTCHW[:, 0, -1].clone(), last_sigma=sigma_BST[:, 0, -1].clone(), blocks=blocks,
                ring=ring, writers=(cache.writers + (step,) * T)[-window:],
            )  # fmt: skip

    def _denoise(
        self, x_BSTCHW: Tensor, sigma_BST: Tensor, actions_BTA: Tensor, has_action_BT: Tensor, context: Context
    ) -> tuple[Tensor, tuple[BlockCache, ...]]:
        cache = context.cache if isinstance(context, Step) else Cache()
        T = x_BSTCHW.shape[2]
        pre = self.precondition(x_BSTCHW, sigma_BST, context)
        c_noise_BST = sigma_BST.log() / 4
        there = has_action_BT[..., None].to(actions_BTA.dtype)
        no_action = (1 - there) * (self.config.action_features + 1) ** 0.5
        actions = self.action(torch.cat([actions_BTA * there, no_action], dim=-1))[:, None]
        embedding = mp_silu(mp_sum(self.noise(self.fourier(c_noise_BST)), actions, 0.5))
        info = FrameInfo(
            embedding, c_noise_BST, torch.arange(cache.position, cache.position + T, device=x_BSTCHW.device)
        )

        unit_change = pre.c_in * (x_BSTCHW - pre.center)
        # Where x - m is mostly noise there is little to be seen in it: it fades, rather than drown what the past says.
        inputs = pre.c_skip.sqrt() * unit_change
        if self.config.precondition == "past":
            inputs = torch.cat([inputs, pre.center], dim=3)
        out, blocks = self.unet(inputs, info, context, cache.blocks)
        # Half of the output scales the network's own input, pixel by pixel: where nothing moves, all that x - m holds is
        # noise, and a narrow network that had to carry it through to subtract it would leave grain.
        added, gain = out.chunk(2, dim=3)
        F_x = added + gain * unit_change
        D_x = pre.center + pre.c_skip * (x_BSTCHW - pre.center) + pre.c_out * F_x
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
        if cache.last is None:
            return
        if cache.model is not self:
            raise ValueError(
                f"the cache of {list(cache.last.shape)} is of another model than this one "
                f"of [B, {self.config.latent_channels}, {self.config.latent_height}, {self.config.latent_width}]"
            )
        if len(cache.last) != len(x):
            raise ValueError(f"the cache is of {len(cache.last)} rollouts, the frames are of {len(x)}")
        cache.refuse_stale()
