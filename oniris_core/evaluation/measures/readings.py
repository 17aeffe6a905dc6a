"""What is read off true and generated frames, and what it says of the generated ones: plain errors and proper scores.

Positions and other quantities where an environment's frames can be read, else one fixed feature of all frames. Axes: K
episodes, S samples of each, H horizons, D components of what is read.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from oniris_core.evaluation.probes.small_cnn import shrink
from oniris_core.evaluation.probes.states.reader import Quantity, StateReader
from oniris_core.evaluation.scores.intervals import Bootstrap, Estimate
from oniris_core.evaluation.scores.scores import (
    Distance,
    euclidean,
    fair_energy_score,
    mean_of,
    root_mean_square,
    spread_and_error,
)

NO_MODEL = ("other_episode", "copy_last", "constant_velocity")
"""What needs no model: losing the object costs as much as the worst of them."""
FEATURE_HEIGHT = 16
"""Pixels of height to which frames are averaged down where nothing else can be read off them."""


@dataclass(frozen=True)
class Candidates:
    """The futures that are compared with the truth.

    Attributes:
        truth: uint8 [K, H, ...].
        videos: by name, uint8 [S, K, H, ...]; S is 1 for all but the model and the simulator.
        valid: by name, bool [K, H]: where it is compared at all.
    """

    truth: np.ndarray
    videos: dict[str, np.ndarray]
    valid: dict[str, np.ndarray]


@dataclass(frozen=True)
class Reading:
    """One thing that frames show, read off all of them: [K, H] or [K, H, D], NaN where a frame does not show it.

    Attributes:
        name: at the end of the names of its measures: px, angle_deg, grey.
        truth: [K, H, ...].
        samples: by candidate, [S, K, H, ...].
        present: bool [K, H]: where the true episode goes on and shows it.
        valid: by candidate, bool [K, H].
        distance: see `scores`.
        period: after which it repeats, or None.
        foreseen: [K, H, ...] what would come at constant velocity; None where that means nothing.
    """

    name: str
    truth: np.ndarray
    samples: dict[str, np.ndarray]
    present: np.ndarray
    valid: dict[str, np.ndarray]
    distance: Distance
    period: float | None = None
    foreseen: np.ndarray | None = None

    def errors(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Errors [K, H] by candidate, of the first sample, and what losing it costs, [H].

        A frame that does not show what it should is charged the mean error there of the worst of what needs no model, above
        all of another episode: deleting it does not pay. NaN where the truth does not show it.
        """
        found = {name: self.distance(values[0], self.truth) for name, values in self.samples.items()}
        if self.foreseen is not None:
            found["constant_velocity"] = self.distance(self.foreseen, self.truth)
        lost = np.fmax.reduce(
            [_mean(found[n], self.present & self.valid.get(n, self.present)) for n in NO_MODEL if n in found]
        )
        charged = {
            name: error if name == "constant_velocity" else np.where(np.isfinite(error), error, lost)
            for name, error in found.items()
        }
        return {
            name: np.where(self.present & self.valid.get(name, self.present), error, np.nan)
            for name, error in charged.items()
        }, lost

    def energies(self) -> dict[str, np.ndarray]:
        """Fair energy scores [K, H] of model, simulator (if there is one) and what needs no model; see `scores`.

        The last two always say the same, so that theirs is their error.
        """
        errors, lost = self.errors()
        found = {
            name: fair_energy_score(values, self.truth, self.distance, lost)
            for name, values in self.samples.items()
            if len(values) > 1
        }
        found = {name: np.where(self.present, score, np.nan) for name, score in found.items()}
        return found | {name: errors[name] for name in ("constant_velocity", "copy_last") if name in errors}

    def spread_over_error(self, bootstrap: Bootstrap) -> dict[str, Estimate]:
        """Spread of the samples over the error of their mean [H], both root mean squares over episodes; 1 is right."""
        found = {}
        for name, values in self.samples.items():
            if len(values) > 1:
                mean = mean_of(values, self.period)
                spread, error = spread_and_error(values, self.truth, mean, self.distance)
                known = self.present & np.isfinite(spread)
                square = bootstrap.ratio(np.where(known, spread, 0), np.where(known, error, 0))
                found[name] = Estimate(*(np.sqrt(part) for part in vars(square).values()))
        return found


