"""Checkpoints: whole or absent, checked by SHA-256 on loading, the last two kept."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from oniris_core.common.artefacts.files import atomic_write, to_json

KEPT = 2


class Checkpoints:
    """The checkpoints of one run, in one folder. Each is a safetensors file and, written after it, its digest."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._sweep()

    def save(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Write the state after `step` steps and forget all but the last two."""
        data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        path = self._folder / f"step_{step:09d}.safetensors"
        atomic_write(path, data)
        atomic_write(path.with_suffix(".json"), to_json({"step": step, "sha256": _sha256(data)}).encode())
        self._sweep()

    def load_last(self, say: Callable[[str], None]) -> tuple[Path, dict[str, Tensor]] | None:
        """The newest checkpoint that is whole: its file and its tensors. A damaged one is named through `say`.

        None where there is none.
        """
        for path in reversed(self._steps()):
            file = path.with_suffix(".safetensors")
            try:
                data = file.read_bytes()
                if _sha256(data) != json.loads(path.read_bytes())["sha256"]:
                    raise ValueError("its bytes have changed since it was written")
                return file, load(data)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                say(f"checkpoint {file} is damaged ({error}); trying the one before")
        if self._steps():
            say(f"no checkpoint in {self._folder} is whole; starting from the beginning")
            self.forget()
        return None

    def forget(self) -> None:
        """Remove all checkpoints. Those of a training that starts again would seem older, and be swept away."""
        for path in self._steps():
            path.unlink()
        self._sweep()

    def _sweep(self) -> None:
        for old in self._steps()[:-KEPT]:
            old.unlink()
        for file in self._folder.glob("step_*"):
            # Of one of these, or of a run that was killed while it wrote or swept.
            if file.suffix == ".partial" or not file.with_suffix(".json").exists():
                file.unlink()

    def _steps(self) -> list[Path]:
        return sorted(self._folder.glob("step_*.json"))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
