"""What the next latent frame will be, as far as a few frames and the actions tell: a Gaussian for each of its values (ours).

Axes: see `oniris_core.common.axes`; K frames that are seen, A features of an action.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oniris_core.nn.magnitude import MPConv, MPFourier, mp_silu, mp_sum, normalize
from oniris_core.world.temporal import Attention

LEAST_SPREAD = 0.01
"""Standard deviations of the latents below which a forecast claims no certainty."""


@dataclass(frozen=True)
class Forecast:
    """Mean and standard deviation of each value of a frame to come, [B, T, C, H, W] each."""

    mean: Tensor
    spread: Tensor

    def loss(self, x_BTCHW: Tensor, scale: float) -> Tensor:
        """[B, T]: how far the frames that came lie from it, what is to be minimised.

        The squared error of the mean, in units of `scale`^2, and the negative log-likelihood of the spread, each pulling on
        its own part only: a likelihood of both would fit the mean where it is certain already, and leave the rest.
        """
        error = (x_BTCHW - self.mean).square()
        surprise = 0.5 * error.detach() / self.spread.square() + self.spread.log()
        return (error / scale**2 + surprise).mean((2, 3, 4))


class Forecaster(nn.Module):
    """A small convolutional network, magnitude-preserving as the UNet is, over K of the clean frames before a frame.

    Args:
        ages: how many frames ago the K frames lie, 1 first, at least two. Two tell what moves how; older ones what moved,
            and has gone out of sight.
        latent_channels: C.
        channels: width of the network.
        action_features: A, the one for "no action" included.
        change_std: the spread it starts from.

    Between its two blocks each pixel sees the whole frame: convolutions alone reach six pixels far, too few to know at the top
    of the sky that there lies a lander on the ground already.
    """

    def __init__(
        self,
        ages: tuple[int, ...],
        latent_channels: int,
        channels: int,
        action_features: int,
        change_std: float,
    ):
        super().__init__()
        self.change_std = change_std
        self.fourier = MPFourier(channels)
        self.noise, self.action = MPConv(channels, channels), MPConv(action_features, channels)
        self.earlier_actions = MPConv((ages[-1] - 2) * action_features, channels) if ages[-1] > 2 else None
        # One more channel of ones: there are no biases.
        self.stem = MPConv(len(ages) * latent_channels + 1, channels, kernel=3)
        self.first, self.second = (
            nn.ModuleList(MPConv(channels, channels, kernel=3) for _ in range(2)) for _ in range(2)
        )
        self.embedding = nn.ModuleList(MPConv(channels, channels) for _ in range(2))
        self.embedding_gain = nn.Parameter(torch.zeros(2))
        self.attention = Attention(channels, channels, window=0)
        self.head = nn.ModuleList(MPConv(channels, latent_channels, kernel=3) for _ in range(3))
        self.head_gain = nn.Parameter(torch.zeros(3))
        self.moves, self.moves_gain = MPConv(channels, 1, kernel=3), nn.Parameter(torch.zeros(1))
        self.moves_bias = nn.Parameter(torch.ones(1))

    def forward(self, seen_BTKCHW: Tensor, actions_BTKA: Tensor, sigma_BT: Tensor) -> Forecast:
        """Forecast a frame.

        Args:
            seen_BTKCHW: the K clean frames, the last of them first.
            actions_BTKA: features of the last ages[-1] - 1 actions, the one that leads to the frame first.
            sigma_BT: the noise level that the frames are declared to have.
        """
        B, T = sigma_BT.shape
        sigma = sigma_BT[..., None, None, None]
        spread = (self.change_std**2 + 2 * sigma.square()).sqrt()
        last = seen_BTKCHW[:, :, 0]
        changes = ((last[:, :, None] - seen_BTKCHW[:, :, 1:]) / spread[:, :, None]).flatten(2, 3)
        seen = torch.cat([last * torch.rsqrt(1 + sigma.square()), changes, torch.ones_like(last[:, :, :1])], dim=2)
        x = self.stem(seen.flatten(0, 1))
        action = self.action(actions_BTKA[:, :, 0])
        if self.earlier_actions is not None:
            # By itself, and with a smaller share: what is asked for now must not drown in what was asked for before.
            action = mp_sum(action, self.earlier_actions(actions_BTKA[:, :, 1:].flatten(2)), 0.3)
        told = mp_silu(mp_sum(self.noise(self.fourier(sigma_BT.log() / 4)), action, 0.5))
        blocks = zip(self.first, self.second, self.embedding, self.embedding_gain, strict=True)
        for number, (first, second, embedding, embedding_gain) in enumerate(blocks):
            x = normalize(x, (1,))
            scale = (embedding(told, gain=embedding_gain) + 1).flatten(0, 1)
            x = mp_sum(x, second(mp_silu(first(mp_silu(x)) * scale[..., None, None])), 0.3)
            if number == 0:
                whole = self.attention(x[None, None])
                x = mp_sum(x, whole[0, 0], 0.3)
        x = mp_silu(x)
        added, gain, log_spread = (
            head(x, gain=head_gain).unflatten(0, (B, T))
            for head, head_gain in zip(self.head, self.head_gain, strict=True)
        )
        # Whether a pixel moves at all. Where nothing does, a mean that is off by a little each time drifts away in the end,
        # and a factor comes nearer to nothing than a sum.
        moves = torch.sigmoid(self.moves(x, gain=self.moves_gain) + self.moves_bias).unflatten(0, (B, T))
        # `gain` scales the last frame itself, value by value: what is noise in it is taken out where nothing moves.
        mean = last + moves * (gain * last + self.change_std * added)
        spread = moves * self.change_std * log_spread.clamp(max=3.0).exp()
        return Forecast(mean, (spread.square() + LEAST_SPREAD**2).sqrt())
