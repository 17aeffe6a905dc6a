"""Power-function averages of weights and what can be made of several of them (arXiv 2312.02696, section 3, appendix C).

An average over a training of length T weighs the weights of time t by its profile p(t) = (gamma + 1) t^gamma / T^(gamma + 1).
Averages are linear in the weights, so a sum of averages is the average whose profile is the same sum of profiles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

WIDEST = 0.28
"""Above this relative width the profile would no longer rise."""


def exponent_of_width(width: float) -> float:
    """The exponent gamma whose averaging profile t^gamma has the relative standard deviation `width`.

    Solves width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) (eq. 126) by bisection; 0 < width < 0.28.
    """
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        variance = (middle + 1) / ((middle + 2) ** 2 * (middle + 3))
        low, high = (middle, high) if variance > width**2 else (low, middle)
    return (low + high) / 2


@dataclass(frozen=True)
class PowerProfile:
    """The profile of an average: its width relative to the time `end` it was taken at."""

    width: float
    end: float

    @cached_property
    def exponent(self) -> float:
        """Gamma."""
        return exponent_of_width(self.width)

    def dot(self, other: "PowerProfile") -> float:
        """The integral of p_a(t) p_b(t) dt in closed form, a being the one that ends first.

        (gamma_a + 1) (gamma_b + 1) / (gamma_a + gamma_b + 1) * (T_a / T_b)^gamma_b / T_b.
        """
        a, b = sorted((self, other), key=lambda profile: profile.end)
        scale = (a.exponent + 1) * (b.exponent + 1) / (a.exponent + b.exponent + 1)
        return scale * (a.end / b.end) ** b.exponent / b.end


def combine(profiles: Sequence[PowerProfile], target: PowerProfile) -> tuple[np.ndarray, float]:
    """The sum of profiles that comes nearest to `target` in least squares.

    The weights are made to sum to 1, so that a weight of the network that never moved stays exactly where it is.

    Returns:
        Float64 weights, one per profile, and the distance left, relative to the target's own norm.
    """
    gram = np.array([[a.dot(b) for b in profiles] for a in profiles])
    shared = np.array([a.dot(target) for a in profiles])
    ones = np.ones((len(profiles), 1))
    system = np.block([[gram, ones], [ones.T, np.zeros((1, 1))]])  # the last unknown is the constraint's multiplier
    weights = np.linalg.lstsq(system, np.append(shared, 1.0))[0][:-1]
    norm = target.dot(target)
    left = norm - 2 * weights @ shared + weights @ gram @ weights
    return weights, float(np.sqrt(max(left, 0.0) / norm))
