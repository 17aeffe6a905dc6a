"""Error by horizon: how far a free rollout stays with the true simulator, beside what needs no model.

A horizon is a number of frames after the last frame of the context. Axes: K episodes, S samples, H horizons.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from oniris_core.evaluation.fidelity.metrics import crop_psnr, psnr, ssim
from oniris_core.evaluation.fidelity.reconstruction import by_position
from oniris_core.evaluation.measures.readings import (
    Candidates,
    Reading,
    read_feature,
    read_positions,
    read_quantity,
    skill,
)
from oniris_core.evaluation.probes.states.reader import Quantity, StateReader, still_iou
from oniris_core.evaluation.rollouts.rollouts import Rollouts
from oniris_core.evaluation.scores.intervals import Bootstrap, Estimate, add

HORIZONS = (4, 8, 16, 24, 32)
NO_SIMULATOR = "there is no simulator to compare with"
NOTHING_SHOWN = (
    "no true frame shows it there, or a sample has lost it and nothing that needs no model says what that costs"
)
NO_READER = "the environment has no state reader, and so no position that could go on at constant velocity"


@dataclass(frozen=True)
class LearnedQuantity:
    """What a network has learned to read.

    Attributes:
        quantity: with a `read`.
        own_error: its mean error on true frames it was not trained on, in the quantity's unit; infinite if there are none.
    """

    quantity: Quantity
    own_error: float


@dataclass(frozen=True)
class Curves:
    """Curves over horizons 1..H, by measure and candidate.

    Attributes:
        by_measure: what was measured; `psnr`, `ssim` (at HORIZONS only), `crop_psnr`, and where the frames can be read
            `position_px`, `found`, other quantities and `still_iou`, of the first sample. Of all samples `energy_px` and
            the like, fair energy scores, and `spread_over_error` (of the angle `spread_over_error_angle`); where the
            frames cannot be read those of a fixed feature, `energy_grey`. What a frame does not show where it should is
            charged for, see `Reading.errors`. The candidate `reader` is the own error of a network that reads the quantity.
        skill: of the energy scores of the position, see `readings.skill`; None without simulator or reader.
        alive: int [H], episodes that still go on.
        left_out: what was not measured, and why.
    """

    by_measure: dict[str, dict[str, Estimate]]
    skill: Estimate | None
    alive: np.ndarray
    left_out: dict[str, str]


def candidates(rollouts: Rollouts, redrawn: np.ndarray | None) -> Candidates:
    """The futures that are compared with the truth; `redrawn` [K, S, T, ...] is the simulator with other noise."""
    context, alive = rollouts.context, rollouts.alive[:, rollouts.context :]
    truth = rollouts.truth[:, context:]
    found = {
        "rollout": rollouts.samples[:, :, context:].swapaxes(0, 1),
        "vae": rollouts.reconstructed[None, :, context:],
        "copy_last": np.broadcast_to(rollouts.truth[None, :, context - 1 : context], (1, *truth.shape)),
    }
    valid = dict.fromkeys(found, alive)
    if redrawn is not None:
        found["floor"], valid["floor"] = redrawn[:, :, context:].swapaxes(0, 1), alive
    if len(truth) > 1:  # a single episode has no other
        found["other_actions"] = np.zeros((1, *truth.shape), np.uint8)
        found["other_actions"][0, rollouts.contexts] = rollouts.other_actions[:, context:]
        continued = np.isin(np.arange(len(truth)), rollouts.contexts)
        found["other_episode"] = np.roll(truth, -1, axis=0)[None]
        valid |= {"other_actions": alive & continued[:, None], "other_episode": alive & np.roll(alive, -1, axis=0)}
    return Candidates(truth, found, valid)


def measure(
    rollouts: Rollouts,
    redrawn: np.ndarray | None,
    reader: StateReader | None,
    learned: list[LearnedQuantity],
    bootstrap: Bootstrap,
) -> Curves:
    """Compare the generated frames and the baselines with the truth.

    Args:
        rollouts: what was generated.
        redrawn: uint8 [K, S, T, H, W, 3], the simulator with its noise drawn anew, S times; None without a simulator.
        reader: of the frames.
        learned: readers of what no formula reads.
        bootstrap: of the intervals.
    """
    alive = rollouts.alive[:, rollouts.context :]
    compared = candidates(rollouts, redrawn)
    values = _picture_errors(rollouts, compared, reader)
    of_samples: dict[str, dict[str, Estimate]] = {}
    found_skill, left_out = None, {} if reader else {"rollout/skill": NO_READER}
    for reading in _readings(rollouts, compared, reader, learned):
        name = reading.name
        if not reading.present.any():
            left_out[f"rollout/energy_{name}"] = "the state reader finds nothing in any true frame after the context"
        errors, _ = reading.errors()
        energies = reading.energies()
        values[f"energy_{name}"] = energies
        end = "" if name in ("px", "grey") else f"_{name.rpartition('_')[0]}"
        of_samples[f"spread_over_error{end}"] = reading.spread_over_error(bootstrap)
        left_out |= _undefined(f"rollout/spread_over_error{end}", of_samples[f"spread_over_error{end}"]["rollout"], (
            "the mean of the samples does not err, or no frame is shown by two of them"))  # fmt: skip
        if name == "px":
            values["position_px"] = errors
            values["found"] = {
                n: np.where(reading.present, np.isfinite(s[0, ..., 0]), np.nan) for n, s in reading.samples.items()
            }
            if redrawn is None:
                left_out["rollout/skill"] = NO_SIMULATOR
            else:
                found_skill = skill(energies, bootstrap)
                left_out |= _undefined("rollout/skill", found_skill, (
                    "constant velocity is no worse than the simulator, or no frame has all of object, simulator and velocity"
                ))  # fmt: skip
        elif name != "grey":
            values[name] = errors
    curves = {
        measure_name: {
            name: bootstrap.mean(np.where(compared.valid.get(name, alive), v, np.nan))
            for name, v in by_candidate.items()
        }
        for measure_name, by_candidate in values.items()
    }
    for name, by_candidate in curves.items():
        if name.startswith("energy") and f"rollout/{name}" not in left_out:
            left_out |= _undefined(f"rollout/{name}", by_candidate["rollout"], NOTHING_SHOWN)
    for known in learned:
        own = np.full(alive.shape[1], known.own_error if np.isfinite(known.own_error) else np.nan)
        curves[known.quantity.metric]["reader"] = Estimate(own, own, own)
    return Curves({**curves, **of_samples}, found_skill, alive.sum(0), left_out)


def _picture_errors(
    rollouts: Rollouts, compared: Candidates, reader: StateReader | None
) -> dict[str, dict[str, np.ndarray]]:
    """What whole pictures say, [K, H] by measure and candidate, of first samples; NaN where it is not compared."""
    truth, context = compared.truth, rollouts.context
    at = np.array([h - 1 for h in HORIZONS if h <= truth.shape[1]], dtype=int)
    backgrounds = [
        np.median(t[on], axis=0).astype(np.uint8) for t, on in zip(rollouts.truth, rollouts.alive, strict=True)
    ]
    values: dict[str, dict[str, np.ndarray]] = {"psnr": {}, "ssim": {}, "crop_psnr": {}}
    if reader is not None and reader.still is not None:
        values["still_iou"] = {}
    for name, videos in compared.videos.items():
        for found in values.values():
            found[name] = np.full(truth.shape[:2], np.nan)
        for k in np.flatnonzero(compared.valid[name].any(1)):
            t, f = truth[k], videos[0, k]
            values["psnr"][name][k] = psnr(t, f)
            values["ssim"][name][k, at] = ssim(t[at], f[at]) if len(at) else 0
            values["crop_psnr"][name][k] = crop_psnr(t, f, backgrounds[k])
            if reader is not None and reader.still is not None:
                values["still_iou"][name][k] = still_iou(reader, rollouts.truth[k, context - 1], f)
    return values


def _readings(
    rollouts: Rollouts, compared: Candidates, reader: StateReader | None, learned: list[LearnedQuantity]
) -> list[Reading]:
    context, alive = rollouts.context, rollouts.alive[:, rollouts.context :]
    if reader is None:
        return [read_feature(compared, alive)]
    quantities = [q for q in reader.quantities if q.read is not None] + [known.quantity for known in learned]
    position = read_positions(reader, compared, rollouts.truth[:, :context], alive)
    return [position, *(read_quantity(quantity, compared, position) for quantity in quantities)]


def _undefined(name: str, found: Estimate, reason: str) -> dict[str, str]:
    """What to say of the horizons at which there is no value."""
    return {
        f"{name}@{h}": reason for h in HORIZONS if h <= len(found.value) and not np.isfinite(found.value[h - 1])
    }  # fmt: skip


def flat_metrics(curves: Curves) -> dict[str, float | int]:
    """`rollout/psnr@8` and the like for every horizon of HORIZONS that was generated; undefined ones are left out.

    What the model does has its interval beside it; those of the baselines are in the table.
    """
    metrics: dict[str, float | int] = {"episodes": int(curves.alive.max(initial=0))}
    for h in HORIZONS:
        if h > len(curves.alive):
            continue
        metrics[f"alive@{h}"] = int(curves.alive[h - 1])
        at = partial(_at, index=h - 1)
        if curves.skill is not None:
            add(metrics, f"rollout/skill@{h}", at(curves.skill))
        for measure_name, by_candidate in curves.by_measure.items():
            for name, found in by_candidate.items():
                add(metrics, f"{name}/{measure_name}@{h}", at(found), interval=name == "rollout")
    return metrics


def position_in_group(rollouts: Rollouts, c: int) -> dict[str, float]:
    """`vae/position_spread_db`, the spread of the reconstructions' PSNR over places within a group: flicker."""
    values = np.where(rollouts.alive, psnr(rollouts.truth, rollouts.reconstructed), np.nan)
    return {"vae/position_spread_db": round(float(np.ptp(by_position(values, c))), 4)}


