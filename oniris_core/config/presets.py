"""Presets: named values for a fixed list of parameters, written into params.yaml with its comments kept."""

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from oniris_core.common.artefacts.files import atomic_write
from oniris_core.common.errors import UserError
from oniris_core.common.naming import nearest
from oniris_core.config.reader import read_yaml


def preset_names(folder: Path) -> list[str]:
    """The presets in `folder`, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def apply_preset(name: str, folder: Path, params: Path) -> list[str]:
    """Set the parameters of preset `name` in the file `params`; return `section.key: old -> new` for each change.

    Raises:
        UserError: no such preset, or one that sets a parameter the file does not have.
    """
    known = preset_names(folder)
    if name not in known:
        raise UserError(f"unknown preset '{name}'{nearest(name, known)} (there are: {', '.join(known)})")
    read_yaml(params)
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 200
    document = yaml.load(params.read_text(encoding="utf-8"))
    changes = []
    for section, values in read_yaml(folder / f"{name}.yaml").items():
        for key, value in values.items():
            if key not in document.get(section, {}):
                raise UserError(f"preset '{name}' sets {section}.{key}, which {params} does not have")
            old = document[section][key]
            if old != value:
                changes.append(f"{section}.{key}: {old} -> {value}")
                document[section][key] = _flow(value)
    text = io.StringIO()
    yaml.dump(document, text)
    if changes:
        atomic_write(params, text.getvalue().encode())
    return changes


def _flow(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    sequence = CommentedSeq(value)
    sequence.fa.set_flow_style()
    return sequence
