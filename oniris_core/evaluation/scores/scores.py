"""How good a set of samples is as a forecast: proper scores, which neither an average nor a blur can win.

Axes: S samples of each forecast, then any others, such as K episodes and H horizons; what is compared may have axes of its own
behind them (x and y of a position). A NaN is a sample that does not show what is asked for.
"""

from collections.abc import Callable

import numpy as np

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Two arrays of values to how far apart they are; NaN where one of them is not known."""


def euclidean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance of points [..., D]."""
    return np.linalg.norm(a - b, axis=-1)


def root_mean_square(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Root-mean-square difference of vectors [..., D]."""
    return np.sqrt(np.square(a - b).mean(-1))


def fair_energy_score(samples_S: np.ndarray, truth: np.ndarray, distance: Distance, lost: np.ndarray) -> np.ndarray:
    """ES = mean_s |X_s - y| - sum_{s != t} |X_s - X_t| / (2 S (S - 1)), in the unit of the distance; smaller is better.

    The energy score of Gneiting and Raftery 2007 ("Strictly proper scoring rules, prediction, and estimation", eq. 22) in
    the form of Ferro 2014 ("Fair scores for ensemble forecasts"), whose expectation is the same for any number of samples:
    it is smallest if the samples are drawn from what the truth is drawn from. For an angle and the short way round it is
    that of Grimit et al. 2006 (circular CRPS). If all samples are alike it is their error.

    A sample that does not show what the truth shows errs by `lost`, and is at no distance from the others: as one that
    differs from them it would be paid for as spread, and losing the object could pay.

    Args:
        samples_S: [S, ...].
        truth: [...].
        distance: see `Distance`.
        lost: the error of a sample that is NaN, of a shape that fits [...].

    Raises:
        ValueError: fewer than two samples.
    """
    S = len(samples_S)
    if S < 2:
        raise ValueError(f"an energy score needs at least two samples, not {S}")
    error = distance(samples_S, truth[None])
    error = np.where(np.isfinite(error), error, lost).mean(0)
    apart = np.zeros_like(error)  # of each pair once
    for s in range(1, S):
        apart += np.nan_to_num(distance(samples_S[:s], samples_S[s : s + 1])).sum(0)
    return error - apart / (S * (S - 1))


def spread_and_error(
    samples_S: np.ndarray, truth: np.ndarray, mean: np.ndarray, distance: Distance
) -> tuple[np.ndarray, np.ndarray]:
    """Squared spread of the samples, times (n + 1) / n, and squared error of their mean: NaN with fewer than two.

    Over many forecasts the two have the same mean if truth and samples are drawn alike (Fortin et al. 2014, "Why should
    ensemble spread match the RMSE of the ensemble mean?"): samples vary round their own mean by s^2, and the truth
    round that mean by s^2 (1 + 1/n). n are the samples that show what is asked for.

    Args:
        samples_S: [S, ...].
        truth: [...].
        mean: [...], of the samples that are not NaN.
        distance: see `Distance`.
    """
    square = np.square(distance(samples_S, mean[None]))
    seen = np.isfinite(square)
    n = seen.sum(0)
    spread = np.where(seen, square, 0).sum(0) / np.maximum(n - 1, 1) * (n + 1) / np.maximum(n, 1)
    error = np.square(distance(mean, truth))
    known = (n > 1) & np.isfinite(error)
    return np.where(known, spread, np.nan), np.where(known, error, np.nan)


def mean_of(samples_S: np.ndarray, period: float | None = None) -> np.ndarray:
    """Mean over S of the samples that are not NaN; of what repeats after `period` the direction of the mean vector."""
    seen = np.isfinite(samples_S)
    count = seen.sum(0)
    if period is None:
        mean = np.where(seen, samples_S, 0).sum(0) / np.maximum(count, 1)
    else:
        vector = np.where(seen, np.exp(2j * np.pi * np.where(seen, samples_S, 0) / period), 0).sum(0)
        mean = np.angle(vector) * period / (2 * np.pi)
    return np.where(count > 0, mean, np.nan)
