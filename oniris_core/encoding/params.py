"""Parameters of the stage `encode`."""

from pydantic import Field

from oniris_core.config.base import Count, Params, Positive, Share


class EncodeParams(Params):
    """How episodes are streamed through the encoder."""

    chunk_latents: Positive = Field(description="latent frames encoded at once; only speed and memory depend on it")
    batch: Positive = Field(description="episodes encoded side by side; only speed and memory depend on it")
    still_latents: Count = Field(
        description="latent frames added to an episode that the environment ended: its last frame stands still"
    )
    collapsed_share: Share = Field(
        description="a latent channel whose standard deviation is below this share of the largest is named as collapsed"
    )
