"""How a dream of a thousand frames and more departs from what it started as: window by window, no truth to compare with.

Axes: D dreams side by side, T frames, W windows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage

from oniris_core.evaluation.measures.control import Control, ask
from oniris_core.evaluation.probes.inverse_dynamics import ActionProbe, choices, chosen, targets
from oniris_core.evaluation.probes.states.reader import StateReader, still_iou
from oniris_core.evaluation.rollouts.evaluation_set import EvaluationSet
from oniris_core.evaluation.rollouts.rollouts import Dreamer
from oniris_core.evaluation.scores.frechet import frechet_distance
from oniris_core.evaluation.scores.intervals import Bootstrap, Estimate, add

WINDOWS = 10
MEASURES = ("one_object", "no_object", "several_objects", "still_iou", "grain", "action_accuracy")


@dataclass(frozen=True)
class Window:
    """Measures of one stretch of all dreams, [D] each; NaN where the environment's frames cannot be read for it.

    Attributes:
        end: frames generated up to its end.
        values: by MEASURES. one_object, no_object, several_objects: share of the frames that show so many; still_iou: how
            much of what never moves is where it was in the context (intersection over union); grain: mean high-pass
            energy of the calmest nine tenths of the pixels that were empty in the context, grey levels; action_accuracy:
            share of the groups in which the probe reads off the action given, of those with an answer.
        features: float32 [N, F] of the groups the probe could read, all dreams.
    """

    end: int
    values: dict[str, np.ndarray]
    features: np.ndarray


@dataclass(frozen=True)
class Dreams:
    """Long rollouts.

    Attributes:
        windows: in order.
        context_grain: [D], grain of the context as the decoder shows it.
        finite: bool [D], whether every number was finite; what was not is black.
        shown: uint8 [T, H, W, 3], the first dream, context included, and `actions` [T, ...], what led to its frames.
    """

    windows: list[Window]
    context_grain: np.ndarray
    finite: np.ndarray
    shown: np.ndarray
    actions: np.ndarray


def grain(frames: np.ndarray, where: np.ndarray) -> float:
    """Mean absolute difference from the mean of a pixel's 3 x 3 neighbours, over the calmest 90 % of the pixels `where`.

    Args:
        frames: uint8 [T, H, W, 3].
        where: bool [H, W].

    Returns:
        Grey levels; NaN if no pixel is asked for.
    """
    if not where.any():
        return np.nan
    grey = frames.astype(np.float32).mean(-1)
    busy = np.abs(grey - ndimage.uniform_filter(grey, size=(0, 3, 3), mode="nearest"))[:, where].ravel()
    # Whatever flies through the picture is in the busiest tenth; grain is everywhere.
    return float(np.sort(busy)[: max(int(0.9 * len(busy)), 1)].mean(dtype=np.float64))


def measure_dreams(
    dreamer: Dreamer, chosen: EvaluationSet, future: np.ndarray, reader: StateReader | None, probe: ActionProbe | None
) -> Dreams:
    """Dream on from the first episodes (over again if there are fewer), measuring window by window to save memory.

    Args:
        dreamer: the models.
        chosen: the evaluation set.
        future: [D, T, ...], the actions of the dreams' frames, in whole groups.
        reader: of the environment's frames.
        probe: of the actions.
    """
    D, c, context = len(future), chosen.c, chosen.context
    episodes = np.arange(D) % len(chosen.seeds)
    before = chosen.actions[episodes, :context]
    start, shown = dreamer.start(chosen.episodes[episodes], before)
    seeds = [dreamer.noise_seed(chosen.seeds[k], d) for d, k in enumerate(episodes)]
    groups = dreamer.go_on(start, future, seeds)
    lasts = chosen.truth[episodes, context - 1]
    finite, windows, last, first, end = (
        np.ones(D, bool),
        list[Window](),
        shown[:, -1:],
        [shown[0]],
        0,
    )
    for part in np.array_split(np.arange(future.shape[1] // c), min(WINDOWS, future.shape[1] // c)):
        frames, ok = _take(groups, len(part))
        finite &= ok
        actions = future[:, end : end + frames.shape[1]]
        end += frames.shape[1]
        values = {**_look(reader, lasts, frames), "action_accuracy": np.full(D, np.nan)}
        features = np.zeros((0, 1), np.float32)
        if probe is not None:
            features, values["action_accuracy"] = _ask(probe, np.concatenate([last, frames], axis=1), actions, c)
        windows.append(Window(end, values, features))
        last = frames[:, -1:]
        first.append(frames[0])
    grain_before = _look(reader, lasts, shown)["grain"]
    return Dreams(
        windows, grain_before, finite, np.concatenate(first), np.concatenate([before[0], future[0]])
    )  # fmt: skip


def _take(groups: Iterator[tuple[np.ndarray, np.ndarray]], count: int) -> tuple[np.ndarray, np.ndarray]:
    frames, finite = zip(*(next(groups) for _ in range(count)), strict=True)
    return np.concatenate(frames, axis=1), np.all(finite, axis=0)


def _look(reader: StateReader | None, contexts: np.ndarray, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Measures [D] of frames [D, T, H, W, 3] against the last true frames of the contexts [D, H, W, 3]."""
    unknown = np.full(len(frames), np.nan)
    values = dict.fromkeys(MEASURES[:4], unknown)
    where = np.ones((len(frames), *frames.shape[2:4]), bool)
    if reader is not None and reader.count is not None:
        counts = np.stack([reader.count(dream) for dream in frames])
        values |= {name: found.mean(1) for name, found in zip(
            MEASURES[:3], (counts == 1, counts == 0, counts > 1), strict=True)}  # fmt: skip
    if reader is not None and reader.still is not None:
        pairs = zip(contexts, frames, strict=True)
        values["still_iou"] = np.array([still_iou(reader, *pair).mean() for pair in pairs])
    if reader is not None and reader.empty is not None:
        where = reader.empty(contexts)
    return {**values, "grain": np.array([grain(*pair) for pair in zip(frames, where, strict=True)])}


