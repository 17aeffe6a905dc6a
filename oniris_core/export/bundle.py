"""Modules of JavaScript as one script, because a page that is opened from the disk may not load others.

Each becomes a function that is called once and returns what it exports. The modules of the pages use two forms only,
`import { a, b } from "./name.js";` and `export` before a class, a function or a constant, each on a line of its own.
"""

import re
from collections.abc import Mapping

_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w-]+)\.js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:class|function|const) (\w+))", re.MULTILINE)


def bundle(modules: Mapping[str, str], entry: str) -> str:
    """One script of the module `entry` and those it imports.

    Args:
        modules: their texts by name, without `.js`.
        entry: the one that is run.

    Raises:
        ValueError: a module is missing, imports itself in the end, or uses another form of import or export.
    """
    order = list[str]()

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above or name not in modules:
            raise ValueError(f"module {name}.js is {'imported in a circle' if name in above else 'missing'}")
        for _, other in _IMPORT.findall(modules[name]):
            visit(other, (*above, name))
        if name not in order:
            order.append(name)

    visit(entry, ())
    return "".join(_wrapped(name, modules[name]) for name in order)


def _wrapped(name: str, text: str) -> str:
    names = [found for _, found in _EXPORT.findall(text)]
    body = _EXPORT.sub(r"\1", _IMPORT.sub(lambda found: f"const {{{found[1]}}} = module_{found[2]};", text))
    if left := re.search(r"^(import|export)\b[^(].*$", body, re.MULTILINE):
        raise ValueError(f"module {name}.js has a form that is not known here: {left[0]}")
    return f"const module_{name} = (() => {{\n{body}\nreturn {{ {', '.join(names)} }};\n}})();\n"
