"""The reports of the training stages: metrics.json, curves as CSV for plots, pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from oniris_core.common.artefacts.figures import save_figure
from oniris_core.common.artefacts.files import staged_folder, to_json


def write_training_report(
    out: Path,
    metrics: dict[str, Any],
    history: dict[str, Tensor],
    pictures: Mapping[str, np.ndarray | Figure],
    tables: Mapping[str, str] | None = None,
) -> None:
    """Write metrics.json, curves.csv, curves.png, a PNG for each of `pictures` (uint8 [H, W, 3]), a CSV for each table."""
    curves = {name: values.numpy() for name, values in sorted(history.items()) if not name.startswith("seconds")}
    with staged_folder(out, "report") as folder:
        (folder / "metrics.json").write_text(to_json(metrics))
        (folder / "curves.csv").write_text(curve_table(curves))
        save_figure(curve_figure(curves), folder / "curves.png")
        for name, picture in pictures.items():
            if isinstance(picture, Figure):
                save_figure(picture, folder / f"{name}.png")
            else:
                iio.imwrite(folder / f"{name}.png", picture)
        for name, table in (tables or {}).items():
            (folder / f"{name}.csv").write_text(table)


def curve_table(curves: dict[str, np.ndarray], points: int = 200) -> str:
    """Training curves as CSV: means of at most `points` blocks of steps."""
    steps = len(next(iter(curves.values())))
    rows = [",".join(["step", *curves])]
    for block in np.array_split(np.arange(steps), min(points, steps)):
        rows.append(",".join([str(block[-1] + 1), *(_mean(values[block]) for values in curves.values())]))
    return "\n".join(rows) + "\n"


def _mean(values: np.ndarray) -> str:
    finite = values[np.isfinite(values)]
    return f"{finite.mean():.6g}" if len(finite) else ""


def curve_figure(curves: dict[str, np.ndarray], window: int = 25) -> Figure:
    """Moving averages of training curves, one panel each."""
    figure = Figure(figsize=(3 * len(curves), 2.6), layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axis, (name, values) in zip(panels, curves.items(), strict=True):
        steps = np.flatnonzero(np.isfinite(values))  # some values are logged at some steps only
        values, width = values[steps], min(window, max(len(steps), 1))
        if not len(steps):
            continue
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        axis.plot(steps[width - 1 :] + 1, smooth, linewidth=1)
        axis.set(title=name, xlabel="step")
        if (smooth > 0).all() and smooth.max() > 20 * smooth.min():
            axis.set_yscale("log")
        axis.grid(alpha=0.3)
    return figure


def draw_curve(axis: Axes, values: Tensor, steps: int, frames_per_step: int, label: str, window: int = 50) -> None:
    """A logged value, above 0, against the frames seen in `steps` steps: every step, and a moving average."""
    y = values[:steps].numpy()
    seen = np.flatnonzero(np.isfinite(y))
    axis.set(xlabel="frames seen", xscale="log", yscale="log")
    if len(seen):
        x, y, width = (seen + 1) * frames_per_step, y[seen], min(window, len(seen))
        (line,) = axis.plot(x, y, linewidth=0.3, alpha=0.4)
        smooth = np.convolve(y, np.ones(width) / width, mode="valid")
        axis.plot(x[width - 1 :], smooth, color=line.get_color(), linewidth=1.5, label=label)
        axis.legend()
