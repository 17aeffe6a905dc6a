"""Reads params.yaml into typed parameters; every complaint is one sentence that names the place."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from oniris_core.common.errors import UserError
from oniris_core.common.naming import nearest
from oniris_core.config.base import Params
from oniris_core.config.gone import GONE

SECTIONS = ("common", "collect", "fit", "train_vae", "encode", "train", "render", "play", "policy")

P = TypeVar("P", bound=Params)


def read_yaml(path: Path) -> dict[str, dict[str, Any]]:
    """The sections of a parameter file, as plain values.

    Raises:
        UserError: missing, malformed (with the line), a key twice, or a section that does not exist.
    """
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run from the project's folder or name the file with --params") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{path}, line {line}: {str(error.problem).splitlines()[0]}; keep one of them") from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{path}, line {line}: {' '.join(str(error.problem).split())}") from None
    except (YAMLError, ValueError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold the sections {', '.join(SECTIONS)}")
    for name, section in content.items():
        if name not in SECTIONS:
            raise UserError(f"{path}: unknown section '{name}'{nearest(str(name), SECTIONS)}")
        if not isinstance(section, dict):
            raise UserError(f"{path}: section '{name}' must hold 'name: value' lines")
    return content


def parse_value(text: str) -> Any:
    """A command-line value as params.yaml would read it: `3e-4`, `true`, `[1, 2]`; `1,2` is a list too."""
    try:
        return YAML(typ="safe", pure=True).load(f"[{text}]" if "," in text and text[0] not in "[{'\"" else text)
    except (YAMLError, ValueError):
        raise UserError(f"'{text}' is not a value YAML can read") from None


def build(model: type[P], section: str, values: Mapping[str, Any], source: str) -> P:
    """Check `values` against the typed parameters `model`.

    Args:
        model: the parameters' class.
        section: its name in params.yaml.
        values: raw values.
        source: where they come from, for the message.

    Raises:
        UserError: the first thing wrong, with field, value and what would be right.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(f"{source}: {_explain(error, model, section)}") from None


def _explain(error: ValidationError, model: type[Params], section: str) -> str:
    # A misspelt name is the cause of the missing one: it comes first.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    name = ".".join([model.section_of(str(first["loc"][0]), section) if first["loc"] else section,
                     *(str(part) for part in first["loc"])])  # fmt: skip
    if first["type"] == "extra_forbidden":
        if (section, str(first["loc"][-1])) in GONE:
            return f"{name} is gone: {GONE[section, str(first['loc'][-1])]}"
        return f"unknown parameter {name}{nearest(str(first['loc'][-1]), model.model_fields)}"
    if first["type"] == "missing":
        return f"{name} is missing ({model.model_fields[str(first['loc'][0])].description})"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not first["loc"]:
        return f"{section}: {message}"
    return f"{name} = {first['input']!r} {message}" if message.startswith("should") else f"{name}: {message}"


def load_section(
    model: type[P], section: str, content: Mapping[str, Any], path: Path, overrides: Mapping[str, Any]
) -> P:
    """One section of `content`, read from the parameter file `path`, with `overrides` in place of its values.

    The sections that it shares with others (`Params.SHARED`) are read too, and are part of what is returned.
    """
    shared = dict[str, Any]()
    for name, part in model.SHARED.items():
        for field in part.model_fields:
            if field in content.get(section, {}):
                raise UserError(f"{path}: {section}.{field} is gone: it is {name}.{field} now")
        shared |= load_section(part, name, content, path, {}).model_dump()
    if section not in content:
        raise UserError(f"{path}: section '{section}' is missing")
    # The file itself must be right, whatever is overridden: an option must not hide a mistake in it.
    base = build(model, section, {**shared, **content[section]}, str(path))
    return base if not overrides else build(model, section, {**base.model_dump(), **overrides}, "option")
