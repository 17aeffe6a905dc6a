"""Between dataclasses and JSON."""

from collections.abc import Mapping
from typing import Any


def with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with lists turned back into the tuples that JSON cannot tell from them."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
