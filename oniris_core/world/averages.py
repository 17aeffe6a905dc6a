"""Averages of the weights of any width, made after training: post-hoc EMA (arXiv 2312.02696, section 3.2).

While it trains, a run keeps snapshots of the averages it tracks, one safetensors file per width and step. Parameters are
kept in half precision: that rounds a weight by 2^-12 of itself at most, far less than neighbouring widths differ.
"""

import hashlib
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from safetensors.torch import save
from torch import Tensor, nn

from oniris_core.common.artefacts.files import atomic_write
from oniris_core.common.artefacts.weights import load_tensors
from oniris_core.common.errors import UserError
from oniris_core.common.power_average import WIDEST, PowerProfile, combine

TOLERANCE = 0.03
"""How far, relative to its norm, a profile may be missed before its width is refused."""


def snapshot_steps(steps: int, count: int) -> tuple[int, ...]:
    """After which steps of a training of `steps` to take `count` snapshots: evenly spread, both ends left out.

    There are fewer where there are fewer steps between the ends.
    """
    return tuple(sorted({round(steps * k / (count + 1)) for k in range(1, count + 1)} - {0, steps}))


def snapshot_file(folder: Path, width: float, step: int) -> Path:
    """Where the snapshot of an average after `step` steps lies."""
    return folder / f"ema_{width:.3f}_{step:09d}.safetensors"


def write_snapshot(file: Path, average: nn.Module) -> None:
    """Keep an average as it stands: parameters in half precision, buffers as they are. Its SHA-256 lies beside it."""
    parameters = dict(average.named_parameters())
    tensors = {name: value.half() if name in parameters else value for name, value in average.state_dict().items()}
    data = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
    atomic_write(file, data)
    atomic_write(file.with_suffix(".sha256"), hashlib.sha256(data).hexdigest().encode())


def whole_snapshot(file: Path) -> bytes | None:
    """A snapshot as it was written; None where it is gone or damaged."""
    try:
        data = file.read_bytes()
        return data if hashlib.sha256(data).hexdigest() == file.with_suffix(".sha256").read_text() else None
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class Averages:
    """What is left of a training, in one folder.

    Attributes:
        folder: holds `ema_<width>.safetensors`, the averages at the end, and below `snapshots/` those on the way.
        widths: the relative widths that were tracked.
        steps: length of the training.
        snapshots: after which steps each average was kept.
    """

    folder: Path
    widths: tuple[float, ...]
    steps: int
    snapshots: tuple[int, ...]

    def file(self, width: float, step: int) -> Path:
        """Where the average of a tracked width after a step lies."""
        if step == self.steps:
            return self.folder / f"ema_{width:.3f}.safetensors"
        return snapshot_file(self.folder / "snapshots", width, step)

    def combination(self, width: float) -> tuple[dict[Path, float], float]:
        """How much of each file an average of `width` takes, and how far its profile is missed, relative to its norm."""
        sources = list(product(self.widths, (*self.snapshots, self.steps)))
        profiles = [PowerProfile(tracked, float(step)) for tracked, step in sources]
        weights, error = combine(profiles, PowerProfile(width, float(self.steps)))
        return {self.file(*source): weight for source, weight in zip(sources, weights.tolist(), strict=True)}, error

    def load(self, width: float) -> dict[str, Tensor]:
        """The weights averaged at the relative width `width`: as they were tracked, else reconstructed.

        Raises:
            UserError: what was kept does not reach that width, or a file is damaged.
        """
        if width in self.widths:
            return load_tensors(self.file(width, self.steps))
        if not self.snapshots:
            raise UserError(
                f"render.ema_width = {width:g} is not in {self.folder}; there are: "
                f"{', '.join(f'{w:g}' for w in self.widths)}, and no snapshots to make others from"
            )
        weights, error = self.combination(width)
        if error > TOLERANCE:
            grid = np.arange(0.005, WIDEST, 0.005).tolist()
            reach = [*self.widths, *(w for w in grid if self.combination(w)[1] <= TOLERANCE)]
            raise UserError(
                f"render.ema_width = {width:g} is out of reach of the averages in {self.folder}: its profile would be "
                f"missed by {error:.0%}; choose one from {min(reach):.3g} to {max(reach):.3g}"
            )
        sums = dict[str, Tensor]()
        for file, weight in weights.items():
            for name, value in load_tensors(file).items():
                sums[name] = sums.get(name, 0) + weight * value.double()
        return {name: value.float() for name, value in sums.items()}