def _ask(probe: ActionProbe, frames: np.ndarray, actions: np.ndarray, c: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of the readable groups, and the share [D] of those with an answer that is read off right."""
    D = len(frames)
    answers = ask(probe, frames, 1, c)
    features = answers.features[answers.readable]
    if not choices(probe.spec):
        return features, np.full(D, np.nan)
    wanted, steady = targets(probe.spec, actions.reshape(-1, c, *actions.shape[2:]))
    right = (chosen(probe.spec, answers.outputs) == wanted).mean(1) * answers.readable * steady
    count = steady.reshape(D, -1).sum(1)
    return features, np.where(count > 0, right.reshape(D, -1).sum(1) / np.maximum(count, 1), np.nan)


def _summary(dreams: Dreams, control: Control | None, bootstrap: Bootstrap) -> list[tuple[int, dict[str, Estimate]]]:
    """Frames and measures of each window; those of the probe only if there is one that can be trusted."""
    found = []
    for window in dreams.windows:
        names = [name for name in MEASURES if name != "action_accuracy" or control is not None]
        measures = {name: bootstrap.mean(window.values[name]) for name in names}
        if control is not None:
            value = np.asarray(frechet_distance(control.features["truth"], window.features))
            measures["frechet"] = Estimate(value, np.asarray(np.nan), np.asarray(np.nan))
        found.append((window.end, measures))
    return found


def drift_metrics(dreams: Dreams, control: Control | None, bootstrap: Bootstrap) -> dict[str, float | int]:
    """`drift/finite` of all dreams, and the measures of the last window beside what they are to be compared with."""
    metrics: dict[str, float | int] = {"drift/frames": dreams.windows[-1].end}
    metrics["drift/finite"] = round(float(dreams.finite.mean()), 4)
    for name, found in _summary(dreams, control, bootstrap)[-1][1].items():
        add(metrics, f"drift/{name}", found)
    add(metrics, "drift/grain_context", bootstrap.mean(dreams.context_grain), interval=False)
    return metrics


def drift_table(dreams: Dreams, control: Control | None, bootstrap: Bootstrap) -> str:
    """CSV, one row per window: each measure, and the ends of its interval."""
    rows = list[str]()
    for end, measures in _summary(dreams, control, bootstrap):
        columns = {
            n + e: v for n, f in measures.items() for e, v in (("", f.value), ("_low", f.low), ("_high", f.high))
        }
        if not rows:
            rows.append(",".join(["frames", *columns]))
        rows.append(",".join([str(end), *(f"{v:.5g}" if np.isfinite(v) else "" for v in columns.values())]))
    return "\n".join(rows) + "\n"


def drift_figure(dreams: Dreams, control: Control | None, bootstrap: Bootstrap) -> Figure:
    """Each measure over the frames generated, intervals as bands."""
    summary = _summary(dreams, control, bootstrap)
    frames = [end for end, _ in summary]
    names = [name for name, found in summary[0][1].items() if any(np.isfinite(m[name].value) for _, m in summary)]
    figure = Figure(figsize=(3.4 * len(names), 2.8), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        value, low, high = (np.array([getattr(m[name], part) for _, m in summary]) for part in ("value", "low", "high"))
        axis.plot(frames, value, marker=".")
        axis.fill_between(frames, low, high, alpha=0.2, linewidth=0)
        axis.set(title=name.replace("_", " "), xlabel="frames generated")
        axis.grid(alpha=0.3)
        if name == "grain":
            axis.axhline(float(np.nanmean(dreams.context_grain)), color="black", linewidth=0.8, linestyle=":")
    return figure
