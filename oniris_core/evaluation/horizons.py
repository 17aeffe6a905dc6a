"""Error by horizon: how far a free rollout stays with the true simulator, beside what needs no model.

A horizon is a number of frames after the last frame of the context. Axes: K episodes, H horizons.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from oniris_core.evaluation.intervals import Bootstrap, Estimate, add
from oniris_core.evaluation.metrics import crop_psnr, psnr, ssim
from oniris_core.evaluation.reconstruction import by_position
from oniris_core.evaluation.rollouts import Rollouts
from oniris_core.evaluation.states.reader import Quantity, StateReader, still_iou

HORIZONS = (4, 8, 16, 24, 32)
NO_MODEL = ("other_episode", "copy_last", "constant_velocity")
NO_FLOOR = "there is no floor to compare with"


@dataclass(frozen=True)
class LearnedQuantity:
    """What a network has learned to read.

    Attributes:
        quantity: with a `read`.
        own_error: its mean error on true frames it was not trained on, in the quantity's unit.
    """

    quantity: Quantity
    own_error: float


@dataclass(frozen=True)
class Curves:
    """Curves over horizons 1..H, by measure and candidate.

    Attributes:
        by_measure: what was measured; `psnr`, `ssim` (at HORIZONS only), `crop_psnr`, and where the frames can be read
            `position_px`, `found`, other quantities and `still_iou`. A frame without the object where there should be
            one counts as the mean error there of the worst of what needs no model, above all of another episode: deleting
            it does not pay.
        skill: 1 - (error - floor) / (error of constant velocity - floor) of the positions; None without floor.
        alive: int [H], episodes that still go on.
        left_out: what was not measured, and why.
    """

    by_measure: dict[str, dict[str, Estimate]]
    skill: Estimate | None
    alive: np.ndarray
    left_out: dict[str, str]


def candidates(rollouts: Rollouts, floor: np.ndarray | None) -> dict[str, np.ndarray]:
    """The futures [K, H, ...] that are compared with the truth; `floor` [K, T, ...] is the simulator with other noise."""
    context = rollouts.context
    truth = rollouts.truth[:, context:]
    found = {
        "rollout": rollouts.generated[:, context:],
        "vae": rollouts.reconstructed[:, context:],
        "copy_last": np.broadcast_to(rollouts.truth[:, context - 1 : context], truth.shape),
    }
    if floor is not None:
        found["floor"] = floor[:, context:]
    if len(truth) > 1:  # a single episode has no other
        found["other_actions"] = rollouts.other_actions[:, context:]
        found["other_episode"] = np.roll(truth, -1, axis=0)
    return found


def measure(
    rollouts: Rollouts,
    floor: np.ndarray | None,
    reader: StateReader | None,
    learned: list[LearnedQuantity],
    bootstrap: Bootstrap,
) -> Curves:
    """Compare the generated frames and the baselines with the truth."""
    context, alive = rollouts.context, rollouts.alive[:, rollouts.context :]
    truth, compared = rollouts.truth[:, context:], candidates(rollouts, floor)
    valid = {name: alive & np.roll(alive, -1, axis=0) if name == "other_episode" else alive for name in compared}
    at = np.array([h - 1 for h in HORIZONS if h <= truth.shape[1]], dtype=int)
    values: dict[str, dict[str, np.ndarray]] = {"psnr": {}, "ssim": {}, "crop_psnr": {}}
    backgrounds = [
        np.median(t[on], axis=0).astype(np.uint8) for t, on in zip(rollouts.truth, rollouts.alive, strict=True)
    ]
    for name, frames in compared.items():
        pairs = list(zip(truth, frames, strict=True))
        values["psnr"][name] = np.stack([psnr(t, f) for t, f in pairs])
        values["ssim"][name] = np.full(alive.shape, np.nan)
        values["ssim"][name][:, at] = np.stack([ssim(t[at], f[at]) for t, f in pairs]) if len(at) else 0
        values["crop_psnr"][name] = np.stack([crop_psnr(t, f, b) for (t, f), b in zip(pairs, backgrounds, strict=True)])
    skill, left_out = None, dict[str, str]()
    if reader is not None:
        errors, found, present = _position_errors(rollouts, compared, valid, reader)
        values["position_px"], values["found"] = errors, found
        skill, left_out = _skill(errors, bootstrap)
        quantities = [q for q in reader.quantities if q.read is not None] + [known.quantity for known in learned]
        for quantity in quantities:
            values[quantity.metric] = _quantity_errors(quantity, truth, compared, present)
        if reader.still is not None:
            lasts = rollouts.truth[:, context - 1]
            values["still_iou"] = {
                name: np.stack([still_iou(reader, *pair) for pair in zip(lasts, frames, strict=True)])
                for name, frames in compared.items()
            }
    curves = {
        measure_name: {
            name: bootstrap.mean(np.where(valid.get(name, alive), v, np.nan)) for name, v in by_candidate.items()
        }
        for measure_name, by_candidate in values.items()
    }
    for known in learned:
        left_out |= _refuse(known, curves[known.quantity.metric])
    return Curves(curves, skill, alive.sum(0), left_out)


def _position_errors(
    rollouts: Rollouts, compared: dict[str, np.ndarray], valid: dict[str, np.ndarray], reader: StateReader
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Errors and found (0 or 1), [K, H] each, NaN where the truth shows no object; and where it does."""
    context = rollouts.context
    before, there = np.split(reader.locate(rollouts.truth), [context], axis=1)
    present = np.isfinite(there[..., 0]) & rollouts.alive[:, context:]
    errors = {name: np.linalg.norm(reader.locate(frames) - there, axis=-1) for name, frames in compared.items()}
    found = {name: np.where(present, np.isfinite(error), np.nan) for name, error in errors.items()}
    errors["constant_velocity"] = np.linalg.norm(_constant_velocity(before, there.shape[1]) - there, axis=-1)
    lost = np.fmax.reduce(
        [_mean(errors[name], present & valid.get(name, present)) for name in NO_MODEL if name in errors]
    )
    charged = {
        n: error if n == "constant_velocity" else np.where(np.isfinite(error), error, lost)
        for n, error in errors.items()
    }
    return {name: np.where(present, error, np.nan) for name, error in charged.items()}, found, present


