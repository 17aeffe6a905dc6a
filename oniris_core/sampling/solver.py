"""EDM's second-order solver (arXiv 2206.00364, algorithm 2) for any denoising function."""

import math
from collections.abc import Callable

from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]
"""(x, sigma) to the expected clean x."""

Observer = Callable[[int, float, Tensor, Tensor], None]
"""(step, sigma, x, denoised) at every noise level."""


def heun(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    churn: float,
    noise: Callable[[], Tensor],
    observe: Observer | None = None,
) -> Tensor:
    """Follow the probability flow from noise level sigmas[0] to the last.

    Args:
        denoise: the denoising function.
        x: noised at sigmas[0].
        sigmas: [N + 1], falling; a last 0 is reached with a first-order step.
        churn: S_churn: noise renewed on the way, at most a factor of sqrt(2) of sigma in a step; 0 is deterministic.
        noise: gives unit noise of x's shape; asked only if churn is above 0.
        observe: told of every step.

    Returns:
        x at the last noise level.
    """
    gamma = min(churn / (len(sigmas) - 1), math.sqrt(2) - 1)
    for step, (sigma, below) in enumerate(zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True)):
        if gamma > 0:
            raised = sigma * (1 + gamma)
            x, sigma = x + math.sqrt(raised**2 - sigma**2) * noise(), raised
        denoised = denoise(x, sigma)
        if observe is not None:
            observe(step, sigma, x, denoised)
        slope = (x - denoised) / sigma
        moved = x + (below - sigma) * slope
        if below > 0:
            moved = x + (below - sigma) * 0.5 * (slope + (moved - denoise(moved, below)) / below)
        x = moved
    return x
