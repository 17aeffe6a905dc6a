"""Parameters of the stage `train`."""

from itertools import pairwise
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from oniris_core.config.base import Float, Floats, Ints, Positive, Share
from oniris_core.training.fit.params import TrainingParams


class TrainParams(TrainingParams):
    """Architecture, noise and schedule of the world model."""

    ADVANCED: ClassVar[frozenset[str]] = frozenset({
        "frame_attention", "head_channels", "forecast_channels", "forecast_ages", "lr_ref_steps", "p_mean", "p_std",
        "ema_widths",
    })  # fmt: skip

    channels: Ints = Field(
        description="channels of each resolution, finest first, multiples of the first; each next one is half as fine"
    )
    blocks: Positive = Field(description="blocks of each resolution")
    video_attention: Annotated[tuple[bool, ...], Field(strict=False)] = Field(
        description="per resolution: attention over all earlier frames"
    )
    frame_attention: Annotated[tuple[bool, ...], Field(strict=False)] = Field(
        description="per resolution: attention within a frame"
    )
    head_channels: Positive = Field(description="channels of an attention head, even")
    window: Positive = Field(description="latent frames of the past that attention remembers")
    forecast_channels: Positive = Field(description="width of the network that forecasts the next frame")
    forecast_ages: Ints = Field(
        description="how many latent frames ago the clean frames lie that the forecast sees, 1 first, and the actions since"
    )

    clip_latents: Annotated[int, Field(ge=2)] = Field(description="latent frames of a clip")
    lr: Float = Field(gt=0, description="learning rate (Muon) at its highest")
    lr_ref_steps: Positive = Field(description="steps after which it falls as the inverse square root")
    p_mean: Float = Field(description="mean of the logarithm of the noise level sigma in training")
    p_std: Float = Field(gt=0, description="standard deviation of the logarithm of sigma")
    forecast_only_share: Share = Field(
        description="share of the steps that train the forecast alone, about a quarter of the work of a whole one"
    )
    outcome_weight: Float = Field(
        ge=0, description="weight of the loss of rewards and ends, which heads of their own learn; 0: none are learned"
    )
    ema_widths: Floats = Field(description="widths of the weights' averages, relative to the training's length")

    @model_validator(mode="after")
    def _consistent(self) -> "TrainParams":
        if not len(self.channels) == len(self.video_attention) == len(self.frame_attention):
            raise ValueError("channels, video_attention and frame_attention must have one entry per resolution each")
        if any(channels % self.channels[0] for channels in self.channels):
            raise ValueError(f"channels must be multiples of the first of them, not {list(self.channels)}")
        ages = self.forecast_ages
        if len(ages) < 2 or ages[0] != 1 or any(later <= age for age, later in pairwise(ages)):
            raise ValueError(
                f"forecast_ages must be 1 and at least one more, rising, such as [1, 2, 4], not {list(ages)}"
            )
        if self.head_channels % 2:
            raise ValueError(f"head_channels must be even, not {self.head_channels}")
        for channels, *attends in zip(self.channels, self.video_attention, self.frame_attention, strict=True):
            if any(attends) and channels % self.head_channels:
                raise ValueError(
                    f"head_channels = {self.head_channels} must divide the {channels} channels "
                    "of every resolution with attention"
                )
        if not all(0 < width < 0.28 for width in self.ema_widths):
            raise ValueError(f"ema_widths must lie between 0 and 0.28, not {list(self.ema_widths)}")
        return self

    @property
    def channel_mult(self) -> tuple[int, ...]:
        """The channels of each resolution as multiples of the first's."""
        return tuple(channels // self.channels[0] for channels in self.channels)

    def clip_bytes(self, latent: tuple[int, int, int], before: int) -> int:
        """Memory that a clip takes in a training step in float32, bytes, estimated low: without attention.

        Its latents and those before it; for each feature of a resolution 100 numbers and another 25 a block, of both streams
        and both ways; and 40 for each feature of the forecast. `python -m benchmarks.training_memory` measures what it really
        takes: 1.3 to 1.7 times as much, 3.2 times where a CPU attends to all of a fine resolution (`gpu64`).

        Args:
            latent: channels, height and width of a latent frame.
            before: latent frames before a clip that a forecast sees.
        """
        depth, height, width = latent
        cells, features = self.clip_latents * height * width, 0
        for level, channels in enumerate(self.channels):
            features += cells // 4**level * channels
        latents = (before + self.clip_latents) * depth * height * width
        return 4 * (latents + (100 + 25 * self.blocks) * features + 40 * cells * self.forecast_channels)