def _mean(values_KH: np.ndarray, where_KH: np.ndarray) -> np.ndarray:
    there = np.isfinite(values_KH) & where_KH
    return np.where(there.any(0), np.where(there, values_KH, 0).sum(0) / np.maximum(there.sum(0), 1), np.nan)


def _constant_velocity(before_KT2: np.ndarray, horizon: int, over: int = 2) -> np.ndarray:
    """Positions [K, H, 2] if the last two seen of the context, `over` frames apart, went on like that; NaN if not seen."""
    over = min(over, before_KT2.shape[1] - 1)
    last = before_KT2[:, -1]
    velocity = (last - before_KT2[:, -1 - over]) / max(over, 1)
    return last[:, None] + velocity[:, None] * np.arange(1, horizon + 1)[:, None]


def _skill(errors: dict[str, np.ndarray], bootstrap: Bootstrap) -> tuple[Estimate | None, dict[str, str]]:
    if "floor" not in errors:
        return None, {"rollout/skill": NO_FLOOR}
    names = ("rollout", "floor", "constant_velocity")
    there = np.isfinite([errors[name] for name in names]).all(0)  # the same frames for all three
    (err, err_R), (floor, floor_R), (cv, cv_R) = (bootstrap.sums(np.where(there, errors[name], 0)) for name in names)

    def ratio(err: np.ndarray, floor: np.ndarray, cv: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(cv > floor, 1 - (err - floor) / (cv - floor), np.nan)

    skill = bootstrap.estimate(ratio(err, floor, cv), ratio(err_R, floor_R, cv_R))
    left_out = {
        f"rollout/skill@{h}": "constant velocity is no worse than the floor, or no frame has all of object, floor and velocity"
        for h in HORIZONS
        if h <= len(skill.value) and not np.isfinite(skill.value[h - 1])
    }
    return skill, left_out


def _quantity_errors(
    quantity: Quantity, truth: np.ndarray, compared: dict[str, np.ndarray], present: np.ndarray
) -> dict[str, np.ndarray]:
    assert quantity.read is not None
    true = quantity.read(truth)
    return {
        name: np.where(present, quantity.distance(quantity.read(frames), true), np.nan)
        for name, frames in compared.items()
    }


def _refuse(known: LearnedQuantity, curves: dict[str, Estimate]) -> dict[str, str]:
    """Take out the horizons at which the reader errs more than the simulator itself; say so."""
    left_out = {}
    floor = curves["floor"].value if "floor" in curves else np.full_like(next(iter(curves.values())).value, np.nan)
    too_coarse = ~(known.own_error <= floor)
    for name in curves:
        curves[name] = Estimate(*(np.where(too_coarse, np.nan, part) for part in vars(curves[name]).values()))
    for h in HORIZONS:
        if h <= len(floor) and too_coarse[h - 1]:
            limit = f"more than the floor of {floor[h - 1]:.2f}" if np.isfinite(floor[h - 1]) else NO_FLOOR
            left_out[f"rollout/{known.quantity.metric}@{h}"] = (
                f"the reader of {known.quantity.name} itself errs by {known.own_error:.2f} {known.quantity.unit}, {limit}"
            )
    return left_out


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
    if curves.skill is not None:
        axes[0].axhline(1, color="black", linewidth=0.8, linestyle=":")
        axes[0].axhline(0, color="black", linewidth=0.8)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    widest = max(range(len(panels)), key=lambda i: len(panels[i][1]))
    axes[widest].legend(fontsize=7)
    still = ", ".join(f"{curves.alive[h - 1]} at {h}" for h in HORIZONS if h <= len(curves.alive))
    figure.suptitle(f"held-out episodes that still go on: {still}", fontsize=9)
    return figure
