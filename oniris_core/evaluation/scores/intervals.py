"""95 % intervals by resampling whole episodes (the percentile bootstrap; Efron and Tibshirani 1993, chapter 13).

Every measure is a sum over episodes divided by another sum over episodes, so one matrix of weights serves them all.
Axes: R resamples, K episodes.
"""

from dataclasses import dataclass

import numpy as np

from oniris_core.common.seeds import numpy_rng


@dataclass(frozen=True)
class Estimate:
    """A value [...] and the interval round it; NaN where there is nothing to measure."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Bootstrap:
    """How often each resample holds each episode; the same for all measures, so that differences are paired."""

    def __init__(self, episodes: int, resamples: int, seed: int):
        self.episodes = episodes
        chance = np.full(episodes, 1 / episodes)
        self._weights_RK = numpy_rng(seed, "bootstrap", episodes).multinomial(episodes, chance, resamples).astype(float)

    def sums(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sums over episodes of values [K, ...]: [...], and resampled [R, ...]."""
        return values.sum(0), np.tensordot(self._weights_RK, values, axes=1)

    def estimate(self, value: np.ndarray, resampled: np.ndarray) -> Estimate:
        """The interval that resampled values [R, ...] give; resamples in which nothing could be measured do not count."""
        defined = np.where(np.isfinite(resampled).any(0), resampled, 0)
        low, high = np.nanpercentile(defined, (2.5, 97.5), axis=0)
        there = np.isfinite(value)
        return Estimate(value, np.where(there, low, np.nan), np.where(there, high, np.nan))

    def ratio(self, numerator: np.ndarray, denominator: np.ndarray) -> Estimate:
        """Sum of numerators [K, ...] over sum of denominators [K, ...]."""
        (n, n_R), (d, d_R) = self.sums(numerator), self.sums(denominator)
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.estimate(np.where(d > 0, n / d, np.nan), np.where(d_R > 0, n_R / d_R, np.nan))

    def mean(self, values: np.ndarray) -> Estimate:
        """Mean over episodes of values [K, ...]; NaNs do not count."""
        there = np.isfinite(values)
        return self.ratio(np.where(there, values, 0), there.astype(float))


def add(metrics: dict[str, float | int], name: str, found: Estimate, interval: bool = True) -> None:
    """Put a single value, with its interval, into flat metrics; what is not finite is left out."""
    values = {"": found.value, **({"_low": found.low, "_high": found.high} if interval else {})}
    metrics.update({name + end: round(float(v), 4) for end, v in values.items() if np.isfinite(v)})
