"""Error by horizon: how far a free rollout stays with the true simulator, beside what needs no model.

A horizon is a number of frames after the last frame of the context.
"""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from oniris_core.evaluation.metrics import psnr
from oniris_core.evaluation.probes import StateProbe
from oniris_core.evaluation.rollouts import Rollouts

HORIZONS = (4, 8, 16, 24, 32)


@dataclass(frozen=True)
class Curves:
    """Curves over horizons 1..H, one per candidate (`rollout`, `copy_last`, `vae`, `other_actions`).

    Attributes:
        psnr: dB, mean over episodes.
        position_px: mean error of the probed position in screen pixels, over frames in which the truth shows the object
            and the candidate is found to; empty without a probe.
        found: share of the frames in which the truth shows the object and the candidate does too; empty without a probe.
    """

    psnr: dict[str, np.ndarray]
    position_px: dict[str, np.ndarray]
    found: dict[str, np.ndarray]

    @property
    def by_measure(self) -> dict[str, dict[str, np.ndarray]]:
        """The curves by the name of the measure."""
        return {"psnr": self.psnr, "position_px": self.position_px, "found": self.found}


def measure(rollouts: Rollouts, probe: StateProbe | None) -> Curves:
    """Compare the generated frames and the baselines with the truth."""
    truth = rollouts.truth[:, rollouts.context :]
    last = rollouts.truth[:, rollouts.context - 1 : rollouts.context]
    candidates = {
        "rollout": rollouts.generated[:, rollouts.context :],
        "copy_last": np.broadcast_to(last, truth.shape),
        "vae": rollouts.reconstructed[:, rollouts.context :],
    }
    if len(truth) > 1:  # a single episode has no other's actions
        candidates["other_actions"] = rollouts.other_actions[:, rollouts.context :]
    curves = Curves({name: psnr(truth, frames).mean(0) for name, frames in candidates.items()}, {}, {})
    if probe is not None:
        there = probe(truth)
        present = np.isfinite(there[..., 0])
        for name, frames in candidates.items():
            error = np.where(present, np.linalg.norm(probe(frames) - there, axis=-1), np.nan)
            seen = np.isfinite(error)
            with np.errstate(invalid="ignore"):
                curves.found[name] = seen.sum(0) / present.sum(0)
                curves.position_px[name] = np.nansum(error, axis=0) / seen.sum(0)
    return curves


def flat_metrics(curves: Curves, episodes: int) -> dict[str, float | int]:
    """`rollout/psnr@8` and the like for every horizon of HORIZONS that was generated; undefined ones are left out."""
    metrics: dict[str, float | int] = {"episodes": episodes}
    for measure_name, by_candidate in curves.by_measure.items():
        for candidate, values in by_candidate.items():
            for horizon in HORIZONS:
                if horizon <= len(values) and np.isfinite(values[horizon - 1]):
                    metrics[f"{candidate}/{measure_name}@{horizon}"] = round(float(values[horizon - 1]), 4)
    return metrics


def table(curves: Curves) -> str:
    """The curves as CSV, one row per horizon."""
    columns = {
        f"{measure_name}_{candidate}": values
        for measure_name, by_candidate in curves.by_measure.items()
        for candidate, values in by_candidate.items()
    }
    rows = [",".join(["horizon", *columns])]
    for index in range(len(next(iter(columns.values())))):
        cells = ("" if not np.isfinite(values[index]) else f"{values[index]:.5g}" for values in columns.values())
        rows.append(",".join([str(index + 1), *cells]))
    return "\n".join(rows) + "\n"


def horizon_figure(curves: Curves) -> Figure:
    """The curves as a picture."""
    panels = [("PSNR (dB)", curves.psnr), ("position error (px)", curves.position_px), ("found", curves.found)]
    panels = [panel for panel in panels if panel[1]]
    figure = Figure(figsize=(4 * len(panels), 3), layout="constrained")
    for axis, (title, by_candidate) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, values in by_candidate.items():
            axis.plot(np.arange(1, len(values) + 1), values, label=name.replace("_", " "))
        axis.set(title=title, xlabel="frames ahead")
        axis.grid(alpha=0.3)
    figure.axes[0].legend()
    return figure
