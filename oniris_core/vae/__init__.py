"""The group-causal video VAE: networks, losses, streaming and stepping. Importing this imports nothing else.

Ask `load` for a trained one; its training is in `training.vae`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from oniris_core.vae.codec import Codec


def load(path: Path | str, device: "torch.device | str" = "cpu") -> "Codec":
    """The VAE that `train_vae` left at `path` (models/vae), ready to encode and decode videos.

    Raises:
        UserError: missing, damaged, or no VAE.
    """
    from oniris_core.vae.codec import Codec
    from oniris_core.vae.store import load_vae

    return Codec(*load_vae(Path(path), device))