def read_positions(reader: StateReader, candidates: Candidates, context: np.ndarray, alive: np.ndarray) -> Reading:
    """Positions on the screen, px.

    Args:
        reader: of the frames.
        candidates: truth and futures.
        context: uint8 [K, T, ...], the true frames before.
        alive: bool [K, H], whether the true episode still goes on.
    """
    truth = _each(reader.locate, candidates.truth)
    samples = {name: np.stack([_each(reader.locate, v) for v in video]) for name, video in candidates.videos.items()}
    ahead = constant_velocity(_each(reader.locate, context[:, -3:]), truth.shape[1])
    return Reading(
        "px", truth, samples, np.isfinite(truth[..., 0]) & alive, candidates.valid, euclidean, foreseen=ahead
    )  # fmt: skip


def read_quantity(quantity: Quantity, candidates: Candidates, position: Reading) -> Reading:
    """Another quantity of the state, in frames in which the object has a position."""
    read = quantity.read
    assert read is not None

    def located(video: np.ndarray, position: np.ndarray) -> np.ndarray:
        return np.where(np.isfinite(position[..., 0]), _each(read, video), np.nan)

    truth = located(candidates.truth, position.truth)
    samples = {
        name: np.stack([located(v, p) for v, p in zip(video, position.samples[name], strict=True)])
        for name, video in candidates.videos.items()
    }
    present = position.present & np.isfinite(truth)
    return Reading(
        quantity.metric, truth, samples, present, candidates.valid, quantity.distance, quantity.period
    )  # fmt: skip


def read_feature(candidates: Candidates, alive: np.ndarray) -> Reading:
    """Frames averaged down to about 16 pixels of height, as vectors; their distance is the rms difference in grey levels."""

    def feature(frames: np.ndarray) -> np.ndarray:
        return shrink(frames, FEATURE_HEIGHT).reshape(len(frames), -1).astype(np.float32)

    samples = {name: np.stack([_each(feature, v) for v in video]) for name, video in candidates.videos.items()}
    return Reading("grey", _each(feature, candidates.truth), samples, alive, candidates.valid, root_mean_square)


def _each(read: Callable[[np.ndarray], np.ndarray], videos: np.ndarray) -> np.ndarray:
    """One video [H, ...] of [K, H, ...] after the other, to save memory."""
    return np.stack([read(video) for video in videos])


def _mean(values_KH: np.ndarray, where_KH: np.ndarray) -> np.ndarray:
    there = np.isfinite(values_KH) & where_KH
    return np.where(there.any(0), np.where(there, values_KH, 0).sum(0) / np.maximum(there.sum(0), 1), np.nan)


def constant_velocity(before_KT2: np.ndarray, horizon: int, over: int = 2) -> np.ndarray:
    """Positions [K, H, 2] if the last two seen of the context, `over` frames apart, went on like that; NaN if not seen."""
    over = min(over, before_KT2.shape[1] - 1)
    last = before_KT2[:, -1]
    velocity = (last - before_KT2[:, -1 - over]) / max(over, 1)
    return last[:, None] + velocity[:, None] * np.arange(1, horizon + 1)[:, None]


def skill(energies: dict[str, np.ndarray], bootstrap: Bootstrap) -> Estimate:
    """(ES_constant_velocity - ES_model) / (ES_constant_velocity - ES_simulator) by horizon, over the same frames for all.

    NaN where constant velocity is no worse than the simulator, or no frame has all three.
    """
    names = ("rollout", "floor", "constant_velocity")
    there = np.isfinite([energies[name] for name in names]).all(0)
    (model, model_R), (floor, floor_R), (cv, cv_R) = (
        bootstrap.sums(np.where(there, energies[n], 0)) for n in names
    )  # fmt: skip

    def ratio(model: np.ndarray, floor: np.ndarray, cv: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(cv > floor, (cv - model) / (cv - floor), np.nan)

    return bootstrap.estimate(ratio(model, floor, cv), ratio(model_R, floor_R, cv_R))
