"""The world model: denoiser, loss, and the form that generates. Importing this imports nothing else.

Ask `load` for a trained one; its training is in `training.world`, what makes videos of it in `sampling`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from oniris_core.world.store import World


def load(path: Path | str, ema_width: float | None = None, device: "torch.device | str" = "cpu") -> "World":
    """A trained world model, for `oniris_core.sampling.stepper.Stepper`; arguments and errors as `store.load_world`."""
    from oniris_core.world.store import load_world

    return load_world(Path(path), ema_width, device)
