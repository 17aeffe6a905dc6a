"""The programs of the project. Each dies with the dvc or the launcher that has started it, from its first moment on."""

import sys
from importlib.util import find_spec

# Another dvc than the project's, or a shell without its environment, runs the first `python` that there is.
_MISSING = [name for name in ("typer", "pydantic", "torch", "zarr", "gymnasium") if find_spec(name) is None]
if _MISSING:
    sys.stderr.write(
        f"oniris: error: {sys.executable} has no {_MISSING[0]}: use the project's own environment, with "
        "`source .venv/bin/activate` (`make setup` makes it)\n"
    )
    sys.exit(2)

from oniris_core.common.process import die_with_launcher  # noqa: E402  an older Python could not read it

die_with_launcher()
