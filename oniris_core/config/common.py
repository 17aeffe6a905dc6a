"""Parameters every stage shares (section `common` of params.yaml)."""

from typing import Annotated, Literal

from pydantic import Field

from oniris_core.config.base import Count, Params


class CommonParams(Params):
    """What all stages agree on."""

    seed: Count = Field(description="all randomness follows from it")
    device: Literal["auto", "cpu", "cuda"] = Field(description="auto takes the GPU when there is one")
    threads: Annotated[int, Field(ge=0, le=1024)] = Field(
        description="CPU threads of torch (0: as many as there are cores)"
    )
