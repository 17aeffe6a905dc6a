"""What a step finds, on disk the moment it is known: a JSON file and a Markdown table, each whole or as it was before."""

import json
import math
import time
from pathlib import Path
from typing import Any

from oniris_core.common.artefacts.files import atomic_write, to_json


class Results:
    """The findings of one step, in `<step>.json` and `<step>.md`, and until when it may go on.

    Args:
        folder: where they are kept.
        step: its name.
        budget: seconds it has from now on.
    """

    def __init__(self, folder: Path, step: str, budget: float):
        self.folder, self.step, self.rows = folder, step, list[dict[str, Any]]()
        self._end, self._start = time.monotonic() + budget, time.monotonic()

    @property
    def left(self) -> float:
        """Seconds left."""
        return self._end - time.monotonic()

    def add(self, what: str, value: object, unit: str = "", wanted: str = "", kept: bool | None = None) -> None:
        """Write a finding down.

        Args:
            what: was measured.
            value: a number, or why there is none.
            unit: of the number.
            wanted: the bound it should keep, in words.
            kept: whether it does; None where there is no bound.
        """
        number = float(f"{value:.4g}") if isinstance(value, float) else value
        if isinstance(number, float) and not math.isfinite(number):
            number = str(number)  # JSON has no such numbers
        at = round(time.monotonic() - self._start, 1)
        self.rows.append({"what": what, "value": number, "unit": unit, "wanted": wanted, "kept": kept, "at_second": at})
        atomic_write(self.folder / f"{self.step}.json", to_json(self.rows).encode())
        atomic_write(self.folder / f"{self.step}.md", self.table().encode())
        print(
            f"{self.step}: {what}: {number} {unit}" + ("" if kept is None else " kept" if kept else " NOT KEPT"),
            flush=True,
        )

    def at_most(self, what: str, value: float, bound: float, unit: str = "") -> bool:
        """Write down a number that should be at most `bound`; returns whether it is (not a number: it is not)."""
        kept = bool(value <= bound)
        self.add(what, value, unit, f"at most {bound:g}", kept)
        return kept

    def at_least(self, what: str, value: float, bound: float, unit: str = "") -> bool:
        """Write down a number that should be at least `bound`."""
        kept = bool(value >= bound)
        self.add(what, value, unit, f"at least {bound:g}", kept)
        return kept

    def table(self) -> str:
        """All findings so far as a Markdown table."""
        marks = {None: "", True: "yes", False: "**no**"}
        lines = ["| what | value | unit | wanted | kept |", "|---|---|---|---|---|"]
        lines += [
            f"| {r['what']} | {r['value']} | {r['unit']} | {r['wanted']} | {marks[r['kept']]} |" for r in self.rows
        ]
        return "\n".join(lines) + "\n"


def read_rows(folder: Path, step: str) -> list[dict[str, Any]]:
    """What a step has written down so far; nothing if it has not come to that."""
    file = folder / f"{step}.json"
    return json.loads(file.read_bytes()) if file.is_file() else []
