"""What all typed parameters share: strict types, no unknown keys, numbers that YAML 1.1 writers spelt as strings."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Params(BaseModel):
    """One section of params.yaml. Frozen; wrong types, unknown keys, NaN and infinities are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    OPERATIONAL: ClassVar[frozenset[str]] = frozenset()
    """Fields that say how work is done and leave what comes of it as it is: no part of an artefact or a fingerprint."""

    ADVANCED: ClassVar[frozenset[str]] = frozenset()
    """Fields that few people need: `--help` leaves them to `--help-all`."""

    SHARED: ClassVar[Mapping[str, "type[Params]"]] = {}
    """Sections of their own whose fields this class inherits, because other stages read them too."""

    @classmethod
    def section_of(cls, field: str, section: str) -> str:
        """The section of params.yaml that holds `field`; `section` is this class's own."""
        return next((name for name, model in cls.SHARED.items() if field in model.model_fields), section)

    def as_record(self) -> dict[str, Any]:
        """The fields that decide the result, as JSON values."""
        return self.model_dump(mode="json", exclude=set(self.OPERATIONAL))


def _number(value: Any) -> Any:
    # DVC writes 0.00003 as 3e-05, which YAML 1.1 readers return as a string.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


Float = Annotated[float, BeforeValidator(_number)]
"""A float; the string '3e-05' is one too."""

Share = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1)]
"""A part of a whole, 0 to 1."""

Positive = Annotated[int, Field(ge=1)]
"""A count of at least one."""

Count = Annotated[int, Field(ge=0)]
"""A count, zero allowed."""

Ints = Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)]
"""A list of counts, one or more."""

Floats = Annotated[tuple[Float, ...], Field(strict=False, min_length=1)]
"""A list of numbers, one or more."""
