"""What a VAE keeps: held-out clips against their reconstructions."""

from typing import Any

import numpy as np
import torch

from oniris_core.data.frame_clips import FrameClips
from oniris_core.evaluation.metrics import crop_psnr, psnr
from oniris_core.evaluation.probes import StateProbe
from oniris_core.vae.model import Vae


def reconstruct(vae: Vae, clips: FrameClips, chosen: np.ndarray, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Truth and reconstruction, uint8 [K, T, H, W, 3], of the chosen clips."""
    truth, found = [], []
    for batch in np.array_split(chosen, -(-len(chosen) // 8)):
        frames = clips[batch]
        latents, _ = vae.encode(torch.from_numpy(frames).to(device))
        truth.append(frames)
        found.append(vae.decode(latents)[0].cpu().numpy())
    return np.concatenate(truth), np.concatenate(found)


def reconstruction_metrics(
    truth: np.ndarray, found: np.ndarray, group: int, probe: StateProbe | None
) -> dict[str, Any]:
    """Flat metrics: PSNR, its spread over positions within a group, crop PSNR and, with a probe, what it reads.

    `found` is the share of frames whose object the probe still finds, `position_px` its mean error in screen pixels.
    """
    per_frame = psnr(truth, found)  # [K, T]
    by_position = per_frame.reshape(len(per_frame), -1, group).mean((0, 1))
    crops = np.concatenate(
        [crop_psnr(t, f, np.median(t, axis=0).astype(np.uint8)) for t, f in zip(truth, found, strict=True)]
    )
    metrics = {
        "psnr": float(per_frame.mean()),
        "position_spread_db": float(np.ptp(by_position)),
        "crop_psnr": float(np.nanmean(crops)) if np.isfinite(crops).any() else None,
    }
    if probe is not None:
        there, seen = probe(truth), probe(found)
        present = np.isfinite(there[..., 0])
        error = np.linalg.norm(there - seen, axis=-1)[present]
        metrics["found"] = float(np.isfinite(error).mean()) if len(error) else None
        metrics["position_px"] = float(np.nanmean(error)) if np.isfinite(error).any() else None
    return {name: round(value, 4) for name, value in metrics.items() if value is not None}


def strips(truth: np.ndarray, found: np.ndarray, rows: int = 3, columns: int = 8, upscale: int = 2) -> np.ndarray:
    """A picture of truth above reconstruction above four times the difference, for some clips: uint8 [H, W, 3]."""
    lines = []
    for t, f in zip(truth[:rows], found[:rows], strict=True):
        times = np.linspace(0, len(t) - 1, columns).round().astype(int)
        difference = np.clip(4 * np.abs(t.astype(np.int16) - f), 0, 255).astype(np.uint8)
        lines += [np.concatenate(list(images[times]), axis=1) for images in (t, f, difference)]
    return np.concatenate(lines).repeat(upscale, 0).repeat(upscale, 1)
