"""The report of `encode`: what the latents look like as numbers."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from oniris_core.common.artefacts.figures import save_figure
from oniris_core.common.artefacts.files import staged_folder, to_json
from oniris_core.data.latents.store import LatentStatistics


def write_latent_report(out: Path, found: LatentStatistics, frames: int, collapsed_share: float) -> dict[str, Any]:
    """Write metrics.json, channels.csv and channels.png.

    Args:
        out: the folder.
        found: statistics of the training latents.
        frames: latent frames in the store.
        collapsed_share: a channel below this share of the largest standard deviation counts as collapsed.

    Returns:
        The metrics; `collapsed_channels` is how many there are.
    """
    collapsed = found.collapsed(collapsed_share)
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
        save_figure(_figure(found, collapsed, collapsed_share), folder / "channels.png")
    return metrics


def _figure(found: LatentStatistics, collapsed: list[int], share: float) -> Figure:
    figure = Figure(figsize=(6, 3), layout="constrained")
    axis = figure.subplots()
    channels = np.arange(len(found.std))
    axis.bar(channels, found.std, color=["tab:red" if c in collapsed else "tab:blue" for c in channels])
    axis.axhline(share * found.std.max(), color="tab:red", linewidth=1, label="below: collapsed")
    axis.set(title="standard deviation of the latents", xlabel="channel", xticks=channels)
    axis.legend()
    return figure
