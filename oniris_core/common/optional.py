"""Packages that only some uses need: asked for when they are needed, missing in one line."""

import importlib
from typing import Any

from oniris_core.common.errors import UserError


def optional(module: str, extra: str, what: str) -> Any:
    """The module, or a UserError that says what needs it and how it is installed.

    Args:
        module: its name.
        extra: the optional dependencies of pyproject.toml that bring it.
        what: what cannot be done without it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.split(".")[0]
        raise UserError(f"{what} needs the package {package}: pip install '.[{extra}]'") from None
