"""What a page may say, typed and bounded, and how frames travel to it.

A page sends JSON texts, each an object whose `t` says what it is. The server sends JSON texts too, and frames as binary
messages: the length of a JSON header (uint32, little endian), the header, padding to a multiple of 4 bytes, raw RGB.
"""

import json
import struct
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, TypeAdapter, ValidationError

from oniris_core.data.rows.actions import ActionSpec

MOST_BYTES = 2048
"""Of a message from a page."""

_Number = Annotated[StrictInt, Field(ge=0, le=2**31)]
_Value = StrictInt | StrictFloat


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Act(_Message):
    """What is pressed from now on; `press` counts up, so that the page can tell from which frame on it was obeyed."""

    t: Literal["act"]
    value: _Value | Annotated[list[_Value], Field(max_length=256)]
    press: _Number


class Run(_Message):
    """Go on, or pause."""

    t: Literal["run"]
    on: StrictBool


class StepOn(_Message):
    """One latent frame, while paused."""

    t: Literal["step"]


class Speed(_Message):
    """How fast: 1 is the environment's own time."""

    t: Literal["speed"]
    times: Annotated[StrictInt | StrictFloat, Field(ge=0.25, le=4)]


class Restart(_Message):
    """From the start of episode number `start` of those offered, after `latents` latent frames; `seed` is of the noise."""

    t: Literal["restart"]
    start: _Number
    latents: Annotated[StrictInt, Field(ge=1, le=4096)]
    seed: _Number | None = None


class Look(_Message):
    """Show a moment again without going back to it."""

    t: Literal["look"]
    at: _Number


class Rewind(_Message):
    """Go back to a moment; `again`: then take the same actions once more, `noise`: with other noise."""

    t: Literal["rewind"]
    at: _Number
    again: StrictBool = False
    noise: StrictBool = False


class Futures(_Message):
    """From here on four futures side by side."""

    t: Literal["futures"]


class Choose(_Message):
    """Go on with one of them."""

    t: Literal["choose"]
    row: Annotated[StrictInt, Field(ge=0, le=15)]


class ShowTruth(_Message):
    """Play the true simulator too, or not."""

    t: Literal["truth"]
    on: StrictBool


class Quality(_Message):
    """Which sampler."""

    t: Literal["quality"]
    name: Literal["fast", "fine"]


class Save(_Message):
    """Record what has been played."""

    t: Literal["save"]


class Got(_Message):
    """The frames of message number `number` have arrived."""

    t: Literal["got"]
    number: _Number


Message = Act | Run | StepOn | Speed | Restart | Look | Rewind | Futures | Choose | ShowTruth | Quality | Save | Got
_ADAPTER: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="t")])


def parse(text: str) -> Message:
    """The message that a page has sent.

    Raises:
        ValueError: it is none, in a few words.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"a message of {len(text)} characters; at most {MOST_BYTES}")
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"no message: {where or 'it'}: {first['msg']}"[:100]) from None
    except (RecursionError, ValueError):
        raise ValueError("no message: not JSON") from None


def action_of(value: Any, spec: ActionSpec) -> np.ndarray:
    """The action that a page has sent: [] or [components], in the store's type.

    Raises:
        ValueError: it is none of this space.
    """
    shape = () if spec.kind == "discrete" else (len(spec.sizes),)
    if np.shape(value) != shape:
        raise ValueError(f"an action of shape {list(np.shape(value))}, not {list(shape)}")
    if spec.kind == "box":
        action = np.array(value, np.float32)
        if (
            not np.isfinite(action).all()
            or (action < np.array(spec.low, np.float32)).any()
            or (action > np.array(spec.high, np.float32)).any()
        ):
            raise ValueError(f"an action outside {list(spec.low)} to {list(spec.high)}")
        return action
    whole = value if isinstance(value, list) else [value]
    if not all(type(part) is int and abs(part) < 2**31 for part in whole):
        raise ValueError("an action that is no whole number")
    action = np.array(value, np.int64)
    spec.encode(action)
    return action


def packed(header: dict[str, Any], *frames: np.ndarray) -> bytes:
    """A binary message: header and frames, uint8 each, one behind the other."""
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    return struct.pack("<I", len(text)) + text + b"".join(np.ascontiguousarray(part).tobytes() for part in frames)
