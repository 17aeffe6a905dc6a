"""How well the denoiser predicts held-out frames from their true past, by noise level."""

import numpy as np
import torch

from oniris_core.common.seeds import torch_generator
from oniris_core.data.latents.clips import LatentClips
from oniris_core.world.denoiser import Denoiser
from oniris_core.world.loss import noised_errors

SIGMAS = (0.1, 0.3, 1.0, 3.0)


@torch.no_grad()
def teacher_forced_errors(
    denoiser: Denoiser, clips: LatentClips, seed: int, device: torch.device, count: int = 64, clean_sigma: float = 0.05
) -> dict[str, float]:
    """Root-mean-square error of D on standardised latents with a past, `error@sigma` for each of SIGMAS.

    Beside them `copy_last`: the error of repeating the true frame before, which needs no model.
    """
    chosen = clips.index.spread(count)
    errors, copies = {sigma: list[float]() for sigma in SIGMAS}, []
    for number, part in enumerate(np.array_split(chosen, -(-len(chosen) // 16))):
        batch = clips[part]
        x, actions, has_action = (
            torch.from_numpy(a).to(device) for a in (batch.latents, batch.actions, batch.has_action)
        )
        shown = x[:, clips.before :]
        noise = torch.randn(shown.shape, generator=torch_generator(seed, "teacher_forced", number)).to(device)
        clean = torch.full((len(x),), clean_sigma, device=device)
        copies.append(float((shown[:, 1:] - shown[:, :-1]).square().mean()))
        for sigma in SIGMAS:
            sigmas = torch.full(shown.shape[:2], sigma, device=device)
            found = noised_errors(denoiser, x, actions, has_action, sigmas, noise, clean, torch.zeros_like(x))
            errors[sigma].append(float(found.error[:, 1:].mean()))
    rms = {f"error@{sigma:g}": float(np.sqrt(np.mean(values))) for sigma, values in errors.items()}
    return {name: round(value, 5) for name, value in {**rms, "copy_last": float(np.sqrt(np.mean(copies)))}.items()}
