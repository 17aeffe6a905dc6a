"""The report of `encode`: what the latents look like as numbers."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from oniris_core.common.artefacts.figures import save_figure
from oniris_core.common.artefacts.files import staged_folder, to_json
from oniris_core.data.latents.store import LatentStatistics

COLLAPSED_SHARE = 0.05
"""A channel that varies less than this share of the most varying one counts as collapsed."""


def write_latent_report(out: Path, found: LatentStatistics, frames: int) -> dict[str, Any]:
    """Write metrics.json, channels.csv and channels.png.

    Args:
        out: the folder.
        found: statistics of the training latents.
        frames: latent frames in the store.

    Returns:
        The metrics; `collapsed_channels` is how many there are.
    """
    collapsed = found.collapsed(COLLAPSED_SHARE)
    metrics = {
        "latent_frames": frames,
        "change_std": round(found.change_std, 4),
        "std_min": round(float(found.std.min()), 4),
        "std_max": round(float(found.std.max()), 4),
        "collapsed_channels": len(collapsed),
    }
    rows = [
        f"{channel},{mean:.6g},{std:.6g},{int(channel in collapsed)}"
        for channel, (mean, std) in enumerate(zip(found.mean, found.std, strict=True))
    ]
    with staged_folder(out, "report") as folder:
        (folder / "metrics.json").write_text(to_json(metrics))
        (folder / "channels.csv").write_text("\n".join(["channel,mean,std,collapsed", *rows]) + "\n")
        save_figure(_figure(found, collapsed), folder / "channels.png")
    return metrics


def _figure(found: LatentStatistics, collapsed: list[int]) -> Figure:
    figure = Figure(figsize=(6, 3), layout="constrained")
    axis = figure.subplots()
    channels = np.arange(len(found.std))
    axis.bar(channels, found.std, color=["tab:red" if c in collapsed else "tab:blue" for c in channels])
    axis.axhline(COLLAPSED_SHARE * found.std.max(), color="tab:red", linewidth=1, label="below: collapsed")
    axis.set(title="standard deviation of the latents", xlabel="channel", xticks=channels)
    axis.legend()
    return figure
