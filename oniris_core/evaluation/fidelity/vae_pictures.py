"""What the report of `train_vae` shows."""

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from oniris_core.evaluation.fidelity.reconstruction import Fidelity, Reconstruction, by_position
from oniris_core.training.fit.watch.report import draw_curve


def strips(clips: list[Reconstruction], columns: int = 8, upscale: int = 2) -> np.ndarray:
    """Four rows for each clip: truth, reconstruction, four times the error, four times the predicted deviation.

    Returns:
        uint8 [H, W, 3].
    """
    lines = []
    for clip in clips:
        times = np.linspace(0, len(clip.truth) - 1, columns).round().astype(int)
        error = np.abs(clip.truth.astype(np.int16) - clip.found)
        deviation = np.repeat(clip.deviation[..., None], 3, axis=-1)
        for images in (clip.truth, clip.found, 4 * error, 4 * deviation):
            lines.append(np.concatenate(list(np.clip(images[times], 0, 255).astype(np.uint8)), axis=1))
        lines.append(np.full((4, lines[-1].shape[1], 3), 64, np.uint8))
    return np.concatenate(lines[:-1]).repeat(upscale, 0).repeat(upscale, 1)


def latent_histograms(clips: list[Reconstruction], columns: int = 8) -> Figure:
    """One histogram per latent channel, beside the standard normal that the KL loss asks for."""
    latents = np.stack([clip.latents for clip in clips])  # [K, t, C, h, w]
    channels = latents.shape[2]
    columns = min(columns, channels)
    rows = -(-channels // columns)
    figure = Figure(figsize=(1.4 * columns, 1.3 * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    x = np.linspace(-5, 5, 101)
    for channel, axis in enumerate(panels[:channels]):
        values = latents[:, :, channel].ravel()
        axis.hist(values.clip(-5, 5), bins=50, range=(-5, 5), density=True)
        axis.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), linewidth=0.8, color="black")
        axis.set_title(f"{channel}: {values.mean():+.2f}, sd {values.std():.2f}", fontsize=7)
        axis.tick_params(labelsize=6)
    for axis in panels[channels:]:
        axis.set_visible(False)
    figure.suptitle("latents by channel; line: standard normal", fontsize=8)
    return figure


def fidelity_figure(kept: Fidelity, group: int) -> Figure:
    """PSNR of frames and of moving pixels by place within the group, how both spread, and the probe's error."""
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    panels = figure.subplots(2, 3)
    for row, (name, values) in zip(panels, (("PSNR", kept.psnr), ("moving pixels", kept.crop_psnr)), strict=True):
        row[0].plot(np.arange(group), by_position(values, group), marker="o")
        row[0].set(
            title=f"{name}: by place in the group", xlabel="frame of the group", ylabel="dB", xticks=np.arange(group)
        )
        row[1].hist(values[np.isfinite(values)], bins=40)
        row[1].set(title=f"{name}: single frames", xlabel="dB", ylabel="frames")
    if kept.position_error is None or np.isnan(kept.position_error).all():
        panels[0, 2].set_visible(False)
        panels[1, 2].set_visible(False)
        return figure
    there = ~np.isnan(kept.position_error)
    lost = np.isinf(kept.position_error)
    error = kept.position_error[there & ~lost]
    panels[0, 2].hist(error.clip(max=10), bins=40, range=(0, 10))
    panels[0, 2].set(title="position error of the object", xlabel="screen pixels (10: or more)", ylabel="frames")
    found = by_position(np.where(there, (~lost).astype(float), np.nan), group)
    panels[1, 2].plot(np.arange(group), found, marker="o")
    panels[1, 2].set(title="found-rate by place in the group", xlabel="frame of the group", xticks=np.arange(group))
    panels[1, 2].set_ylim(min(0.9, float(np.nanmin(found)) - 0.01), 1.005)
    return figure


def vae_dashboard(clips: list[Reconstruction], history: dict[str, Tensor], step: int, frames_per_step: int) -> Figure:
    """How the training of a VAE stands after `step` steps: losses and PSNR against frames seen, and some clips."""
    figure = Figure(figsize=(12, 8), layout="constrained")
    figure.suptitle(f"VAE after {step} steps, {step * frames_per_step} frames")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(2, 3)).flat
    errors, single = above.subplots(1, 2)
    draw_curve(errors, history["mse"], step, frames_per_step, "mean squared error (pixels from -1 to 1)")
    draw_curve(single, history["psnr"], step, frames_per_step, "PSNR of training clips (dB)")
    single.set_yscale("linear")
    film = below.subplots()
    film.imshow(strips(clips), interpolation="nearest")
    film.set_title("held-out clips: truth, reconstruction, 4 x error, 4 x predicted deviation")
    film.set_axis_off()
    return figure
