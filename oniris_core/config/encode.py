"""Parameters of the stage `encode`."""

from pydantic import Field

from oniris_core.config.base import Params, Positive


class EncodeParams(Params):
    """How episodes are streamed through the encoder."""

    chunk_latents: Positive = Field(description="latent frames encoded at once; only speed and memory depend on it")
