"""The artefact `models/vae`: config.json and weights.safetensors, enough to rebuild the VAE."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from oniris_core.common.artefacts.files import open_artefact, staged_folder, to_json
from oniris_core.common.artefacts.weights import load_into, load_tensors, save_tensors
from oniris_core.common.errors import UserError
from oniris_core.common.plain import with_tuples
from oniris_core.vae.model import Vae, VaeConfig

KIND = "vae"


def save_vae(out: Path, vae: Vae, record: dict[str, Any]) -> None:
    """Write a VAE; `record` (the parameters it was trained with, its inputs) is kept beside the architecture."""
    with staged_folder(out, KIND) as folder:
        (folder / "config.json").write_text(to_json({"architecture": asdict(vae.config), **record}))
        save_tensors(folder / "weights.safetensors", vae.state_dict())


def load_vae(path: Path, device: torch.device | str = "cpu") -> tuple[Vae, str]:
    """A VAE and its identity, the digest of its bytes.

    Raises:
        UserError: missing, damaged, or weights of another architecture.
    """
    artefact = open_artefact(path, KIND, made_by="train_vae")
    try:
        architecture = json.loads((path / "config.json").read_bytes())["architecture"]
        values = {field.name: architecture[field.name] for field in fields(VaeConfig)}
        config = VaeConfig(**with_tuples(values))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{path / 'config.json'} does not describe a VAE: {error!r}") from None
    vae = Vae(config)
    load_into(vae, load_tensors(path / "weights.safetensors"), path / "weights.safetensors")
    return vae.to(device).eval(), artefact.identity
