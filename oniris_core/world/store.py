"""The artefact `models/world`: config.json and one safetensors file per average of the weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from oniris_core.common.errors import UserError
from oniris_core.common.files import open_artefact, staged_folder, to_json
from oniris_core.common.weights import load_into, load_tensors, save_tensors
from oniris_core.data.actions import ActionSpec
from oniris_core.world.denoiser import Denoiser, DenoiserConfig

KIND = "world"


@dataclass(frozen=True)
class World:
    """A trained world model and what is needed to feed it.

    Attributes:
        denoiser: works on standardised latents.
        mean, std: float32 [C], of the latents as the VAE gives them.
        action_spec: the actions it obeys.
        vae_identity: the VAE whose latents it knows.
        identity: digest of the model's bytes.
    """

    denoiser: Denoiser
    mean: np.ndarray
    std: np.ndarray
    action_spec: ActionSpec
    vae_identity: str
    identity: str


def save_world(
    out: Path,
    averages: dict[float, nn.Module],
    config: DenoiserConfig,
    mean: np.ndarray,
    std: np.ndarray,
    action_spec: ActionSpec,
    vae_identity: str,
    record: dict[str, Any],
) -> None:
    """Write a world model: one file of weights for each relative width in `averages`."""
    about = {
        "architecture": config.to_json(),
        "latent_mean": [float(value) for value in mean],
        "latent_std": [float(value) for value in std],
        "action_spec": action_spec.to_json(),
        "vae_identity": vae_identity,
        "ema_widths": list(averages),
        **record,
    }
    with staged_folder(out, KIND) as folder:
        (folder / "config.json").write_text(to_json(about))
        for width, model in averages.items():
            save_tensors(folder / f"ema_{width:.3f}.safetensors", model.state_dict())


def load_world(path: Path, ema_width: float | None = None, device: torch.device | str = "cpu") -> World:
    """A world model with the weights averaged at the relative width `ema_width` (None: the first one that was saved).

    Raises:
        UserError: missing, damaged, another architecture, or a width it was not saved with.
    """
    artefact = open_artefact(path, KIND, made_by="train")
    try:
        about = json.loads((path / "config.json").read_bytes())
        config = DenoiserConfig.from_json(about["architecture"])
        widths = [float(width) for width in about["ema_widths"]]
        mean, std = np.array(about["latent_mean"], np.float32), np.array(about["latent_std"], np.float32)
        action_spec = ActionSpec.from_json(about["action_spec"])
        vae_identity = str(about["vae_identity"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{path / 'config.json'} does not describe a world model: {error!r}") from None
    ema_width = widths[0] if ema_width is None else ema_width
    if ema_width not in widths:
        raise UserError(
            f"render.ema_width = {ema_width:g} is not in {path}; there are: {', '.join(f'{w:g}' for w in widths)}"
        )
    denoiser = Denoiser(config)
    file = path / f"ema_{ema_width:.3f}.safetensors"
    load_into(denoiser, load_tensors(file), file)
    return World(denoiser.to(device).eval(), mean, std, action_spec, vae_identity, artefact.identity)
