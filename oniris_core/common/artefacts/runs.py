"""Where unfinished work waits: `runs/<stage>/<output>/<fingerprint>/`, outside DVC's outputs and outside git.

DVC empties a stage's outputs before it runs the stage, so what a killed run leaves for the next one lives here. The
fingerprint covers parameters, inputs and code: work of another run is never taken up. Success removes the folder.
"""

import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from oniris_core.common.artefacts.files import digest, sha256_file
from oniris_core.common.artefacts.remote import Location
from oniris_core.common.errors import OnirisError, UserError
from oniris_core.common.process import exclusive


def code_digest() -> str:
    """SHA-256 over the sources of this project that are loaded now, by module name."""
    sources = {}
    for module in list(sys.modules.values()):
        file, spec = getattr(module, "__file__", None), getattr(module, "__spec__", None)
        name = spec.name if spec else ""  # `python -m stages.train` is loaded as __main__, its spec knows better
        if name.split(".")[0] in ("oniris_core", "stages") and file and Path(file).is_file():
            sources[name] = sha256_file(Path(file))
    return digest(sources)


def runs_folder() -> Path:
    """Where unfinished work waits; the variable ONIRIS_RUNS may name another place."""
    return Path(os.environ.get("ONIRIS_RUNS", "runs"))


def refuse_removed(files: Iterable[Path]) -> None:
    """Raise OnirisError if a finished part of unfinished work, which is a file each, is gone: it is not whole without it."""
    if gone := next((file for file in files if not file.exists()), None):
        raise OnirisError(f"{gone} was finished and has been removed meanwhile; the same command makes it again")


@contextlib.contextmanager
def workspace(stage: str, out: Location, **inputs: object) -> Iterator[Path]:
    """Yield the folder for unfinished work on `out`, locked against a second process; remove it on success.

    Args:
        stage: the name of the stage.
        out: the output it makes; two runs with different outputs do not disturb each other.
        inputs: everything besides the code that the result depends on, as JSON values.

    Raises:
        UserError: another process is making the same output, or no folder can be made here.
    """
    per_output = runs_folder() / stage / hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:12]
    try:
        per_output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"cannot write {per_output}: {error.strerror}; the variable ONIRIS_RUNS may name another place for it"
        raise UserError(message) from None
    with exclusive(per_output, str(out)):
        for stray in per_output.glob("*.removed"):  # of a run that was killed while it removed it
            shutil.rmtree(stray)
        folder = per_output / digest({"code": code_digest(), **inputs})[:16]
        folder.mkdir(exist_ok=True)
        yield folder
        with contextlib.suppress(FileNotFoundError):  # somebody has removed it before us
            for entry in per_output.iterdir():
                if entry.is_dir():
                    # Renamed first: a part of such a folder must never be taken up.
                    shutil.rmtree(entry.rename(entry.with_name(entry.name + ".removed")))
