"""Parameters of the stage `train`."""

from itertools import pairwise
from typing import Annotated

from pydantic import Field, model_validator

from oniris_core.config.base import Count, Float, Floats, Ints, Positive, Share
from oniris_core.training.fit.params import FitParams


class TrainParams(FitParams):
    """Architecture, noise and schedule of the world model."""

    channels: Positive = Field(description="channels that channel_mult multiplies")
    channel_mult: Ints = Field(description="channels of each resolution, finest first; each next one is half as fine")
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
    start_share: Share = Field(description="share of the clips that begin with their episode, as a rollout does")
    end_share: Share = Field(description="share of the clips that end with their episode, where it may lie still")
    lr: Float = Field(gt=0, description="learning rate (Muon) at its highest")
    warmup_steps: Positive = Field(description="steps until the learning rate is at its highest")
    lr_ref_steps: Positive = Field(description="steps after which it falls as the inverse square root")
    cooldown_share: Share = Field(description="last share of the steps, over which the learning rate falls to zero")
    p_mean: Float = Field(description="mean of the logarithm of the noise level sigma in training")
    p_std: Float = Field(gt=0, description="standard deviation of the logarithm of sigma")
    context_noise: Float = Field(ge=0, le=2, description="sigma of the clean frames: from 0 up to this, drawn per clip")
    forecast_only_share: Share = Field(
        description="share of the steps that train the forecast alone, about a quarter of the work of a whole one"
    )
    outcome_weight: Float = Field(
        ge=0, description="weight of the loss of rewards and ends, which heads of their own learn; 0: none are learned"
    )
    ema_widths: Floats = Field(description="widths of the weights' averages, relative to the training's length")
    ema_snapshots: Count = Field(
        description="snapshots of each average, evenly spread over the training, from which any width can be made"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "TrainParams":
        if not len(self.channel_mult) == len(self.video_attention) == len(self.frame_attention):
            raise ValueError(
                "channel_mult, video_attention and frame_attention must have one entry per resolution each"
            )
        ages = self.forecast_ages
        if len(ages) < 2 or ages[0] != 1 or any(later <= age for age, later in pairwise(ages)):
            raise ValueError(
                f"forecast_ages must be 1 and at least one more, rising, such as [1, 2, 4], not {list(ages)}"
            )
        if self.start_share + self.end_share > 1:
            raise ValueError(f"start_share + end_share must be at most 1, not {self.start_share} + {self.end_share}")
        if self.head_channels % 2:
            raise ValueError(f"head_channels must be even, not {self.head_channels}")
        for mult, *attends in zip(self.channel_mult, self.video_attention, self.frame_attention, strict=True):
            if any(attends) and self.channels * mult % self.head_channels:
                raise ValueError(
                    f"head_channels = {self.head_channels} must divide the {self.channels * mult} channels "
                    "of every resolution with attention"
                )
        if not all(0 < width < 0.28 for width in self.ema_widths):
            raise ValueError(f"ema_widths must lie between 0 and 0.28, not {list(self.ema_widths)}")
        return self

    def clip_bytes(self, latent: tuple[int, int, int], before: int) -> int:
        """Memory that a clip takes in a training step in float32, bytes, estimated low: without attention.

        Its latents and those before it; for each feature of a resolution 100 numbers and another 25 a block, of both streams
        and both ways; and 40 for each feature of the forecast. `python -m benchmarks.training_memory` measures what it really
        takes: 1.3 to 1.7 times as much, 3.2 times where a CPU attends to all of a fine resolution (`gpu64`).

        Args:
            latent: channels, height and width of a latent frame.
            before: latent frames before a clip that a forecast sees.
        """
        channels, height, width = latent
        cells, features = self.clip_latents * height * width, 0
        for level, multiple in enumerate(self.channel_mult):
            features += cells // 4**level * self.channels * multiple
        latents = (before + self.clip_latents) * channels * height * width
        return 4 * (latents + (100 + 25 * self.blocks) * features + 40 * cells * self.forecast_channels)
