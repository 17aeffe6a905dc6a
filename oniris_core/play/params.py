"""Parameters of the stage `play`."""

from typing import Annotated, Literal

from pydantic import Field

from oniris_core.config.base import Count, Float, Params, Positive


class PlayParams(Params):
    """Where the page is served, to how many, and what is kept for each of them."""

    host: str = Field(
        min_length=1,
        description="address to serve at; any but this machine's own loopback asks for a token in the page's address",
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(description="port to serve at; 0: any that is free")
    players: Positive = Field(description="pages that may play at once; they share one model")
    episodes: Positive = Field(description="episodes offered to start from, or as many as there are")
    context_latents: Positive = Field(
        description="true latent frames a dream starts from, unless the player says otherwise"
    )
    quality: Literal["auto", "fast", "fine"] = Field(
        description="fine: as render samples; fast: as many solver steps as reach real time; auto: fine if that reaches it"
    )
    history: Positive = Field(description="latent frames one can rewind through; older ones are forgotten")
    moments: Annotated[int, Field(ge=8)] = Field(
        description="states of the model kept for each player; between them a rewind computes again"
    )
    keep_minutes: Float = Field(ge=0, description="minutes for which the dream of a page that has gone waits for it")
    saves: Count = Field(description="recordings that may be saved before the server is started again")
    import_code: bool = Field(
        description="allow a true simulator, and wrappers, whose code is not Gymnasium's (see collect)"
    )
