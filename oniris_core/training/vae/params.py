"""Parameters of the stage `train_vae`."""

import math
from typing import ClassVar

from pydantic import Field, model_validator

from oniris_core.config.base import Count, Float, Ints, Positive, Share
from oniris_core.training.fit.params import TrainingParams


class TrainVaeParams(TrainingParams):
    """Architecture, losses and schedule of the group-causal VAE."""

    ADVANCED: ClassVar[frozenset[str]] = frozenset({"perceptual_path"})

    time_compression: Ints = Field(description="frames merged into one at each level, first level first")
    space_compression: Ints = Field(description="pixels merged into one at each level, along height and width")
    channels: Ints = Field(description="channels of each level")
    blocks: Positive = Field(description="residual blocks of each level")
    latent_channels: Positive = Field(description="channels of a latent frame")

    clip_frames: Positive = Field(description="frames of a clip, a multiple of the time compression")
    crop: Count = Field(
        description="height and width of the part of a clip that is trained on, a multiple of the space compression; 0: all"
    )
    lr: Float = Field(gt=0, description="learning rate (Muon) at its highest")

    adversarial_weight: Share = Field(
        description="pull of the discriminators on a pixel in the second half of the steps, as a share of that of the other "
        "losses; 0: none are trained"
    )
    perceptual_path: str = Field(
        description="safetensors file of VGG weights, in torchvision's names, for a perceptual loss (empty: none)"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "TrainVaeParams":
        if not len(self.time_compression) == len(self.space_compression) == len(self.channels):
            raise ValueError("time_compression, space_compression and channels must have one entry per level each")
        group, space = math.prod(self.time_compression), math.prod(self.space_compression)
        if self.clip_frames % group:
            raise ValueError(f"clip_frames = {self.clip_frames} must be a multiple of the time compression {group}")
        if self.crop % space:
            raise ValueError(f"crop = {self.crop} must be a multiple of the space compression {space}, or 0")
        return self

    def clip_bytes(self, height: int, width: int) -> int:
        """Memory that a clip takes in a training step in float32, bytes, estimated low: without discriminators.

        Its uint8 pixels as they are read; 45 numbers for each pixel that is trained on, of truth, reconstruction and losses;
        and for each feature that a level hands on, 8 and another 20 a residual block, of encoder and decoder together.
        `python -m benchmarks.training_memory` measures what it really takes: 1.07 to 1.44 times as much.
        """
        side = (self.crop, self.crop) if self.crop else (height, width)
        pixels = cells = self.clip_frames * side[0] * side[1]
        features = 0
        for time, space, channels in zip(self.time_compression, self.space_compression, self.channels, strict=True):
            cells //= time * space**2
            features += cells * channels
        return self.clip_frames * height * width * 3 + 4 * (45 * pixels + (8 + 20 * self.blocks) * features)
