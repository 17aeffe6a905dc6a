"""What `model.json` says: all that a driver must know beside the graphs. Its schema is written beside it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Row(_Part):
    """One evaluation of the network, and the step after it: x <- a x + b D + c D_before."""

    sigma: float = Field(gt=0, description="noise level at which `evaluate` is asked for D, the input `denoised`")
    a: float = Field(description="share of x")
    b: float = Field(description="share of D")
    c: float = Field(description="share of the D of the row before; 0 in the first")


class SamplerTable(_Part):
    """How a latent frame is made: x = center + sqrt(spread^2 + sigma^2) noise with the first row's sigma, then each row."""

    steps: int = Field(ge=1, description="its noise levels")
    rows: tuple[Row, ...] = Field(min_length=1, description="in order; after the last x is the latent frame")


class Remembered(_Part):
    """A tensor of a state that begins as zeros."""

    name: str = Field(description="of the input; the output that replaces it begins with `next`")
    type: Literal["float32", "bool", "int64"]
    shape: tuple[int, ...] = Field(description="without the batch, which is the first axis")


class Latent(_Part):
    """Latent frames: standardised wherever they go in or out of a graph."""

    shape: tuple[int, int, int] = Field(description="channels, height, width")
    mean: tuple[float, ...] = Field(description="by channel, subtracted in `encode` and added in `decode`")
    std: tuple[float, ...] = Field(description="by channel, divided by in `encode` and multiplied by in `decode`")


class Actions(_Part):
    """The action space; `told` of the graphs is the features of the actions of a latent frame, and 0.

    Features: one-hot times sqrt(choices) for discrete kinds, values scaled to -1..1 otherwise, action after action. Of a frame
    whose actions are not known, such as the first, `told` is zeros and sqrt(length of `told`).
    """

    kind: Literal["discrete", "box", "multi_discrete", "multi_binary"]
    sizes: tuple[int, ...] = Field(description="choices of each component, or 1 each")
    low: tuple[float, ...] = Field(description="of each component of a box, else empty")
    high: tuple[float, ...] = Field(description="of each component of a box, else empty")
    start: tuple[int, ...] = Field(description="value of the first choice of each component, discrete kinds only")


class Identities(_Part):
    """SHA-256 of the manifests of the artefacts that were exported."""

    world: str
    vae: str


class Description(_Part):
    """A world model as ONNX graphs: what a driver must know beside them."""

    format: Literal[1] = Field(description="of this folder")
    environment: str | None = Field(description="id of the environment it has learned, if it has one")
    weights: Literal["float32", "float16"] = Field(description="as they are stored; computed with in float32")
    parts: tuple[str, ...] = Field(description="names of the graphs, each in a file NAME.onnx")
    group: int = Field(ge=1, description="frames of a latent frame")
    height: int = Field(ge=1, description="of a frame, pixels")
    width: int = Field(ge=1, description="of a frame, pixels")
    frame_rate: float = Field(gt=0, description="frames a second of the environment's own time")
    latent: Latent
    actions: Actions
    context_sigma: float = Field(gt=0, description="noise level that frames of the past are declared to have")
    context_latents: int = Field(ge=1, description="latent frames, after the first one, that a dream is to start from")
    samplers: tuple[SamplerTable, ...] = Field(min_length=1, description="the last is the model's own")
    encoder: tuple[Remembered, ...] = Field(description="state of `encode`")
    decoder: tuple[Remembered, ...] = Field(description="state of `decode`")
    identities: Identities