def _at(found: Estimate, index: int) -> Estimate:
    return Estimate(found.value[index], found.low[index], found.high[index])


def table(curves: Curves) -> str:
    """The curves as CSV, one row per horizon: each value, and the ends of its interval."""
    columns: dict[str, np.ndarray] = {"alive": curves.alive}
    estimates = {f"{m}_{name}": e for m, by_candidate in curves.by_measure.items() for name, e in by_candidate.items()}
    if curves.skill is not None:
        estimates = {"skill": curves.skill, **estimates}
    for name, found in estimates.items():
        columns |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    rows = [",".join(["horizon", *columns])]
    for index in range(len(curves.alive)):
        cells = (f"{values[index]:.5g}" if np.isfinite(values[index]) else "" for values in columns.values())
        rows.append(",".join([str(index + 1), *cells]))
    return "\n".join(rows) + "\n"


def horizon_figure(curves: Curves) -> Figure:
    """The curves as a picture, intervals as bands, the number of episodes that still go on along the top of the first."""
    panels = [(name.replace("_", " "), by_candidate) for name, by_candidate in curves.by_measure.items()]
    if curves.skill is not None:
        panels.insert(0, ("skill", {"rollout": curves.skill}))
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4 * columns, 3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    order = list(dict.fromkeys(name for _, by_candidate in panels for name in by_candidate))
    for axis, (title, by_candidate) in zip(axes, panels, strict=False):
        for name, found in by_candidate.items():
            seen = np.flatnonzero(np.isfinite(found.value))
            colour, bold = f"C{order.index(name)}", name == "rollout"
            marker = "." if len(seen) < len(found.value) / 2 else None
            axis.plot(seen + 1, found.value[seen], color=colour, linewidth=2 if bold else 1, marker=marker,
                      label=name.replace("_", " "))  # fmt: skip
            axis.fill_between(seen + 1, found.low[seen], found.high[seen], color=colour, alpha=0.2, linewidth=0)
        axis.set(title=title, xlabel="frames ahead")
        axis.grid(alpha=0.3)
        if title == "skill" or title.startswith("spread over error"):
            axis.axhline(1, color="black", linewidth=0.8, linestyle=":")
    if curves.skill is not None:
        axes[0].axhline(0, color="black", linewidth=0.8)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    widest = max(range(len(panels)), key=lambda i: len(panels[i][1]))
    axes[widest].legend(fontsize=7)
    still = ", ".join(f"{curves.alive[h - 1]} at {h}" for h in HORIZONS if h <= len(curves.alive))
    figure.suptitle(f"held-out episodes that still go on: {still}", fontsize=9)
    return figure
