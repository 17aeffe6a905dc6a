"""How `make docs` builds the site: the project's Markdown files where they lie, and a page for each of the library's packages.

Whatever is put into docs/ is in the navigation. A link to a file or heading that is not there, or a page that no other
leads to, is a warning, and a warning ends the build.
"""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent

project = "Oniris"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.apidoc"]

# The source is the whole project, so that a link from file to file means here what it means where the code is hosted.
root_doc = "docs/index"
include_patterns = [
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "demo/README.md", "demo/control/README.md", "benchmarks/README.md",
    "docs/*.md",
    "docs/api/oniris_core*.rst",
]  # fmt: skip
exclude_patterns = [".*", "data", "examples", "models", "oniris_core", "renders", "reports", "runs", "site", "tests"]
templates_path = ["templates"]
html_additional_pages = {"index": "start.html"}
html_theme = "furo"
html_title = project
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False

myst_enable_extensions = ["html_image"]
myst_heading_anchors = 4

apidoc_modules = [{
    "path": str(ROOT / "oniris_core"), "destination": "docs/api", "module_first": True,
    "automodule_options": {"members", "show-inheritance"},
}]  # fmt: skip
add_module_names = False
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_use_ivar = True
default_role = "code"

CONTENTS = """
```{toctree}
:hidden:
:caption: Oniris

README <../README>
../demo/README
../demo/control/README
```

```{toctree}
:hidden:
:glob:
:caption: Guides

*
```

```{toctree}
:hidden:
:caption: Working on it

Working on Oniris <../CONTRIBUTING>
../CHANGELOG
../benchmarks/README
api/oniris_core
```
"""


def setup(app: Sphinx) -> None:
    """Called by Sphinx before it reads anything."""
    app.connect("source-read", _read)
    app.connect("autodoc-process-docstring", _read_docstring, priority=400)  # napoleon, which knows `Args:`, has 500


def _read(_: Sphinx, page: str, source: list[str]) -> None:
    """Add the navigation to the first page, and show a link to a folder that exists, which is no page, as its text."""
    if page == root_doc:
        source[0] += CONTENTS
    folder = (ROOT / page).parent
    source[0] = re.sub(
        r"\[([^\]\[]+)\]\(([^)#:]+/)\)", lambda link: link[1] if (folder / link[2]).is_dir() else link[0], source[0]
    )


def _read_docstring(_: Sphinx, kind: str, name: str, value: Any, options: Any, lines: list[str]) -> None:  # noqa: ARG001
    """Docstrings are plain text with names in backticks: what else would be markup is escaped."""
    for number, line in enumerate(lines):
        parts = re.split(r"(`[^`]*`)", line)
        for place in range(0, len(parts), 2):
            parts[place] = re.sub(r"[*|\\]|(?<=\w)_(?!\w)", r"\\\g<0>", parts[place])
            if place and re.match(r"[\w^]", parts[place]):
                parts[place] = "\\ " + parts[place]  # a name in backticks ends where a word does
        lines[number] = "".join(parts)
    if kind in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]  # a comment, or napoleon takes what stands before a colon for a type
