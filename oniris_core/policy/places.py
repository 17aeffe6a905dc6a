"""What a policy reads off latent frames: where some things are, what is there, and how that has changed.

A policy of dense layers alone hardly finds the lander in a latent frame: most of what varies there is the ground. Spatial
softmax (Finn et al. 2016, "Deep spatial autoencoders for visuomotor learning", arXiv 1509.06113, section IV) finds it with few
weights. Axes: N observations, K latent frames of each, C channels, A features of an action, h, w.
"""

import gymnasium as gym
import torch
import torch.nn.functional as F
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

PLACES, VALUES, CHANNELS = 8, 8, 32
"""Places that are looked at, what is read at each, and width."""
SHARPNESS = 3.0
"""Of the looking."""
CHANGE = 3.0
"""By which changes are multiplied: they are smaller than what changes."""


class Places(BaseFeaturesExtractor):
    """For Stable-Baselines3, from float32 [N, K (C + A), h, w], the newest last, to [N, features].

    In each frame it looks at a few places (softmax over the pixels of a map each) and reads where they are and what is there:
    of the newest frame that itself, of the older ones how it has changed since. The actions that led to the frames are given
    on as they are.
    """

    grid: Tensor

    def __init__(self, observation_space: gym.spaces.Box, frames: int, action_features: int):
        """Make it.

        Args:
            observation_space: of K latent frames one after the other, behind each the planes of its action.
            frames: K.
            action_features: A.
        """
        super().__init__(observation_space, frames * (PLACES * (VALUES + 2) + action_features))
        depth, height, width = observation_space.shape
        self.frames, self.channels = frames, depth // frames - action_features
        y, x = (torch.linspace(-1, 1, size) * 3**0.5 for size in (height, width))
        self.register_buffer("grid", torch.stack(torch.meshgrid(y, x, indexing="ij")), persistent=False)
        self.first = nn.Conv2d(self.channels + 2, CHANNELS, 3, padding=1)
        self.second = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.places, self.values = nn.Conv2d(CHANNELS, PLACES, 1), nn.Conv2d(CHANNELS, VALUES, 1)

    def forward(self, observations: Tensor) -> Tensor:
        """float32 [N, features]."""
        shown = observations.unflatten(1, (self.frames, -1))
        each, actions = shown[:, :, : self.channels].flatten(0, 1), shown[:, :, self.channels :, 0, 0]
        grid = self.grid.expand(len(each), -1, -1, -1)
        x = F.relu(self.second(F.relu(self.first(torch.cat([each, grid], dim=1)))))
        looks = (SHARPNESS * self.places(x)).flatten(2).softmax(-1)
        there = torch.cat([self.values(x), grid], dim=1).flatten(2)
        read = (looks @ there.transpose(1, 2)).unflatten(0, (-1, self.frames)).flatten(2)
        newest = read[:, -1:]
        changes = CHANGE * (newest - read[:, :-1])
        return torch.cat([torch.cat([newest, changes], dim=1).flatten(1), actions.flatten(1)], dim=1)
