"""Many futures of one context: as spread as the simulator's, and as far apart under different actions.

Axes: N contexts, S samples or actions of each, T frames.
"""

from dataclasses import dataclass

import numpy as np

from oniris_core.data.rows.actions import ActionSpec
from oniris_core.evaluation.probes.states.reader import StateReader
from oniris_core.evaluation.scores.intervals import Bootstrap, add

MOST_ACTIONS = 8
LEAST_SPREAD = 1e-6
"""Spread (px, or grey levels) below which futures are alike but for rounding."""


def constant_actions(spec: ActionSpec) -> dict[str, np.ndarray]:
    """Actions by name, at most 8 of them: each choice, or each component at its ends and the others in the middle."""
    if spec.kind == "discrete":
        return {str(value): np.asarray(value) for value in spec.start[0] + np.arange(spec.sizes[0])[:MOST_ACTIONS]}
    if spec.kind == "box":
        low, high = np.array(spec.low, np.float32), np.array(spec.high, np.float32)
        middle: np.ndarray = (low + high) / 2
        ends = {"low": low, "high": high}
    else:
        middle = np.asarray(spec.start or (0,) * len(spec.sizes), np.int64)
        sizes = (2,) * len(spec.sizes) if spec.kind == "multi_binary" else spec.sizes
        ends = {"first": middle, "last": middle + np.array(sizes) - 1}
    found = dict[str, np.ndarray]()
    for component in range(len(spec.sizes)):
        for name, values in ends.items():
            action = middle.copy()
            action[component] = values[component]
            found[f"{component} {name}"] = action
    return dict(list(found.items())[:MOST_ACTIONS])


@dataclass(frozen=True)
class Spread:
    """How far apart futures of the same context lie, [N, T]: NaN where fewer than two can be read.

    Attributes:
        unit: "px" of the object's position on the screen, or "grey" levels of all pixels.
        values: root mean square distance of two futures.
    """

    unit: str
    values: np.ndarray


def spread(futures_NST: np.ndarray, reader: StateReader | None, alive: np.ndarray | None = None) -> Spread:
    """Spread of futures uint8 [N, S, T, H, W, 3]. The mean square distance of two is twice the variance.

    Args:
        futures_NST: the futures.
        reader: of the frames.
        alive: bool [N, T], where they count; None: everywhere.
    """
    where = np.True_ if alive is None else alive
    if reader is None:
        values = [np.sqrt(2 * x.astype(np.float32).var(0, ddof=1).mean((1, 2, 3))) for x in futures_NST]
        return Spread("grey", np.where(where, np.stack(values), np.nan))
    position = np.stack([reader.position(futures) for futures in futures_NST])  # [N, S, T, 2]
    seen = np.isfinite(position[..., :1])
    count = seen.sum(1)
    mean = np.where(seen, position, 0).sum(1) / np.maximum(count, 1)
    square = np.where(seen, np.square(position - mean[:, None]), 0).sum((1, 3)) / np.maximum(count[..., 0] - 1, 1)
    return Spread("px", np.where((count[..., 0] > 1) & where, np.sqrt(2 * square), np.nan))


def compare_spread(
    name: str, model: Spread, simulator: Spread | None, context: int, horizons: list[int], bootstrap: Bootstrap
) -> tuple[dict[str, float | int], dict[str, str]]:
    """`<name>/spread_px@16`, the simulator's, and `<name>/ratio@16` of the two (1 is right), with what is left out and why.

    The ratio is of means over the contexts in which both can be read.
    """
    metrics: dict[str, float | int] = {}
    left_out: dict[str, str] = {}
    for h in horizons:
        at = context + h - 1
        ours = model.values[:, at]
        mean = bootstrap.mean(ours)
        add(metrics, f"{name}/spread_{model.unit}@{h}", mean)
        if simulator is None:
            left_out[f"{name}/ratio@{h}"] = "there is no simulator to compare with"
            continue
        theirs = simulator.values[:, at]
        add(metrics, f"{name}/simulator_spread_{model.unit}@{h}", bootstrap.mean(theirs), interval=False)
        both = np.isfinite(ours) & np.isfinite(theirs)
        theirs = np.where(theirs < LEAST_SPREAD, 0, theirs)
        ratio = bootstrap.ratio(np.where(both, ours, 0), np.where(both, theirs, 0))
        add(metrics, f"{name}/ratio@{h}", ratio)
        if not np.isfinite(ratio.value):
            left_out[f"{name}/ratio@{h}"] = (
                "the simulator's own futures do not differ, or the object is in none of them"
            )
    return metrics, left_out
