"""What a VAE keeps: held-out clips against their reconstructions. Axes: K clips, T frames, H, W."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from oniris_core.data.episodes.clips import FrameClips
from oniris_core.evaluation.fidelity.metrics import crop_psnr, psnr, ssim
from oniris_core.evaluation.fidelity.positions import StateProbe
from oniris_core.vae.model import Vae, to_uint8


@dataclass(frozen=True)
class Reconstruction:
    """One held-out clip and what the VAE makes of it.

    Attributes:
        truth, found: uint8 [T, H, W, 3].
        deviation: float32 [T, H, W], the standard deviation the VAE predicts of a pixel, mean over colours, grey levels.
        latents: float32 [T / group, C, h, w].
        background: uint8 [H, W, 3], the median of the clip's episode.
    """

    truth: np.ndarray
    found: np.ndarray
    deviation: np.ndarray
    latents: np.ndarray
    background: np.ndarray


@torch.no_grad()
def reconstruct(vae: Vae, clips: FrameClips, clip: int, device: torch.device) -> Reconstruction:
    """Encode and decode one clip."""
    truth = clips[np.array([clip])]
    latents, _ = vae.encode(torch.from_numpy(truth).to(device))
    mean, logvar, _ = vae.decoder(latents, latents.new_zeros(1))
    deviation = 127.5 * (0.5 * logvar[0]).exp().mean(1)
    return Reconstruction(
        truth[0], to_uint8(mean)[0].cpu().numpy(), deviation.cpu().numpy(), latents[0].cpu().numpy(), clips.background(clip)
    )  # fmt: skip


@dataclass(frozen=True)
class Fidelity:
    """How much of each frame was kept.

    Attributes:
        psnr, ssim: [K, T].
        crop_psnr: [K, T], over the pixels that differ from the episode's median; NaN where none does.
        position_error: [K, T], distance of what a probe finds from what it finds on the truth, screen pixels; NaN where the
            truth has nothing to find, infinite where only the reconstruction has not. None without a probe.
    """

    psnr: np.ndarray
    ssim: np.ndarray
    crop_psnr: np.ndarray
    position_error: np.ndarray | None


def fidelity(clips: list[Reconstruction], probe: StateProbe | None) -> Fidelity:
    """Measure reconstructions, frame by frame."""
    return Fidelity(
        np.stack([psnr(clip.truth, clip.found) for clip in clips]),
        np.stack([ssim(clip.truth, clip.found) for clip in clips]),
        np.stack([crop_psnr(clip.truth, clip.found, clip.background) for clip in clips]),
        np.stack([_position_error(probe, clip) for clip in clips]) if probe else None,
    )


def _position_error(probe: StateProbe, clip: Reconstruction) -> np.ndarray:
    there, seen = probe(clip.truth), probe(clip.found)
    error = np.linalg.norm(there - seen, axis=-1)
    return np.where(np.isfinite(there[..., 0]) & ~np.isfinite(error), np.inf, error)


def by_position(values_KT: np.ndarray, group: int) -> np.ndarray:
    """Means [group] over the frames that stand at the same place within their group; NaNs do not count."""
    frames = values_KT.reshape(-1, group)
    count = np.isfinite(frames).sum(0)
    return np.where(count > 0, np.nansum(frames, axis=0) / np.maximum(count, 1), np.nan)


def reconstruction_metrics(kept: Fidelity, group: int) -> dict[str, Any]:
    """Flat metrics; what could not be measured is left out.

    `position_spread_db` is the spread of PSNR over places within a group (flicker), `found` the share of frames in which
    the probe still finds its object, `position_px` its mean error there in screen pixels.
    """
    metrics: dict[str, Any] = {
        "psnr": float(kept.psnr.mean()),
        "ssim": float(kept.ssim.mean()),
        "position_spread_db": float(np.ptp(by_position(kept.psnr, group))),
    }
    if np.isfinite(kept.crop_psnr).any():
        metrics["crop_psnr"] = float(np.nanmean(kept.crop_psnr))
    if kept.position_error is not None and (there := ~np.isnan(kept.position_error)).any():
        error = kept.position_error[there]
        metrics["found"] = float(np.isfinite(error).mean())
        if np.isfinite(error).any():
            metrics["position_px"] = float(error[np.isfinite(error)].mean())
    return {name: round(value, 4) for name, value in metrics.items()}
