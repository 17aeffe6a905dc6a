"""What each frame earned and whether the episode has ended by then: read off clean latent frames and the actions (ours).

A small network of its own, fed with what the forecast of the next frame sees but for the action that leads there. It learns
in every step, also in those that train the forecast alone, and no gradient of it reaches anything else.

Axes: see `oniris_core.common.axes`; A features of an action as told, c frames of a latent frame, F features of a frame.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oniris_core.nn.magnitude import MPConv, MPFourier, mp_silu, mp_sum, normalize

PLACES, VALUES = 4, 16
"""Places in a frame that are looked at, and what is read at each."""
SHARPNESS = 2.0
"""Of the looking, at first."""
CHANGE = 3.0
"""By which changes of what is read are multiplied: from one frame to another it changes less than from episode to episode."""
REWARD, LOGIT = 4.0, 8.0
"""What an output of magnitude 1 stands for: standard deviations of the rewards, and a logit."""


class Outcomes(NamedTuple):
    """Of each of the c frames of a latent frame.

    Attributes:
        rewards: float32 [B, c], expected, in the environment's own units.
        ends: float32 [B, c], the probability that the episode has ended at or before the frame: by the environment itself
            (terminated), not by a limit of time.
        lasting: the rewards, if the episode goes on after the latent frame.
        ending: the rewards, if it ends within it.
    """

    rewards: Tensor
    ends: Tensor
    lasting: Tensor
    ending: Tensor


@dataclass(frozen=True)
class OutcomeConfig:
    """What the heads predict.

    Attributes:
        frames: c.
        mean, std: of the rewards of a frame, in the training episodes.
    """

    frames: int
    mean: float
    std: float


class OutcomeHeads(nn.Module):
    """Rewards and ends from the newest of some clean frames.

    In each frame it looks at a few places (softmax over the pixels of a map each) and reads where they are and what is
    there. That of the newest frame and how it differs from that of older ones, with the actions in between, goes through two
    dense layers. A network over the pixels of all these frames learns its training episodes by heart instead.

    They learn from true frames, and from such as are drawn for them in a rollout: there a crash, say, is less plain, and what
    has seen none but true ones hardly notices it.

    Rewards are learned by squared error in units of their standard deviation: its least is at the mean, so that sums of
    predicted rewards are right on average, a landing's 100 among them. There are two of each: if the episode goes on after the
    latent frame, and if it ends within it. A dream in which it is not plain whether a crash has happened has the mean of both;
    who draws whether it has ended gets all of what an end brings, or nothing of it.

    Args:
        config: what is predicted.
        ages: how many frames before the next one those lie that are read, 1 (the newest) first.
        latent: C, H and W of a latent frame.
        channels: width.
        action_features: A, of the actions of one latent frame, the one for "no action" included.
    """

    where: Tensor
    units: Tensor

    def __init__(
        self,
        config: OutcomeConfig,
        ages: tuple[int, ...],
        latent: tuple[int, int, int],
        channels: int,
        action_features: int,
    ):
        super().__init__()
        self.config, self.ages, self.actions = config, ages, actions_seen(ages)
        depth, height, width = latent
        # Pixels along an axis that are taken together, for a quarter of the work.
        self.merged = 2 if height % 2 == width % 2 == 0 else 1
        rows, columns = height // self.merged, width // self.merged
        y, x = (torch.linspace(-1, 1, size) * 3**0.5 for size in (rows, columns))
        # A channel of ones and two that say where a pixel lies.
        where = torch.stack([torch.ones(rows, columns), *torch.meshgrid(y, x, indexing="ij")])
        self.register_buffer("where", where, persistent=False)
        self.stem = MPConv(depth * self.merged**2 + 3, channels, kernel=3)
        self.first, self.second = (MPConv(channels, channels, kernel=3) for _ in range(2))
        self.places, self.sharpness = MPConv(channels, PLACES, kernel=1), nn.Parameter(torch.tensor(SHARPNESS))
        self.values = MPConv(channels, VALUES, kernel=1)
        self.fourier = MPFourier(channels)
        self.noise, self.action = MPConv(channels, 4 * channels), MPConv(self.actions * action_features, 4 * channels)
        self.dense = MPConv(len(ages) * PLACES * (VALUES + 2) + 1, 4 * channels)
        self.again = MPConv(4 * channels, 4 * channels)
        self.head = MPConv(4 * channels + 1, 3 * config.frames)
        self.head_gain = nn.Parameter(torch.zeros(3))
        self.register_buffer("units", torch.tensor([REWARD, REWARD, LOGIT]), persistent=False)

    def read(self, frames_NCHW: Tensor) -> Tensor:
        """What is seen in each frame, [N, F]."""
        x = F.pixel_unshuffle(frames_NCHW, self.merged)
        x = normalize(self.stem(torch.cat([x, self.where.expand(len(x), -1, -1, -1)], dim=1)), (1,))
        x = mp_silu(mp_sum(x, self.second(mp_silu(self.first(mp_silu(x)))), 0.3))
        looks = (self.places(x) * self.sharpness).flatten(2).softmax(-1)  # [N, places, pixels]
        there = torch.cat([self.values(x), self.where[1:].expand(len(x), -1, -1, -1)], dim=1).flatten(2)
        return (looks.to(there.dtype) @ there.transpose(1, 2)).flatten(1)

    def tell(self, read_BTKF: Tensor, told_BTKA: Tensor, sigma_BT: Tensor) -> Tensor:
        """[B, T, 3, c]: rewards if it goes on and if it ends, in standard deviations from their mean, and logits of the ends.

        Args:
            read_BTKF: of the frames `ages`, the newest first.
            told_BTKA: features of the last actions, the one that led to the newest frame first.
            sigma_BT: the noise level that the newest frame is declared to have.
        """
        newest = read_BTKF[:, :, :1]
        changes = (CHANGE * (newest - read_BTKF[:, :, 1:])).flatten(2)
        seen = self.dense(torch.cat([newest[:, :, 0], changes, torch.ones_like(newest[:, :, 0, :1])], dim=2))
        told = mp_sum(self.noise(self.fourier(sigma_BT.log() / 4)), self.action(told_BTKA.flatten(2)), 0.7)
        x = mp_silu(self.again(mp_silu(mp_sum(seen, told, 0.3))))
        found = self.head(torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)).unflatten(-1, (3, -1))
        return found * (self.head_gain * self.units)[:, None]

    def forward(
        self, x_BTCHW: Tensor, told_BTA: Tensor, sigma_BT: Tensor, count: int, newest_BTCHW: Tensor | None = None
    ) -> Tensor:
        """`tell` of each of the last `count` frames of clips; before its first frame an episode stood still.

        Args:
            x_BTCHW: clean frames, any number more of them in front.
            told_BTA: what the network is told of the actions that led to each.
            sigma_BT: the noise level that each is declared to have.
            count: T.
            newest_BTCHW: what is seen in place of each of the last `count`, but not as the past of others; None: they are.
        """
        B, end = x_BTCHW.shape[:2]
        read = self.read(x_BTCHW.flatten(0, 1)).unflatten(0, (B, end))
        oldest = self.ages[-1]
        nothing = torch.zeros_like(told_BTA[:, :1])
        nothing[..., -1] = told_BTA.shape[-1] ** 0.5  # as `told_of` says that there was no action
        read = torch.cat([read[:, :1].expand(-1, oldest, -1), read], dim=1)
        told = torch.cat([nothing.expand(-1, oldest, -1), told_BTA], dim=1)

        def back(values: Tensor, ages: tuple[int, ...]) -> Tensor:
            last = values.shape[1] + 1
            return torch.stack([values[:, last - count - age : last - age] for age in ages], dim=2)

        seen = back(read, self.ages)
        if newest_BTCHW is not None:
            newest = self.read(newest_BTCHW.flatten(0, 1)).unflatten(0, (B, count))
            seen = torch.cat([newest[:, :, None], seen[:, :, 1:]], dim=2)
        return self.tell(seen, back(told, tuple(range(1, self.actions + 1))), sigma_BT[:, -count:])

    def after(self, clean_BFCHW: Tensor, told_BFA: Tensor, sigma_B: Tensor) -> Outcomes:
        """Of the newest of the frames that a rollout holds (see `RolloutState`)."""
        seen = torch.stack([clean_BFCHW[:, -age] for age in self.ages], dim=1)
        read = self.read(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
        told = told_BFA[:, -self.actions :].flip(1)
        return self.outcomes(self.tell(read[:, None], told[:, None], sigma_B[:, None])[:, 0])

    def outcomes(self, found: Tensor) -> Outcomes:
        """What is told [..., 3, c], as rewards and probabilities [..., c]."""
        lasting, ending = (self.config.mean + self.config.std * found[..., i, :] for i in range(2))
        ends = found[..., 2, :].sigmoid()
        return Outcomes(lasting.lerp(ending, ends[..., -1:]), ends, lasting, ending)

    def loss(self, found_BT3c: Tensor, rewards_BTc: Tensor, ended_BTc: Tensor) -> Tensor:
        """[B, T]: squared error of the rewards in units of their variance, and the surprise at the ends in nats, per frame."""
        lasting, ending, ends = found_BT3c.float().unbind(-2)
        rewards = torch.where(ended_BTc[..., -1:] > 0, ending, lasting)
        error = (rewards - (rewards_BTc - self.config.mean) / self.config.std).square()
        surprise = F.binary_cross_entropy_with_logits(ends, ended_BTc.to(ends.dtype), reduction="none")
        return (error + surprise).mean(-1)


def actions_seen(ages: tuple[int, ...]) -> int:
    """How many of the last actions are seen, and held by a rollout, if its forecast sees frames of these ages."""
    return max(ages[-1] - 2, 1)
