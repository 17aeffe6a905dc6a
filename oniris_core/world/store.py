"""The artefact `models/world`: config.json, one safetensors file per average of the weights, and its snapshots."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from oniris_core.common.artefacts.files import open_artefact, staged_folder, to_json
from oniris_core.common.artefacts.weights import load_into, save_tensors
from oniris_core.common.errors import OnirisError, UserError
from oniris_core.data.rows.actions import ActionSpec
from oniris_core.nn.magnitude import settle_
from oniris_core.world.averages import Averages, snapshot_file, whole_snapshot
from oniris_core.world.denoiser import Denoiser, DenoiserConfig
from oniris_core.world.generation_form import GenerationForm

KIND = "world"
FORMAT = 4
"""Of the folder: 1 had networks with other inputs and without a forecast too; 2, still read, has no rewards and ends; 3, read
where it has none, had one reward whether the episode goes on or ends."""


@dataclass(frozen=True)
class World:
    """A trained world model and what is needed to feed it.

    Attributes:
        denoiser: the trained network, in the form that trains; it works on standardised latents.
        form: the same network, in the form that generates.
        mean, std: float32 [C], of the latents as the VAE gives them.
        action_spec: the actions it obeys.
        vae_identity: the VAE whose latents it knows.
    """

    denoiser: Denoiser
    form: GenerationForm
    mean: np.ndarray
    std: np.ndarray
    action_spec: ActionSpec
    vae_identity: str

    @property
    def has_outcomes(self) -> bool:
        """Whether it has learned rewards and ends."""
        return self.form.heads is not None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.form.device


def save_world(
    out: Path,
    averages: dict[float, nn.Module],
    config: DenoiserConfig,
    mean: np.ndarray,
    std: np.ndarray,
    action_spec: ActionSpec,
    vae_identity: str,
    record: dict[str, Any],
    *,
    steps: int,
    snapshots: tuple[int, ...],
    kept: Path,
) -> None:
    """Write a world model.

    Args:
        out: the folder; replaced at once when all is written.
        averages: the averaged model of each relative width that was tracked.
        config: the architecture.
        mean, std, vae_identity: see `World`.
        record: what else to remember, JSON values.
        steps: length of the training.
        snapshots: after which steps the averages were kept.
        kept: the folder in which `write_snapshot` left them.

    Raises:
        OnirisError: one of them is gone or damaged.
    """
    about = {
        "format": FORMAT,
        "architecture": config.to_json(),
        "latent_mean": [float(value) for value in mean],
        "latent_std": [float(value) for value in std],
        "action_spec": action_spec.to_json(),
        "vae_identity": vae_identity,
        "ema_widths": list(averages),
        "ema_snapshots": list(snapshots),
        "steps": steps,
        **record,
    }
    with staged_folder(out, KIND) as folder:
        (folder / "config.json").write_text(to_json(about))
        files = Averages(folder, tuple(averages), steps, snapshots)
        (folder / "snapshots").mkdir()
        for width, model in averages.items():
            save_tensors(files.file(width, steps), model.state_dict())
            for step in snapshots:
                source = snapshot_file(kept, width, step)
                if (data := whole_snapshot(source)) is None:
                    raise OnirisError(f"{source} is gone or damaged; the same command trains from the beginning")
                files.file(width, step).write_bytes(data)


def load_world(path: Path, ema_width: float | None = None, device: torch.device | str = "cpu") -> World:
    """A world model with the weights averaged at the relative width `ema_width`, tracked or reconstructed.

    None stands for the first width that was tracked.

    Raises:
        UserError: missing, damaged, of another version, or a width out of reach.
    """
    open_artefact(path, KIND, made_by="train")
    try:
        about = json.loads((path / "config.json").read_bytes())
        found = int(about.get("format", 1))
        if found not in (2, 3, FORMAT) or (found == 3 and about["architecture"].get("outcomes")):
            raise UserError(
                f"{path} is a world model of format {found}, this version of Oniris reads format {FORMAT}: "
                "train it again with `dvc repro train`"
            )
        config = DenoiserConfig.from_json(about["architecture"])
        widths = tuple(float(width) for width in about["ema_widths"])
        # A model without snapshots, or from before there were any, has its tracked widths only.
        averages = Averages(path, widths, int(about.get("steps", 1)), tuple(map(int, about.get("ema_snapshots", ()))))
        mean, std = np.array(about["latent_mean"], np.float32), np.array(about["latent_std"], np.float32)
        action_spec = ActionSpec.from_json(about["action_spec"])
        vae_identity = str(about["vae_identity"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{path / 'config.json'} does not describe a world model: {error!r}") from None
    denoiser = Denoiser(config)
    load_into(denoiser, averages.load(widths[0] if ema_width is None else ema_width), path)
    settle_(denoiser)
    denoiser.to(device).eval()
    return World(denoiser, GenerationForm(denoiser), mean, std, action_spec, vae_identity)
