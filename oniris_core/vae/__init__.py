"""The group-causal video VAE."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from oniris_core.vae.codec import Codec


def load(path: "str | Path", device: str = "cpu") -> "Codec":
    """The VAE that `train_vae` left at `path` (models/vae), ready to encode and decode videos.

    Raises:
        UserError: missing, damaged, or no VAE.
    """
    from pathlib import Path

    import torch

    from oniris_core.vae.codec import Codec
    from oniris_core.vae.store import load_vae

    return Codec(load_vae(Path(path), device)[0], torch.device(device))
