"""Parameters of the stage `play`."""

from typing import Annotated, Literal

from pydantic import Field

from oniris_core.config.base import Params, Positive


class PlayParams(Params):
    """Where the page is served, to how many, and how finely. What is generated follows the section `render`."""

    host: str = Field(
        min_length=1,
        description="address to serve at; any but this machine's own loopback asks for a token in the page's address",
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(description="port to serve at; 0: any that is free")
    players: Positive = Field(description="pages that may play at once; they share one model")
    quality: Literal["auto", "fast", "fine"] = Field(
        description="fine: as render samples; fast: as many solver steps as reach real time; auto: fine if that reaches it"
    )
