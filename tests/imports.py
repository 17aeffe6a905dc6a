"""What a stage really imports: the transitive closure over this project's files, read from their syntax."""

import ast
from pathlib import Path

from tests.project import ROOT

PACKAGES = ("oniris_core", "stages")


def closure(file: Path) -> set[Path]:
    """Every file of this project that `file` imports, directly or not, at the top or inside a function."""
    found, todo = set[Path](), [file]
    while todo:
        current = todo.pop()
        if current in found:
            continue
        found.add(current)
        for node in ast.walk(ast.parse(current.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                continue
            todo += [path for name in names if (path := module_file(name))]
    return found


def module_file(name: str) -> Path | None:
    """The file of a module of this project, or None. A package is its __init__.py, which imports nothing."""
    if name.split(".")[0] not in PACKAGES:
        return None
    path = ROOT / f"{name.replace('.', '/')}.py"
    return path if path.is_file() else None
