"""Parameters of the stage `encode`."""

from pydantic import Field

from oniris_core.config.base import Count, Params


class EncodeParams(Params):
    """How episodes are streamed through the encoder."""

    still_latents: Count = Field(
        description="latent frames added to an episode that the environment ended: its last frame stands still"
    )
