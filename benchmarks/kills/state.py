"""What a campaign has done so far, in one file of a folder that the same command takes up again."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oniris_core.common.artefacts.files import atomic_write, digest, sha256_file, to_json
from oniris_core.common.errors import UserError
from tests.project import PARTS, ROOT

FILE = "state.json"


def code() -> str:
    """A digest of what is put to the test: the pipeline, its programs and their parameters."""
    parts = [ROOT / part for part in (*PARTS, "benchmarks/gpu", "params.yaml")]
    files = [file for part in parts for file in ([part] if part.is_file() else sorted(part.rglob("*")))]
    kept = [file for file in files if file.is_file() and "__pycache__" not in file.parts]
    return digest({str(file.relative_to(ROOT)): sha256_file(file) for file in kept})[:16]


@dataclass
class State:
    """What is done, and what comes next: case number `cases`.

    Attributes:
        seed, code: what the campaign is of.
        expected: by the name of a reference what `measure` has found in it.
        cases: subjects done with.
        seconds: the time that took.
        counts: by the name of a row of the table.
        told: what was not as it should be, a line each.
    """

    seed: int
    code: str
    expected: dict[str, Any] = field(default_factory=dict)
    cases: int = 0
    seconds: float = 0.0
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """Done so far."""
        return sum(counts["kills"] for counts in self.counts.values())

    def save(self, folder: Path) -> None:
        """Write it down; the file is whole whenever this is killed."""
        atomic_write(folder / FILE, to_json(vars(self)).encode())


def take_up(folder: Path, seed: int) -> State:
    """The state of the campaign in a folder, which is begun if there is none.

    Raises:
        UserError: the folder is of another seed or other code, or of something else.
    """
    file = folder / FILE
    if not file.is_file():
        if folder.exists() and any(path.name != "lock" for path in folder.iterdir()):
            raise UserError(f"{folder} holds something else than a campaign: name an empty folder with --state")
        begun = State(seed, code())
        begun.save(folder)
        return begun
    try:
        found = State(**json.loads(file.read_bytes()))
        found.counts = {name: Counter(counts) for name, counts in found.counts.items()}
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"{file} is damaged: remove {folder} to begin anew") from None
    for what, theirs, ours in (("seed", found.seed, seed), ("code", found.code, code())):
        if theirs != ours:
            raise UserError(
                f"{folder} is a campaign of {what} {theirs}, this would be {ours}: name another with --state"
            )
    return found
